"""What was tried to break the explorer, from benchmarks/results/explorer_safety.json. Used by make_docs.py."""

import json
from pathlib import Path

from docs_activations import table

RESULT = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "explorer_safety.json"


def explorer_safety_block() -> str:
    """Requests by operation, payloads by page."""
    if not RESULT.exists():
        return "`python scripts/explorer_safety.py` counts it."
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    asked, shown = result["requests"], result["pages"]
    words = (f"`python scripts/explorer_safety.py`: {asked['n_requests']:,} requests made from the schema of {len(asked['operations'])} operations, "
             f"{len(asked['failures'])} failures; {shown['n_payloads']} hostile strings, {shown['n_pages_opened']:,} pages opened in Chromium "
             f"{result['browser']}, {len(shown['faults'])} faults.")
    rows = [(page, *(f"{own[modality]}" for modality in shown["modalities"])) for page, own in shown["payloads_on_page"].items()]
    rows.append(("any page", *(f"{shown['payloads_anywhere'][modality]}" for modality in shown["modalities"])))
    classes = sorted({name for own in asked["operations"].values() for name in own})
    lines = [(f"`{operation}`", *(f"{own.get(name, 0)}" for name in classes)) for operation, own in asked["operations"].items()]
    return "\n".join([words, "", *table((f"Of {shown['n_payloads']} strings, as text on the page", *shown["modalities"]), rows),
                      *table(("Requests answered with", *classes), lines)]).rstrip()
