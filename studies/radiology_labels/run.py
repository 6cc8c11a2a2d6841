"""How well the rule-based labeller of reports agrees with people: against the index terms of Open-i, finding by finding.

    python studies/radiology_labels/run.py OPENI_FOLDER      # the folder with indiana_reports.csv

Open-i's reports were indexed by hand (Demner-Fushman et al. 2016, doi:10.1093/jamia/ocv080); a finding is true where a term of it is there (terms.py). The
rules were written with a look at studies of even number; the table is over the odd ones (`test`), the even ones stand beside it (`seen`). Writes results.json
and the table of the README. Half a minute.
"""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from terms import TERMS, matches

from sparselight.corpus import CorpusConfig, load_corpus
from sparselight.corpus.image_text.labeller import ReportLabels, label_report
from sparselight.corpus.image_text.study import table_rows
from sparselight.corpus.sources import Source
from sparselight.evaluate.statistics import wilson

HERE = Path(__file__).parent
COUNTED = {"present": ("present",), "present_or_uncertain": ("present", "uncertain")}
NOT_INDEXED = "no indexing"


def measure(folder: Path) -> dict[str, Any]:
    """Agreement of all findings on both halves."""
    path = next(path for path in sorted(folder.iterdir()) if path.name.startswith("indiana_reports.csv"))
    terms = {row.fields["uid"]: [term.strip().lower() for term in row.fields["MeSH"].split(";")] for row in table_rows(Source(path, path.name))}
    corpus = load_corpus(CorpusConfig.parse({"kind": "image_text", "root": str(folder), "image_text": {"layout": "openi", "missing_images": "keep",
                                                                                                       "no_findings": "skip"}}))
    halves: dict[str, list[tuple[Sequence[str], ReportLabels]]] = {"test": [], "seen": []}
    for example in corpus:
        if NOT_INDEXED not in terms[example.id]:
            halves["test" if int(example.id) % 2 else "seen"].append((terms[example.id], label_report(example.text)))
    return {"source": "Open-i, indiana_reports.csv", "fingerprint": corpus.fingerprint(), "n_reports": {name: len(half) for name, half in halves.items()},
            "findings": {finding: {name: _agreement(finding, half) for name, half in halves.items()} for finding in TERMS},
            "normal": {name: _normal(half) for name, half in halves.items()}}


def _agreement(finding: str, half: Sequence[tuple[Sequence[str], ReportLabels]]) -> dict[str, Any]:
    truth = [matches(finding, terms) for terms, _ in half]
    found: dict[str, Any] = {"n_indexed": sum(truth)}
    for name, statuses in COUNTED.items():
        said = [labels.findings.get(finding) in statuses for _, labels in half]
        found[name] = _rates(truth, said)
    return found


def _normal(half: Sequence[tuple[Sequence[str], ReportLabels]]) -> dict[str, Any]:
    return {"n_indexed": sum("normal" in terms for terms, _ in half), "normal": _rates(["normal" in terms for terms, _ in half],
                                                                                       [labels.normal for _, labels in half])}


def _rates(truth: Sequence[bool], said: Sequence[bool]) -> dict[str, Any]:
    """Precision and recall with Wilson intervals; null where there is nothing to take a share of."""
    both = sum(one and other for one, other in zip(truth, said, strict=True))
    return {name: wilson(both, sum(of)).model_dump(mode="json", include={"value", "low", "high", "n"}) if sum(of) else None for name,
            of in (("precision", said), ("recall", truth))}


def table(results: Mapping[str, Any]) -> str:
    """The table of the README, over the odd studies."""
    lines = ["| Finding | Studies indexed | Precision, present | Recall, present | Precision, or uncertain | Recall, or uncertain |",
             "| --- | --- | --- | --- | --- | --- |"]
    for finding, halves in results["findings"].items():
        half = halves["test"]
        cells = [_cell(half[name][rate]) for name in COUNTED for rate in ("precision", "recall")]
        lines.append(f"| {finding} | {half['n_indexed']} | {' | '.join(cells)} |")
    half = results["normal"]["test"]
    cells = [_cell(half["normal"][rate]) for rate in ("precision", "recall")]
    return "\n".join([*lines, f"| (no finding: report = normal) | {half['n_indexed']} | {' | '.join(cells)} | | |"])


def _cell(rate: Mapping[str, float] | None) -> str:
    return f"{rate['value']:.2f} ({rate['low']:.2f} to {rate['high']:.2f})" if rate else "-"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    results = measure(parser.parse_args().folder)
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    readme = HERE / "README.md"
    readme.write_text(re.sub(r"(<!-- table:labels -->\n).*?(<!-- end -->)", lambda match: f"{match[1]}{table(results)}\n{match[2]}", readme.read_text(),
                             flags=re.S))
    print(table(results))
