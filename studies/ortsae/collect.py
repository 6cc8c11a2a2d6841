"""Keep what `run.py` found: `python studies/ortsae/collect.py runs/ortsae`.

Writes results.json beside this file (every metric of every variant, one value a seed; searches, ladders, times), penalty.svg, and the tables of the
README, which stand between `<!-- table:NAME -->` and `<!-- end -->`. Intervals are 95 % t-intervals over seeds.
"""

import argparse
import json
import math
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from plot import penalty_svg
from scipy.stats import t as student
from sources import SOURCES
from variants import GAMMA, TITLES, VARIANTS, penalty_share

from sparselight.records import EvalRecord

HERE = Path(__file__).parent
PAPER = {  # arXiv 2509.22033, table 1: Gemma-2-2B, layer 20, 65,536 latents, l0 = 70
    "relu": (0.784, 0.549, 0.527, 0.371, 0.144), "batch_topk": (0.843, 0.354, 0.490, 0.220, 0.308), "matryoshka": (0.811, 0.148, 0.349, 0.015, 0.385),
    "ortsae": (0.836, 0.112, 0.340, 0.095, 0.322),
}
# Column -> metric and setting, by source where they differ.
TABLE_1: dict[str, Callable[[str], tuple[str, str]]] = {
    "Explained variance": lambda _: ("explained_variance", ""), "Mean max cosine": lambda _: ("mean_max_cosine", ""),
    "Composition rate": lambda _: ("composition_rate", ""),
    "Absorption": lambda source: ("absorption_full", {"planted": "parent=parent", "demo": "parent=token_class"}.get(source, "")),
    "SCR, n = 20": lambda _: ("scr_score", "n=20"),
}
TRUTH = {
    "Features found": ("planted_recall", "cos > 0.9"),
    "of these dark": ("planted_recall", "cos > 0.9, dark"),
    "children": ("planted_recall", "cos > 0.9, child"),
    "components": ("planted_recall", "cos > 0.9, component"),
    "Matching score": ("planted_cosine", "alive"),
    "Latents that are one feature": ("planted_precision", "cos > 0.9"),
    "a sum": ("planted_composition", ""),
    "Absorption, true": ("planted_absorption", ""),
    "Parent silent": ("planted_absorption", "silent"),
    "F1": ("planted_f1", ""),
}
OTHER = {
    "l0": ("l0", ""),
    "Dead": ("dead_frac", ""),
    "Max cosine, living": ("mean_max_cosine", "alive"),
    "Clustering at density 0.001": ("clustering_coefficient", "density 0.001"),
    "Unique against BatchTopK": ("unique_frac", "against batch_topk"),
    "CE recovered": ("ce_recovered_mean", ""),
    "Absorption fraction": ("absorption_fraction", "*"),
    "TPP, n = 20": ("tpp_score", "*n=20"),
    "Probe accuracy, k = 1": ("probe_accuracy", "*k=1"),
}


def collect(run: Path) -> dict[str, Any]:
    """Everything under a run folder of run.py, by source."""
    result: dict[str, Any] = {"machine": f"{platform.machine()}, {platform.system()}", "sources": {}}
    for name in SOURCES:
        folder = run / name
        seeds = sorted(folder.glob("seed-*/evaluation/evaluation.json"))
        if not seeds:
            continue
        records = [joined([EvalRecord.load(path), *(EvalRecord.load(other) for other in sorted(path.parents[1].glob("*/evaluation.json")) if other != path)])
                   for path in seeds]
        settings = json.loads((folder / "seed-0" / "batch_topk" / "training.json").read_text())["config"]
        result["sources"][name] = {
            "settings": {key: settings[key] for key in ("n_latents", "k", "n_tokens", "batch_tokens", "lr", "normalize")},
            "n_seeds": len(records), "n_held_out_tokens": records[0].n_tokens, "values": values_by_seed(records), "undefined": undefined(records),
            "penalty_share": {coder: [penalty_share(path.parents[1] / coder, GAMMA) for path in seeds] for coder in ("ortsae", "ortsae_5")},
            **{key: read(folder / f"{place}.json") for key, place in (("l1_search", "search/l1"), ("ladder", "ladder"), ("step_times", "step_times"))},
        }
    result["penalty"] = read(run / "penalty.json")
    return result


def joined(records: list[EvalRecord]) -> EvalRecord:
    """The evaluations of one seed as one record; what stands in several is that of the first."""
    first, *others = records
    known = {(row.coder, row.metric, row.setting) for row in first.rows}
    rows = [row for other in others for row in other.rows if (row.coder, row.metric, row.setting) not in known]
    left = [item for item in first.undefined if item.family not in {family for other in others for family in other.families}]
    return first.model_copy(update={"rows": [*first.rows, *rows], "undefined": [*left, *(item for other in others for item in other.undefined)]})


def read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def values_by_seed(records: list[EvalRecord]) -> dict[str, dict[str, list[float | None]]]:
    """Coder -> `metric|setting` -> one value a seed, None where a seed lacks it."""
    found: dict[str, dict[str, list[float | None]]] = {}
    for number, record in enumerate(records):
        for row in record.rows:
            values = found.setdefault(row.coder, {}).setdefault(f"{row.metric}|{row.setting}", [None] * len(records))
            values[number] = float(f"{row.value.value:.6g}")
    return found


def undefined(records: list[EvalRecord]) -> list[str]:
    """What has no value, and why, once each."""
    return sorted({f"{item.coder}: {item.metric} {item.setting}: {item.why}" for record in records for item in record.undefined if item.coder in VARIANTS})


def look_up(source: dict[str, Any], coder: str, metric: str, setting: str) -> list[float] | None:
    """One value a seed; a setting that begins with * is the first that ends so."""
    own = source["values"].get(coder, {})
    key = f"{metric}|{setting}"
    if setting.startswith("*"):
        key = next((name for name in own if name.startswith(f"{metric}|") and name.endswith(setting[1:]) and "alive" not in name), key)
    values = own.get(key)
    return None if values is None or any(value is None for value in values) else values


def interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % t-interval."""
    n = len(values)
    return float(np.mean(values)), float(student.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n)) if n > 1 else math.nan


def shown(values: list[float] | None, digits: int = 3) -> str:
    if values is None:
        return "-"
    mean, half = interval(values)
    return f"{mean:.{digits}f}" + ("" if math.isnan(half) else f" ± {half:.{digits}f}")


def table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, ["---"] * len(header), *rows])


def table_of(result: dict[str, Any], name: str, columns: dict[str, tuple[str, str]]) -> str:
    """Variants by metrics, for one source, then its controls; columns that nobody has are left out."""
    source = result["sources"][name]
    coders = [*VARIANTS, *(coder for coder in source["values"] if coder not in VARIANTS and look_up(source, coder, "explained_variance", ""))]
    kept = {title: key for title, key in columns.items() if any(look_up(source, coder, *key) for coder in coders)}
    rows = [[TITLES.get(coder, coder), *(shown(look_up(source, coder, *key)) for key in kept.values())] for coder in coders]
    return table(["SAE", *kept], [row for row in rows if set(row[1:]) != {"-"}])


def paper_table(result: dict[str, Any]) -> str:
    """Table 1 of the paper, then ours in the same columns."""
    rows = [[f"paper: {TITLES[name]}", *(f"{value:.3f}" for value in values)] for name, values in PAPER.items()]
    for name, source in result["sources"].items():
        keys = [key(name) for key in TABLE_1.values()]
        rows += [[f"{name}: {TITLES[coder]}", *(shown(look_up(source, coder, *key)) for key in keys)] for coder in VARIANTS]
    return table(["SAE", *TABLE_1], rows)


def claims_table(result: dict[str, Any]) -> str:
    """OrtSAE against BatchTopK of the same seed, beside what the paper says."""
    def change(source: dict[str, Any], coder: str, metric: str, setting: str, how: str) -> str:
        own, base = (look_up(source, one, metric, setting) for one in (coder, "batch_topk"))
        if own is None or base is None or (how != "difference" and min(map(abs, base if how == "percent" else own)) == 0):
            return "-"
        pairs = list(zip(own, base, strict=True))
        if how == "ratio":
            return shown([b / a for a, b in pairs], 2) + " x lower"
        if how == "percent":
            return shown([100 * (a / b - 1) for a, b in pairs], 1) + " %"
        return shown([a - b for a, b in pairs], 4)

    claims = [
        ("Mean max cosine", "2.7 x lower", "mean_max_cosine", "ratio"),
        ("Absorption", "-65 %", "absorption_full", "percent"),
        ("Composition rate", "-15 %", "composition_rate", "percent"),
        ("Explained variance, difference", "within 0.01", "explained_variance", "difference"),
        ("Absorption by known truth", "", "planted_absorption", "percent"),
        ("Latents that are sums, by known truth", "", "planted_composition", "percent"),
    ]
    rows = []
    for title, paper, metric, how in claims:
        for coder in ("ortsae", "ortsae_5"):
            cells = []
            for name, source in result["sources"].items():
                setting = TABLE_1["Absorption"](name)[1] if metric == "absorption_full" else ""
                cells.append(change(source, coder, metric, setting, how))
            rows.append([f"{title}, {TITLES[coder]}", paper, *cells])
    return table(["OrtSAE against BatchTopK", "paper", *result["sources"]], rows)


def share_table(result: dict[str, Any]) -> str:
    """gamma L_orth / L_MSE at the paper's gamma, and the ladder."""
    rows = []
    for name, source in result["sources"].items():
        for step in source["ladder"] or []:
            rows.append([name, f"{step['gamma']:g}", *(f"{100 * step[key]:.1f} %" if key in step else "-" for key in ("first_tenth", "last_tenth")),
                         f"{step['fit_explained_variance']:.4f}", f"{step['mean_max_cosine']:.3f}"])
    return table(["Source", "gamma", "gamma L_orth / L_MSE, first tenth", "last tenth", "Explained variance, fit side", "Mean max cosine"], rows)


def time_table(result: dict[str, Any]) -> str:
    sources = {name: source["step_times"] for name, source in result["sources"].items() if source["step_times"]}
    rows = [[TITLES[variant], *(f"{times['variants'][variant]['step_s'] * 1000:.1f} ms, {times['variants'][variant]['ratio']:.2f} "
                                f"[{times['variants'][variant]['ratio_low']:.2f}, {times['variants'][variant]['ratio_high']:.2f}]"
                                for times in sources.values())] for variant in VARIANTS]
    return table(["A training step", *(f"{name}: {times['n_latents']} latents, d_in {times['d_in']}" for name, times in sources.items())], rows)


def penalty_table(result: dict[str, Any]) -> str:
    penalty = result["penalty"]
    if penalty is None:
        return "not measured"
    return table(["Latents", "Seconds of one penalty with its gradient", "Microseconds a latent"],
                 [[f"{row['n_latents']:,}", f"{row['penalty_s']:.3f}", f"{1e6 * row['penalty_s'] / row['n_latents']:.1f}"] for row in penalty["rows"]])


def settings_table(result: dict[str, Any]) -> str:
    rows = [[name, *(f"{source['settings'][key]:g}" for key in ("n_latents", "k", "n_tokens", "batch_tokens", "lr")), str(source["n_seeds"]),
             f"{sum(source['n_held_out_tokens'].values()):,}", ", ".join(f"{trial['l1']:g}: {trial['l0']:.1f}" for trial in source["l1_search"])]
            for name, source in result["sources"].items()]
    return table(["Source", "Latents", "k", "Training tokens", "Batch", "lr", "Seeds", "Held-out tokens", "L1 weights tried for ReLU: l0"], rows)


def fill(text: str, result: dict[str, Any]) -> str:
    """The README with its tables written anew."""
    tables: dict[str, Callable[[], str]] = {
        "settings": lambda: settings_table(result), "paper": lambda: paper_table(result), "claims": lambda: claims_table(result),
        "truth": lambda: table_of(result, "planted", TRUTH), "share": lambda: share_table(result), "time": lambda: time_table(result),
        "penalty": lambda: penalty_table(result),
        **{f"other_{name}": (lambda name=name: table_of(result, name, OTHER)) for name in result["sources"]},
    }
    return re.sub(r"(<!-- table:(\w+) -->\n).*?(<!-- end -->)", lambda match: f"{match[1]}{tables[match[2]]()}\n{match[3]}" if match[2] in tables else match[0],
                  text, flags=re.S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    result = collect(parser.parse_args().run)
    (HERE / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    if result["penalty"] is not None:
        (HERE / "penalty.svg").write_text(penalty_svg(result["penalty"]))
    readme = HERE / "README.md"
    readme.write_text(fill(readme.read_text(), result))
    print(claims_table(result))


if __name__ == "__main__":
    main()
