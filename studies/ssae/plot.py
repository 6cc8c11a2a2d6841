"""The figures of the study: what each way of choosing data brings, and the tail against the price over t."""

from collections.abc import Mapping

from studies.common.charts import lines
from studies.common.results import Row, by_seed, difference
from studies.ssae.words import ARMS, STRATEGIES, TAIL, TRAININGS

SHORT = {"general": "random", "seeds": "seeds", "bm25": "BM25", "dense": "dense", "bm25+tracin": "BM25 T", "dense+tracin": "dense T", "files": "files"}


def figures(rows: list[Row]) -> Mapping[str, str]:
    """By name of the file, those that there are results for."""
    made = {}
    if any(row["experiment"] == "ssae-selection" for row in rows):
        made["selection"] = selection(rows)
    for bench, metrics in TAIL.items():
        if by_seed(rows, next(iter(metrics)), experiment="ssae-tilt", bench=bench):
            made[f"tilt-{bench}"] = tilt(rows, bench)
    return made


def selection(rows: list[Row]) -> str:
    """Domain and general fvu at one l0 against random text, mean over domains."""
    series = {}
    for arm, title in ARMS.items():
        for side in ("domain", "general"):
            values = {name: by_seed(rows, f"{side}_fvu_matched", experiment="ssae-selection", strategy=name, variant=arm) for name in STRATEGIES}
            series[f"{title}, {side}"] = {SHORT[name]: difference(own, values["general"], relative=True) for name, own in values.items() if own}
    return lines("selection", "Change of fvu against training on random general text", ("trained on (T: order of TracIn)", "change of fvu, %"), series)


def tilt(rows: list[Row], bench: str) -> str:
    """The tail's measure over t, a line a training."""
    metric, title = next(iter(TAIL[bench].items()))
    own = [row for row in rows if row["experiment"] == "ssae-tilt" and row["bench"] == bench]
    series = {f"{TRAININGS[variant]}, k = {k:g}": {f"{t:g}": by_seed(own, metric, variant=variant, k=k, t=t) for t in sorted({row["t"] for row in own})}
              for variant, k in sorted({(row["variant"], row["k"]) for row in own}, reverse=True)}
    return lines(f"tilt-{bench}", f"{bench}: {title} over t", ("t of the tilted risk", title), series, with_zero=False)
