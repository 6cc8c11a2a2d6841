"""Keep what was found: `python studies/protein_unirep/collect.py [--study runs/protein_unirep] [--recipe runs/protein_small]`.

Of the study that `run.py` made results.json, of a run of recipes/protein_small.toml with its steering studies recipe.json, both beside this file; then the
README's tables from the two files as they stand, with the forms of studies/protein.
"""

import argparse
import json
import platform
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
from studies.common.results import fill, table  # noqa: E402
from studies.protein import claims, tables  # noqa: E402
from studies.protein.collect import evaluation_rows, rounded, steering_rows  # noqa: E402
from studies.protein.tables import Rows  # noqa: E402

import sparselight as sl  # noqa: E402
from sparselight.files import write_bytes  # noqa: E402
from sparselight.interpret import is_supported  # noqa: E402
from sparselight.records import Card, EvalRecord, RunRecord, SequenceSteeringRecord, StageRecord  # noqa: E402

KINDS = ("signal peptide", "transmembrane region", "topological domain")
SHOWN = 4  # cards of a kind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path)
    parser.add_argument("--recipe", type=Path)
    given = parser.parse_args()
    if given.study:
        keep(given.study, HERE / "results.json")
    if given.recipe:
        keep_recipe(given.recipe, HERE / "recipe.json")
    found, recipe = (json.loads((HERE / name).read_text(encoding="utf-8")) for name in ("results.json", "recipe.json"))
    rows, own, readme = found["rows"], recipe["rows"], HERE / "README.md"
    write_bytes(readme, fill(readme.read_text(encoding="utf-8"), {
        "signal": lambda: tables.label_table(rows, tables.SIGNAL), "helix": lambda: tables.label_table(rows, tables.HELIX),
        "association": lambda: tables.association_table(rows), "rules": lambda: tables.rules_table(rows),
        "cards": lambda: cards_table(own), "claims": lambda: verdicts_table(rows, own),
        "judges": lambda: tables.judges_table(own), "steering": lambda: tables.steering_table(own),
        "settings": lambda: tables.settings_table(found["settings"])}).encode())


def keep_recipe(run: Path, path: Path) -> None:
    """The best cards of each kind of annotation, how many are supported, what the SAE and its controls leave unexplained, seconds, and the arms of every
    steering study."""
    record = RunRecord.load(run / "run.json")
    evaluation = EvalRecord.load(run / record.stages["evaluate"] / "evaluation.json")
    seconds = sum(StageRecord.load(run / place / "record.json").wall_s for place in record.stages.values())
    cards = [card for card in sl.open_run(run).cards if card.source == "base" and card.explanation and card.evidence]
    rows: Rows = [{"what": "run", "seconds": round(seconds), "seed": record.recipe["train"]["seed"]}]
    rows += [rounded({"what": "value", "coder": row.coder, "dataset": row.dataset, "metric": row.metric, "value": row.value.value, "low": row.value.low,
                      "high": row.value.high}) for row in evaluation.rows if row.metric in ("fvu", "ce_recovered_mean") and row.value is not None]
    for kind in KINDS:
        own = [card for card in cards if kind in card.explanation.label.partition("=")[0]]
        own.sort(key=lambda card: -(card.evidence.f1.low or 0.0))
        rows += [{"what": "card", "kind": kind, "n_supported": sum(map(is_supported, own)), **card_row(card)} for card in own[:SHOWN]]
    for study in sorted(run.glob("steering/*/steering.json")):
        goal = SequenceSteeringRecord.load(study).goal
        rows += [{**row, "coder": "topk", "goal": goal} for row in steering_rows({}, study)]
    head = f'{{"machine": {json.dumps(f"{platform.machine()}, {platform.system()}")}, "rows": [\n'
    write_bytes(path, (head + ",\n".join(json.dumps(row) for row in rows) + "\n]}\n").encode())


def card_row(card: Card) -> dict[str, Any]:
    evidence = card.evidence
    values = {name: getattr(evidence, name).value for name in ("f1", "precision", "recall")}
    return rounded({"latent": card.latent, "text": card.explanation.text, "grade": card.grade, **values, "f1_low": evidence.f1.low, "f1_high": evidence.f1.high,
                    "shuffled": evidence.control_f1.high, "fire_rate": card.fire_rate})


def verdicts_table(rows: Rows, own: Rows) -> str:
    """The claims of studies/protein, of the study and of the recipe's steering."""
    found = [*claims.better_than_controls(rows), *claims.label_claims(rows), *claims.rule_claims(rows), *claims.steering_claims(own)]
    return table(["Claim", "Found", "Verdict"], [list(claim) for claim in found])


def cards_table(rows: Rows) -> str:
    """The best cards of each kind."""
    return table(["Latent", "Explanation", "Grade", "F1 held out", "Precision", "Recall", "Shuffled labels, largest", "Fires on"], [
        [str(row["latent"]), row["text"], row["grade"], tables.with_interval(row, "f1"), tables.shown(row["precision"]), tables.shown(row["recall"]),
         tables.shown(row["shuffled"], 3), f"{row['fire_rate']:.2%}"] for row in tables.of(rows, "card")])


def keep(run: Path, path: Path) -> None:
    """One row a value."""
    rows: Rows = []
    for folder in sorted(run.glob("layer-*/seed-*")):
        rows += evaluation_rows({"layer": layer_of(folder.parent), "seed": int(folder.name.rpartition("-")[2])}, folder / "evaluation")
    for probes in sorted(run.glob("layer-*/probes.json")):
        rows += [{"layer": layer_of(probes.parent), "seed": None, "what": "probe", **rounded(row)} for row in json.loads(probes.read_text(encoding="utf-8"))]
    settings = json.loads((run / "settings.json").read_text(encoding="utf-8"))
    head = f'{{"machine": {json.dumps(f"{platform.machine()}, {platform.system()}")}, "settings": {json.dumps(settings)}, "rows": [\n'
    write_bytes(path, (head + ",\n".join(json.dumps(row) for row in rows) + "\n]}\n").encode())


def layer_of(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


if __name__ == "__main__":
    main()
