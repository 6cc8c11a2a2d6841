"""Keep what `run.py` found: `python -m studies.boost.collect runs/specialisation`.

Writes results.json beside this file (one value a metric, training and seed), the figures, and the tables of the README, which stand between
`<!-- table:NAME -->` and `<!-- end -->`. Intervals are 95 % t-intervals over seeds of values averaged over a bench's domains.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from studies.boost.plot import figures
from studies.boost.words import BENCHES, TITLES
from studies.common.results import (
    BySeed,
    Claim,
    Row,
    at_least,
    by_seed,
    claims_table,
    collect,
    difference,
    settings_table,
    shown,
    state_table,
    table,
    verdict,
)

CONTROL = "boost_general"
MEANT = {"boost-variants": BENCHES[:-1], "boost-k": ("planted", "demo", "stories"), "boost-budgets": ("planted", "demo", "stories"), "boost-sums": ("demo",)}


class Found:
    """Results by bench, as differences that the tables and claims are made of."""

    def __init__(self, rows: list[Row]):
        self.rows = rows

    def benches(self, experiment: str) -> list[str]:
        return [name for name in BENCHES if any(row["experiment"] == experiment and row["bench"] == name for row in self.rows)]

    def value(self, bench: str, metric: str, variant: str, experiment: str = "boost-variants", **wanted: object) -> BySeed:
        return by_seed(self.rows, metric, bench=bench, experiment=experiment, variant=variant, **wanted)

    def change(self, bench: str, metric: str, variant: str, other: str = "base") -> BySeed:
        """In percent of the other's value."""
        return difference(self.value(bench, metric, variant), self.value(bench, metric, other), relative=True)

    def against_base(self, bench: str, side: str, variant: str, experiment: str, **wanted: object) -> BySeed:
        """fvu of a trained SAE of another experiment against that of the base, in percent."""
        return difference(*(self.value(bench, f"{side}_fvu", name, experiment, **more) for name, more in ((variant, wanted), ("base", {}))), relative=True)

    def explained(self, bench: str, variant: str, experiment: str = "boost-variants", **wanted: object) -> BySeed:
        """Change of general explained variance, 1 - fvu, against the base, in percent."""
        own, base = ({seed: 1 - value for seed, value in self.value(bench, "general_fvu", name, experiment, **more).items()}
                     for name, more in ((variant, wanted), ("base", {})))
        return difference(own, base, relative=True)

    def gain(self, bench: str, experiment: str, **wanted: object) -> BySeed:
        """How much lower Boost's domain fvu is than the base's."""
        return difference(self.value(bench, "domain_fvu", "base", experiment), self.value(bench, "domain_fvu", "boost", experiment, **wanted))


def variants_table(found: Found, bench: str) -> str:
    """One line a variant: as it comes, and at one l0."""
    names = [name for name in TITLES if found.value(bench, "domain_fvu", name)]
    has_ce = bool(found.value(bench, "domain_ce", "boost"))
    header = ["Variant", "Domain fvu", "against base", "General fvu", "against base", "l0, domain", "l0, general", "At one l0: domain fvu against base",
              "general fvu against base", *(["CE increase, domain, nats", "general"] if has_ce else [])]
    rows = []
    for name in names:
        plain = [part for side in ("domain", "general") for part in (
            shown(found.value(bench, f"{side}_fvu", name)),
            "" if name == "base" else shown(found.change(bench, f"{side}_fvu", name), 1, " %", signed=True))]
        l0 = [shown(found.value(bench, f"{side}_l0", name), 1) for side in ("domain", "general")]
        equal = ["" if name == "base" else shown(found.change(bench, f"{side}_fvu_matched", name), 1, " %", signed=True) for side in ("domain", "general")]
        ce = [shown(found.value(bench, f"{side}_ce", name)) for side in ("domain", "general")] if has_ce else []
        rows.append([TITLES[name], *plain, *l0, *equal, *ce])
    return table(header, rows)


def recall_table(found: Found, bench: str) -> str:
    """Known rare concepts that have a latent, by frequency."""
    metrics = list(dict.fromkeys(name for row in found.rows if row["bench"] == bench and row["experiment"] == "boost-variants"
                                 for name in row["values"] if name.startswith("recall_")))
    names = [name for name in TITLES if found.value(bench, "domain_fvu", name)]
    return table(["Variant", *(metric.removeprefix("recall_") for metric in metrics)],
                 [[TITLES[name], *(shown(found.value(bench, metric, name), 2) for metric in metrics)] for name in names])


def sweep_table(found: Found, experiment: str, name: str, title: str) -> str:
    """Gain on the domain and change on general data over a setting; the control's gain where it has one."""
    rows = []
    for bench in found.benches(experiment):
        settings = sorted({row[name] for row in found.rows if row["experiment"] == experiment and row["bench"] == bench and name in row})
        for setting in settings:
            wanted = {name: setting}
            cells = [found.against_base(bench, side, "boost", experiment, **wanted) for side in ("domain", "general")]
            control = found.against_base(bench, "domain", CONTROL, experiment, **wanted)
            rows.append([bench, f"{setting:g}", *(shown(cell, 1, " %", signed=True) for cell in cells), shown(control, 1, " %", signed=True),
                         shown(found.value(bench, "domain_l0", "boost", experiment, **wanted), 1)])
    return table(["Bench", title, "Domain fvu against base", "General fvu against base", "Domain fvu of the control against base", "l0, domain"], rows)


def sums_table(found: Found) -> str:
    rows = []
    for bench in found.benches("boost-sums"):
        for name in ("boost", "boost_silent"):
            for n in (1, 3):
                cells = [found.against_base(bench, side, name, "boost-sums", n_domains=n) for side in ("domain", "general")]
                rows.append([bench, TITLES[name], str(n), *(shown(cell, 1, " %", signed=True) for cell in cells),
                             shown(found.value(bench, "general_l0", name, "boost-sums", n_domains=n), 1)])
    return table(["Bench", "Residual SAEs", "Domains in the sum", "Each domain's fvu against base", "General fvu against base", "l0, general"], rows)


def claims(found: Found) -> list[Claim]:
    made: list[Claim] = []
    for bench in found.benches("boost-variants"):
        def compare(own: str, other: str, metric: str = "domain_fvu_matched", bench: str = bench) -> BySeed:
            return found.change(bench, metric, own, other)

        gain, control, general = compare("boost", "base", "domain_fvu"), compare("boost", CONTROL, "domain_fvu"), found.explained(bench, "boost")
        tuned = found.explained(bench, "finetune")
        made += [
            Claim("Boost lowers the domain's fvu", bench, shown(gain, 1, " %", signed=True), verdict(gain, -1)),
            Claim("more than the same residual SAE trained on general data", bench, shown(control, 1, " %", signed=True), verdict(control, -1)),
            Claim("General explained variance falls by less than 1 %", bench, shown(general, 2, " %", signed=True), at_least(general, -1)),
            Claim("Full fine-tuning lowers general explained variance (paper: by 28 to 36 %)", bench, shown(tuned, 1, " %", signed=True), verdict(tuned, -1)),
        ]
        for title, other in (("Full fine-tuning", "finetune"), ("Extended SAE, random", "extended_random"),
                             ("Extended SAE, most active", "extended_most_active"), ("Grafting", "grafted"), ("From scratch on the domain", "scratch_domain")):
            own = compare(other, "boost")
            made.append(Claim(f"{title}: domain fvu above Boost's, at one l0", bench, shown(own, 1, " %", signed=True), verdict(own, 1)))
    for bench in found.benches("boost-k"):
        share = ratio(found.gain(bench, "boost-k", k=5), found.gain(bench, "boost-k", k=20))
        made.append(Claim("k = 5 has at least 80 % of the gain of k = 20", bench, shown(share, 0, " %"), at_least(share, 80)))
    for bench in found.benches("boost-budgets"):
        least = min(row["share"] for row in found.rows if row["experiment"] == "boost-budgets" and row["bench"] == bench and "share" in row)
        small = found.against_base(bench, "general", "boost", "boost-budgets", share=least)
        title = f"Few tokens of the domain ({100 * least:.0f} % of them) raise the general fvu"
        made.append(Claim(title, bench, shown(small, 1, " %", signed=True), verdict(small, 1)))
    for bench in found.benches("boost-sums"):
        kept = ratio(found.gain(bench, "boost-sums", n_domains=3), found.gain(bench, "boost-sums", n_domains=1))
        general = found.explained(bench, "boost", "boost-sums", n_domains=3)
        made += [Claim("The sum of three residual SAEs keeps at least 90 % of each one's gain", bench, shown(kept, 0, " %"), at_least(kept, 90)),
                 Claim("and general explained variance falls by less than 1 %", bench, shown(general, 2, " %", signed=True), at_least(general, -1))]
    return made


def ratio(own: BySeed, other: BySeed) -> BySeed:
    """In percent, of the seeds that both have."""
    return {seed: 100 * own[seed] / other[seed] for seed in own if other.get(seed)}


def tables(rows: list[Row]) -> Mapping[str, Callable[[], str]]:
    found = Found(rows)
    return {
        "claims": lambda: claims_table(claims(found)), "state": lambda: state_table(rows, MEANT), "settings": lambda: settings_table(rows, BENCHES),
        **{f"variants_{bench}": (lambda bench=bench: variants_table(found, bench)) for bench in BENCHES},
        **{f"recall_{bench}": (lambda bench=bench: recall_table(found, bench)) for bench in BENCHES},
        "k": lambda: sweep_table(found, "boost-k", "k", "k"), "budgets": lambda: sweep_table(found, "boost-budgets", "share", "Share of the domain's tokens"),
        "sums": lambda: sums_table(found),
    }


if __name__ == "__main__":
    collect(Path(__file__).parent, tables, figures)
