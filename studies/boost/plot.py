"""The figures of the Boost study: gain against forgetting for every variant, and gain over k and over the number of tokens."""

from collections.abc import Mapping

from studies.boost.words import BENCHES, TITLES
from studies.common.charts import lines, scatter
from studies.common.results import BySeed, Row, by_seed, difference

HOLLOW = (TITLES["boost_general"],)


def figures(rows: list[Row]) -> Mapping[str, str]:
    """By name of the file, those that there are results for."""
    made = {f"tradeoff-{bench}": tradeoff(rows, bench) for bench in BENCHES if own(rows, bench, "boost-variants", "boost", "domain_fvu")}
    for experiment, setting, title in (("boost-k", "k", "k of the residual SAE"), ("boost-budgets", "share", "share of the domain's tokens")):
        series = {}
        for bench in BENCHES:
            for side in ("domain", "general"):
                values = over(rows, bench, experiment, setting, side)
                series |= {f"{bench}, {side}": values} if values else {}
        if series:
            made[experiment.removeprefix("boost-")] = lines(experiment, f"Change of fvu against the base over {title}", (title, "change of fvu, %"), series)
    return made


def own(rows: list[Row], bench: str, experiment: str, variant: str, metric: str, **wanted: object) -> BySeed:
    return by_seed(rows, metric, bench=bench, experiment=experiment, variant=variant, **wanted)


def tradeoff(rows: list[Row], bench: str) -> str:
    """At one l0 for all; grafts and trainings from scratch lie far outside and are left to the table."""
    points = {}
    for name, title in TITLES.items():
        if name in ("base", "grafted", "scratch_domain"):
            continue
        both = [difference(own(rows, bench, "boost-variants", name, f"{side}_fvu_matched"), own(rows, bench, "boost-variants", "base", f"{side}_fvu_matched"),
                           relative=True) for side in ("general", "domain")]
        if all(both):
            points[title] = (both[0], both[1])
    axes = ("general data, % (right: forgotten)", "domain, % (down: gained)")
    return scatter(f"tradeoff-{bench}", f"{bench}: change of fvu against the base, at one l0", axes, points, HOLLOW)


def over(rows: list[Row], bench: str, experiment: str, setting: str, side: str) -> dict[str, BySeed]:
    base = own(rows, bench, experiment, "base", f"{side}_fvu")
    settings = sorted({row[setting] for row in rows if row["experiment"] == experiment and row["bench"] == bench and setting in row})
    return {f"{value:g}": difference(own(rows, bench, experiment, "boost", f"{side}_fvu", **{setting: value}), base, relative=True) for value in settings}
