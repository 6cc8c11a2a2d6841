"""Keep the results of finished demo runs: `python studies/demo/collect.py runs/demo [more run folders ...]`.

Writes results.json beside this file: for every run its settings that differ from the shipped recipe, seconds a stage, sizes, the
measurements and their paired differences, and the counts of supported features. README and docs take their numbers from it.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from sparselight.interpret import domain_cards, is_supported, load_catalogue
from sparselight.pipeline import load_recipe
from sparselight.records import EvalRecord, EvalRow, RunRecord, StageRecord
from sparselight.report.headline import headline_sentences
from sparselight.report.select_cards import best_cards

HERE = Path(__file__).parent


def flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted names."""
    result = {}
    for name, value in table.items():
        result |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return result


def measured(rows: list[EvalRow]) -> list[dict[str, Any]]:
    wanted = {"value", "low", "high", "n", "unit"}
    return [{"coder": row.coder, "reference": row.reference,
             "dataset": row.dataset, "metric": row.metric, **row.value.model_dump(include=wanted)} for row in rows if not row.setting]


def collect(folder: Path) -> dict[str, Any]:
    run = RunRecord.load(folder / "run.json")
    records = {stage: StageRecord.load(folder / place / "record.json") for stage, place in run.stages.items()}
    evaluation = EvalRecord.load(folder / run.stages["evaluate"] / "evaluation.json")
    cards = load_catalogue(folder / run.stages["explain"])
    shipped = flat(load_recipe("demo").model_dump(mode="json"))
    supported = [card for card in cards if is_supported(card)]
    names = [card.explanation.text for card in best_cards(domain_cards(supported), 40) if card.explanation]
    return {
        "changed": {name: value for name, value in flat(run.recipe).items() if shipped.get(name) != value},
        "machine": records["report"].machine, "version": records["report"].sparselight_version,
        "wall_s": {stage: round(seconds, 1) for stage, seconds in run.wall_s.items()}, "total_s": round(sum(run.wall_s.values()), 1),
        "sizes": {stage: record.summary for stage, record in records.items()},
        "headline": headline_sentences(evaluation), "rows": measured(evaluation.rows), "differences": measured(evaluation.differences),
        "n_tokens": evaluation.n_tokens, "n_supported": len(supported), "n_domain_supported": len(domain_cards(supported)),
        "domain_features": names,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    results = [collect(folder) for folder in parser.parse_args().runs]
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    for result in results:
        print(result["changed"], result["total_s"], "s", *result["headline"], sep="\n  ")


if __name__ == "__main__":
    main()
