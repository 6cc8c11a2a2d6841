"""Keep what `run.py` found: `python studies/protein/collect.py runs/protein/study`; without a folder, from the results.json that is there.

Writes results.json beside this file (association and rules by coder, layer and seed, paired differences, the best latent of each label, probes, every arm
of the steering studies), the figures, and the README's tables, which stand between `<!-- table:NAME -->` and `<!-- end -->` and are made in `tables.py`.
"""

import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
from studies.common.results import fill  # noqa: E402
from studies.protein import claims, tables  # noqa: E402
from studies.protein.tables import Rows  # noqa: E402

from sparselight.files import write_bytes  # noqa: E402
from sparselight.records import EvalRecord, SequenceSteeringRecord  # noqa: E402

METRICS = {"association_f1", "association_null_f1", "association_labels", "association_supported_frac", "rule_labels", "rule_pairs", "rule_chance_pairs",
           "rule_supported_frac", "fvu", "l0", "dead_frac"}
COLUMNS = ("coder", "kind", "label", "latent", "fit_score", "f1", "f1_low", "f1_high", "null_f1_max", "f1_everywhere", "precision", "recall", "n_labelled",
           "n_spans", "q_permutation")
ARM = ("kind", "strength", "low_complexity", "composition_distance", "hydropathy", "identity", "pseudo_perplexity", "p")


def main() -> None:
    path = HERE / "results.json"
    if len(sys.argv) > 1:
        keep(Path(sys.argv[1]), path)
    found = json.loads(path.read_text(encoding="utf-8"))
    rows: Rows = found["rows"]
    for name, svg in tables.figures(rows).items():
        write_bytes(HERE / f"{name}.svg", svg.encode())
    made: dict[str, Callable[[], str]] = {
        "settings": lambda: tables.settings_table(found["settings"]), "claims": lambda: claims.claims_table(rows),
        "association": lambda: tables.association_table(rows), "signal": lambda: tables.label_table(rows, tables.SIGNAL),
        "helix": lambda: tables.label_table(rows, tables.HELIX), "labels": lambda: tables.labels_table(rows), "ceiling": lambda: tables.ceiling_table(rows),
        "rules": lambda: tables.rules_table(rows), "judges": lambda: tables.judges_table(rows), "steering": lambda: tables.steering_table(rows)}
    readme = HERE / "README.md"
    write_bytes(readme, fill(readme.read_text(encoding="utf-8"), made).encode())


def keep(run: Path, path: Path) -> None:
    """One row a value."""
    rows: Rows = []
    for folder in sorted(run.glob("resid_post.*/seed-*")):
        where = {"layer": int(folder.parent.name.rpartition(".")[2]), "seed": int(folder.name.rpartition("-")[2])}
        rows += evaluation_rows(where, folder / "evaluation")
        for study in sorted(folder.glob("steering/*/steering.json")):
            rows += steering_rows(where, study)
    for folder in sorted(run.glob("resid_post.*")):
        where = {"layer": int(folder.name.rpartition(".")[2]), "seed": None}
        rows += evaluation_rows(where, folder / "feed_forward")
        probes = folder / "probes.json"
        rows += [{**where, "what": "probe", **rounded(row)} for row in (json.loads(probes.read_text(encoding="utf-8")) if probes.is_file() else ())]
    settings = json.loads((run / "settings.json").read_text(encoding="utf-8"))
    head = f'{{"machine": {json.dumps(f"{platform.machine()}, {platform.system()}")}, "settings": {json.dumps(settings)}, "rows": [\n'
    write_bytes(path, (head + ",\n".join(json.dumps(row) for row in rows) + "\n]}\n").encode())


def evaluation_rows(where: dict[str, Any], folder: Path) -> Rows:
    """Values, differences and best latents of one evaluation; nothing where it is not finished."""
    if not (folder / "evaluation.json").is_file():
        return []
    record = EvalRecord.load(folder / "evaluation.json")

    def numbers(row: Any) -> dict[str, Any]:
        return {"metric": row.metric, "setting": row.setting, **{name: rounded(getattr(row.value, name)) for name in ("value", "low", "high")}}

    rows = [{**where, "what": "value", "coder": row.coder, **numbers(row)} for row in record.rows if row.metric in METRICS]
    rows += [{**where, "what": "difference", "coder": row.coder, "reference": row.reference, **numbers(row)} for row in record.differences
             if (row.metric, row.setting) == ("association_f1", "spans") and row.reference != record.base]
    best = pq.read_table(folder / "tables" / "association.association_labels.parquet").to_pylist()
    return rows + [{**where, "what": "label", **{name: rounded(row[name]) for name in COLUMNS}} for row in best
                   if row["rank"] == 1 and row["criterion"] == "f1" and row["level"] == "spans"]


def steering_rows(where: dict[str, Any], path: Path) -> Rows:
    record = SequenceSteeringRecord.load(path)
    own = {**where, "what": "arm", "coder": record.source, "goal": record.title, "latent": record.latent}
    judge = {name: rounded(getattr(record.judge, name)) for name in ("auroc", "precision", "recall")}
    arms = [{**own, **{name: rounded(getattr(arm, name)) for name in ARM}, "hits": round(arm.success.value * arm.success.n), "n": arm.success.n,
             "chance": rounded(arm.chance.value)} for arm in record.arms]
    return [{**own, "what": "judge", **judge, "beats": record.beats, "natural": rounded(record.judge.natural.value), "natural_n": record.judge.natural.n,
             "natural_without": rounded(record.judge.natural_without.value) if record.judge.natural_without else None}, *arms]


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: rounded(own) for name, own in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
