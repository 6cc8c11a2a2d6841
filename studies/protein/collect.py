"""Keep what `run.py` found: `python studies/protein/collect.py runs/protein`; without a folder, from the results.json that is there.

Writes results.json beside this file (association and rules by coder and layer, the best latent of each label, every arm of the steering studies), labels.svg
and the README's tables, which stand between `<!-- table:NAME -->` and `<!-- end -->`.
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
from studies.common.charts import lines  # noqa: E402
from studies.common.results import fill, table  # noqa: E402

from sparselight.evaluate.statistics import wilson  # noqa: E402
from sparselight.files import write_bytes  # noqa: E402
from sparselight.records import EvalRecord, SequenceSteeringRecord  # noqa: E402

METRICS = {"association_f1", "association_null_f1", "association_labels", "association_supported_frac", "rule_labels", "rule_pairs", "rule_chance_pairs",
           "rule_supported_frac", "fvu", "l0"}
COLUMNS = ("coder", "kind", "label", "latent", "f1", "f1_low", "f1_high", "null_f1_max", "f1_everywhere", "precision", "recall", "q_permutation")
ARM = ("kind", "strength", "low_complexity", "composition_distance", "hydropathy", "identity", "pseudo_perplexity", "p")
RULES = ("precision or recall", "F1 by domain", "F1 by domain, carried", "ours")
PAPER = (24, 180)  # arXiv 2502.09135: steered sequences with a zinc-finger motif
NAMES = {"relu": "ReLU", "topk": "TopK", "matryoshka": "Matryoshka", "ortsae": "OrtSAE"}
Rows = list[dict[str, Any]]


def main() -> None:
    path = HERE / "results.json"
    if len(sys.argv) > 1:
        keep(Path(sys.argv[1]), path)
    found = json.loads(path.read_text(encoding="utf-8"))
    rows: Rows = found["rows"]
    write_bytes(HERE / "labels.svg", figure(rows).encode())
    tables: dict[str, Callable[[], str]] = {
        "settings": lambda: table(["Setting", "Value"], [[name, str(value)] for name, value in found["settings"].items()]),
        "labels": lambda: labels_table(rows), "association": lambda: association_table(rows), "rules": lambda: rules_table(rows),
        "steering": lambda: steering_table(rows), "claims": lambda: claims(rows)}
    readme = HERE / "README.md"
    write_bytes(readme, fill(readme.read_text(encoding="utf-8"), tables).encode())


def keep(run: Path, path: Path) -> None:
    """One row a value."""
    rows: Rows = []
    for folder in sorted(run.glob("resid_post.*/seed-*")):
        where = {"layer": int(folder.parent.name.rpartition(".")[2]), "seed": int(folder.name.rpartition("-")[2])}
        record = EvalRecord.load(folder / "evaluation" / "evaluation.json")
        rows += [{**where, "what": "value", "coder": row.coder, "metric": row.metric, "setting": row.setting,
                  **{name: rounded(getattr(row.value, name)) for name in ("value", "low", "high")}} for row in record.rows if row.metric in METRICS]
        best = pq.read_table(folder / "evaluation" / "tables" / "association.association_labels.parquet").to_pylist()
        rows += [{**where, "what": "label", **{name: rounded(row[name]) for name in COLUMNS}} for row in best
                 if row["rank"] == 1 and row["criterion"] == "f1" and row["level"] == "spans"]
        for study in sorted(folder.glob("steering/*/steering.json")):
            rows += list(steering_rows(where, study))
    settings = json.loads((run / "settings.json").read_text(encoding="utf-8"))
    head = f'{{"machine": {json.dumps(f"{platform.machine()}, {platform.system()}")}, "settings": {json.dumps(settings)}, "rows": [\n'
    write_bytes(path, (head + ",\n".join(json.dumps(row) for row in rows) + "\n]}\n").encode())


def steering_rows(where: dict[str, int], path: Path) -> Rows:
    record = SequenceSteeringRecord.load(path)
    own = {**where, "what": "arm", "coder": record.source, "goal": record.title, "latent": record.latent}
    judge = {name: rounded(getattr(record.judge, name)) for name in ("auroc", "precision", "recall")}
    arms = [{**own, **{name: rounded(getattr(arm, name)) for name in ARM}, "hits": round(arm.success.value * arm.success.n), "n": arm.success.n,
             "chance": rounded(arm.chance.value)} for arm in record.arms]
    return [{**own, "what": "judge", **judge, "beats": record.beats, "natural": rounded(record.judge.natural.value),
             "natural_without": rounded(record.judge.natural_without.value) if record.judge.natural_without else None}, *arms]


def rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def value_of(rows: Rows, coder: str, layer: int, metric: str, setting: str = "") -> float | None:
    return next((row["value"] for row in rows if row["what"] == "value" and (row["coder"], row["layer"], row["metric"], row["setting"]) ==
                 (coder, layer, metric, setting)), None)


def coders(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row["coder"] for row in rows if row["what"] == "value" and row["metric"] == "association_f1"))


def layers(rows: Rows) -> list[int]:
    return sorted({row["layer"] for row in rows})


def shown(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def association_table(rows: Rows) -> str:
    """Mean held-out F1 over labels, its null, and labels found, by coder and layer."""
    header = ["Coder", *(f"layer {layer}: F1 (shuffled)" for layer in layers(rows)), *(f"labels >= 0.5, layer {layer}" for layer in layers(rows))]
    lines_ = []
    for coder in coders(rows):
        f1 = [f"{shown(value_of(rows, coder, layer, 'association_f1', 'spans'))} ({shown(value_of(rows, coder, layer, 'association_null_f1', 'spans'))})"
              for layer in layers(rows)]
        lines_.append([NAMES.get(coder, coder), *f1, *(shown(value_of(rows, coder, layer, "association_labels", "spans"), 0) for layer in layers(rows))])
    return table(header, lines_)


def labels_table(rows: Rows) -> str:
    """Of every label, the best layer of each coder: held-out F1 with its interval, and the largest of the shuffles."""
    own = [row for row in rows if row["what"] == "label"]
    labels = sorted({(row["kind"], row["label"]) for row in own})
    names = coders(rows)
    lines_ = []
    for kind, label in labels:
        cells = []
        for coder in names:
            best = max((row for row in own if (row["coder"], row["kind"], row["label"]) == (coder, kind, label)), key=lambda row: row["f1"] or 0, default=None)
            cells.append("-" if best is None else f"{shown(best['f1'])} [{shown(best['f1_low'])}, {shown(best['f1_high'])}] at {best['layer']}")
        everywhere = next(row["f1_everywhere"] for row in own if (row["kind"], row["label"]) == (kind, label))
        lines_.append([f"{kind}={label}", *cells, shown(everywhere)])
    return table(["Label", *(NAMES.get(coder, coder) for coder in names), "firing everywhere"], lines_)


def rules_table(rows: Rows) -> str:
    """Pairs that each rule finds, by chance, and how many of them ours supports; summed over layers."""
    lines_ = []
    for coder in coders(rows):
        for rule in RULES:
            pairs = [(value_of(rows, coder, layer, "rule_pairs", rule) or 0, value_of(rows, coder, layer, "rule_chance_pairs", rule) or 0,
                      value_of(rows, coder, layer, "rule_supported_frac", rule) or 0) for layer in layers(rows)]
            n, chance = (sum(pair[index] for pair in pairs) for index in (0, 1))
            supported = sum(pair[0] * pair[2] for pair in pairs)
            lines_.append([NAMES.get(coder, coder), rule, f"{n:.0f}", f"{chance:.1f}", f"{chance / n:.0%}" if n else "-", f"{supported:.0f}"])
    return table(["Coder", "Rule", "Pairs", "with shuffled labels", "of them by chance", "that ours supports"], lines_)


def steering_table(rows: Rows) -> str:
    """Every arm of every study."""
    lines_ = []
    for row in (row for row in rows if row["what"] == "arm"):
        share = wilson(row["hits"], row["n"])
        lines_.append([NAMES.get(row["coder"], row["coder"]), row["goal"], row["kind"], f"{row['strength']:g}" if row["strength"] else "-",
                       f"{row['hits']} of {row['n']}", f"{share.value:.1%} [{share.low:.1%}, {share.high:.1%}]", f"{row['chance']:.1%}",
                       shown(row["hydropathy"]), shown(row["composition_distance"]),
                       f"{row['low_complexity']:.0%}", shown(row["identity"]), shown(row["pseudo_perplexity"], 1),
                       "-" if row["p"] is None else f"{row['p']:.2g}"])
    return table(["SAE", "Goal", "Arm", "Strength", "Hits", "Share", "Letters shuffled", "Hydropathy", "Distance of composition", "Low complexity", "Identity",
                  "Pseudo-perplexity", "p"], lines_)


def claims(rows: Rows) -> str:
    """Each claim with its numbers and verdict."""
    return table(["Claim", "Found", "Verdict"], [list(claim) for claim in (*association_claims(rows), *rule_claims(rows), *steering_claims(rows))])


def association_claims(rows: Rows) -> Rows:  # type: ignore[type-arg]
    saes = [coder for coder in coders(rows) if coder in NAMES]
    found: list[Any] = []
    for control in (coder for coder in coders(rows) if coder not in NAMES):
        better = [(coder, layer) for coder in saes for layer in layers(rows)
                  if (value_of(rows, coder, layer, "association_f1", "spans") or 0) > (value_of(rows, control, layer, "association_f1", "spans") or 0)]
        n = len(saes) * len(layers(rows))
        found.append((f"Latents fit annotations better than {control}", f"mean F1 higher in {len(better)} of {n} (architecture, layer)",
                      "holds" if len(better) == n else "does not hold" if not better else "depends"))
    return found


def rule_claims(rows: Rows) -> Rows:  # type: ignore[type-arg]
    found: list[Any] = []
    for rule in RULES[:3]:
        sums = [sum(value_of(rows, coder, layer, metric, rule) or 0 for coder in coders(rows) if coder in NAMES for layer in layers(rows))
                for metric in ("rule_pairs", "rule_chance_pairs")]
        pairs, chance = sums
        found.append((f"What the rule \"{rule}\" finds is more than chance", f"{pairs:.0f} pairs; {chance:.1f} with shuffled labels",
                      "nothing found" if not pairs else "holds" if chance < 0.05 * pairs else "inflated" if chance < 0.5 * pairs else "does not hold"))
    return found


def steering_claims(rows: Rows) -> Rows:  # type: ignore[type-arg]
    found: list[Any] = []
    for judge in (row for row in rows if row["what"] == "judge"):
        arms = [row for row in rows if row["what"] == "arm" and (row["coder"], row["goal"]) == (judge["coder"], judge["goal"])]
        best = max((arm for arm in arms if arm["kind"] == "latent"), key=lambda arm: arm["hits"])
        plain = next(arm for arm in arms if arm["kind"] == "no edit")
        wins = [kind for kind, won in judge["beats"].items() if won]
        paper = wilson(*PAPER)
        mark = f"; the paper {PAPER[0]} of {PAPER[1]} ({paper.value:.1%} [{paper.low:.1%}, {paper.high:.1%}])" if judge["goal"].startswith("pattern") else ""
        lost = [kind for kind, won in judge["beats"].items() if won is False]
        found.append((f"Holding up {NAMES.get(judge['coder'], judge['coder'])} latent {judge['latent']} writes {judge['goal']}",
                      f"{best['hits']} of {best['n']} at strength {best['strength']:g}, {plain['hits']} of {plain['n']} without an edit{mark}",
                      "holds" if not lost else f"not beyond {', '.join(lost)}" if wins else "not shown"))
    return found


def figure(rows: Rows) -> str:
    """Mean held-out F1 over layers, one line a coder."""
    series = {NAMES.get(coder, coder): {f"layer {layer}": {0: value} for layer in layers(rows)
                                        if (value := value_of(rows, coder, layer, "association_f1", "spans")) is not None} for coder in coders(rows)}
    return lines("labels", "Held-out F1 of the best latent, mean over labels", ("layer", "F1"), series)


if __name__ == "__main__":
    main()
