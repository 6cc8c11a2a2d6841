"""Keep what `run.py` found: `python -m studies.ssae.collect runs/specialisation`.

Writes results.json beside this file (one value a metric, training and seed), the figures, and the tables of the README, which stand between
`<!-- table:NAME -->` and `<!-- end -->`. Intervals are 95 % t-intervals over seeds of values averaged over a bench's domains.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from studies.common.results import BySeed, Claim, Row, by_seed, claims_table, collect, difference, settings_table, shown, state_table, table, verdict, within
from studies.ssae.plot import figures
from studies.ssae.words import ARMS, BENCHES, RULES, SHIFT_SETTINGS, STRATEGIES, TAIL, TRAININGS, VARIANTS

MEANT = {"ssae-selection": ("demo",), "ssae-tilt": ("planted", "clinc", "demo"), "ssae-shift": ("bios",)}
NEAR = 0.25  # dense and TracIn count as equal where they differ by less than this share of what dense and random text differ by


class Found:
    """Results as values by seed."""

    def __init__(self, rows: list[Row]):
        self.rows = rows

    def selected(self, metric: str, strategy: str, variant: str, domain: str | None = None) -> BySeed:
        where = {} if domain is None else {"domain": domain}
        return by_seed(self.rows, metric, experiment="ssae-selection", strategy=strategy, variant=variant, **where)

    def tilted(self, metric: str, bench: str, variant: str, k: float, t: float) -> BySeed:
        return by_seed(self.rows, metric, experiment="ssae-tilt", bench=bench, variant=variant, k=k, t=t)

    def shift(self, metric: str, variant: str, setting: str, rule: str) -> BySeed:
        return by_seed(self.rows, f"{metric}|{setting}", experiment="ssae-shift", variant=variant, rule=rule)

    def trainings(self, bench: str) -> list[tuple[str, float, list[float]]]:
        """Variant, k, and the values of t."""
        own = [row for row in self.rows if row["experiment"] == "ssae-tilt" and row["bench"] == bench]
        return [(variant, k, sorted({row["t"] for row in own})) for variant, k in sorted({(row["variant"], row["k"]) for row in own}, reverse=True)]


def selection_table(found: Found) -> str:
    """What each way chose, and what training on it brought, averaged over the three domains; fvu at one l0, against random text."""
    rows = []
    for strategy, title in STRATEGIES.items():
        cells = [shown(found.selected("precision", strategy, "finetune"), 2)]
        for arm in ARMS:
            for side in ("domain", "general"):
                own, other = (found.selected(f"{side}_fvu_matched", name, arm) for name in (strategy, "general"))
                cells += [shown(own, 4), "" if strategy == "general" else shown(difference(own, other, relative=True), 1, " %", signed=True)]
        rows.append([title, *cells])
    header = [f"{ARMS[arm]}: {side} fvu" if part == 0 else "against random" for arm in ARMS for side in ("domain", "general") for part in (0, 1)]
    return table(["Trained on", "Tokens that are of the domain", *header], rows)


def domains_table(found: Found) -> str:
    """Fine-tuning by domain: domain fvu at one l0."""
    domains = list(dict.fromkeys(row["domain"] for row in found.rows if row["experiment"] == "ssae-selection"))
    rows = [[title, *(cell for domain in domains for cell in (shown(found.selected("precision", strategy, "finetune", domain), 2),
                                                              shown(found.selected("domain_fvu_matched", strategy, "finetune", domain), 4)))]
            for strategy, title in STRATEGIES.items()]
    return table(["Trained on", *(head for domain in domains for head in (f"{domain}: of the domain", "domain fvu"))], rows)


def tilt_table(found: Found, bench: str) -> str:
    """One line a training."""
    rows = [[f"{TRAININGS[variant]}, k = {k:g}", f"{t:g}", *(shown(found.tilted(metric, bench, variant, k, t), 3) for metric in TAIL[bench])]
            for variant, k, tilts in found.trainings(bench) for t in tilts]
    return table(["", "t", *TAIL[bench].values()], rows)


def shift_table(found: Found) -> str:
    """The classifier by itself, then every SAE by both rules."""
    metrics = SHIFT_SETTINGS["metrics"]
    rows = [[f"classifier: {setting}", *(shown(found.shift(metric, "subject", setting, "published"), 3) for metric in metrics), ""]
            for setting in ("original", "neuron skyline", "oracle")]
    for rule, words in RULES.items():
        for variant, title in VARIANTS.items():
            for setting in SHIFT_SETTINGS["settings"]:
                cells = [shown(found.shift(metric, variant, setting, rule), 3) for metric in metrics]
                count = shown(found.shift("n_latents", variant, "", rule), 1) if setting == "ablated" else ""
                rows += [[f"{words}, {title}: {setting}", *cells, count]] if set(cells) != {"-"} else []
    return table(["", "Profession, balanced", "Gender, balanced", "Worst group", "Latents ablated"], rows)


def claims(found: Found) -> list[Claim]:
    return [*selection_claims(found), *tilt_claims(found), *shift_claims(found)]


def selection_claims(found: Found) -> list[Claim]:
    made = []
    for arm, title in ARMS.items():
        def lower(own: str, other: str, arm: str = arm) -> BySeed:
            return difference(*(found.selected("domain_fvu_matched", name, arm) for name in (own, other)), relative=True)

        for words, own, other in (("BM25 beats random general text", "bm25", "general"), ("Dense beats BM25", "dense", "bm25"),
                                  ("Dense beats the seeds alone", "dense", "seeds"), ("TracIn improves BM25", "bm25+tracin", "bm25")):
            made.append(Claim(words, f"demo, {title}", shown(lower(own, other), 1, " %", signed=True), verdict(lower(own, other), -1)))
        near, whole = lower("dense+tracin", "dense"), lower("dense", "general")
        bound = NEAR * abs(sum(whole.values()) / len(whole)) if whole else 0.0
        made.append(Claim(f"Dense and dense with TracIn differ by less than a quarter of what dense and random text do ({bound:.1f} %)", f"demo, {title}",
                          shown(near, 1, " %", signed=True), within(near, bound)))
    return made


def tilt_claims(found: Found) -> list[Claim]:
    """Each t against none, of equal trainings: the tail, and what it costs in fvu."""
    made = []
    for bench, metrics in TAIL.items():
        metric = next(iter(metrics))
        up, side = metric.startswith("recall"), "domain_fvu" if bench == "demo" else "general_fvu"
        for variant, k, tilts in found.trainings(bench):
            for t in tilts[1:]:
                tail, price = (difference(*(found.tilted(name, bench, variant, k, value) for value in (t, 0.0)), relative=name != metric or not up)
                               for name in (metric, side))
                numbers = f"{shown(tail, 3 if up else 1, '' if up else ' %', signed=True)}; fvu {shown(price, 1, ' %', signed=True)}"
                made.append(Claim(f"t = {t:g}: {'more rare concepts are found' if up else 'rare tokens are rebuilt better'}; at a price",
                                  f"{bench}, {TRAININGS[variant]}, k = {k:g}", numbers, f"tail: {verdict(tail, 1 if up else -1)}; price: {verdict(price, 1)}"))
    return made


def shift_claims(found: Found) -> list[Claim]:
    made = []
    for rule, words in RULES.items():
        def worst(variant: str, setting: str = "ablated", rule: str = rule) -> BySeed:
            return found.shift("worst_accuracy", variant, setting, rule)

        gained = difference(worst("base"), worst("subject", "original"))
        made.append(Claim("SHIFT with the general SAE raises worst-group accuracy", f"bios, {words}", shown(gained, 3, signed=True), verdict(gained, 1)))
        for variant, title in VARIANTS.items():
            more, control = difference(worst(variant), worst("base")), difference(worst(variant), worst(variant, "random latents"))
            if variant != "base":
                made.append(Claim(f"{title}: worst group above that with the general SAE", f"bios, {words}", shown(more, 3, signed=True), verdict(more, 1)))
            made.append(Claim(f"{title}: above ablating random latents", f"bios, {words}", shown(control, 3, signed=True), verdict(control, 1)))
    return made


def tables(rows: list[Row]) -> Mapping[str, Callable[[], str]]:
    found = Found(rows)
    return {
        "claims_selection": lambda: claims_table(selection_claims(found)), "claims_tilt": lambda: claims_table(tilt_claims(found)),
        "claims_shift": lambda: claims_table(shift_claims(found)), "state": lambda: state_table(rows, MEANT), "settings": lambda: settings_table(rows, BENCHES),
        "selection": lambda: selection_table(found), "domains": lambda: domains_table(found), "shift": lambda: shift_table(found),
        **{f"tilt_{bench}": (lambda bench=bench: tilt_table(found, bench)) for bench in TAIL},
    }


if __name__ == "__main__":
    collect(Path(__file__).parent, tables, figures)
