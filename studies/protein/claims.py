"""The claims of the README, each with its numbers and a verdict that follows from them: no word of it is written by hand."""

from typing import Any

from scipy.stats import fisher_exact
from studies.common.results import table
from studies.protein.tables import (
    CONTROLS,
    HELIX,
    NAMES,
    READERS,
    RULES,
    SAES,
    SIGNAL,
    Rows,
    cells,
    chosen,
    chosen_probe,
    coders,
    of,
    rule_sums,
    shown,
    value_of,
    with_interval,
)

from sparselight.evaluate.statistics import wilson

ALPHA = 0.05
PAPER = (24, 180)  # arXiv 2502.09135: steered sequences with a zinc-finger motif
GOALS = ("transmembrane region=helix", "pattern=zinc", "signal peptide=signal peptide")
FOUND = 0.5  # the F1 at which the literature calls a label found
Claim = tuple[str, str, str]


def claims_table(rows: Rows) -> str:
    """Claim, what was found, verdict."""
    found = [*better_than_controls(rows), *label_claims(rows), *rule_claims(rows), *steering_claims(rows), *not_steered(rows)]
    return table(["Claim", "Found", "Verdict"], [list(claim) for claim in found])


def better_than_controls(rows: Rows) -> list[Claim]:
    """Mean F1 over labels, by paired differences over proteins where both read the same site, by intervals else."""
    found = []
    for control in (coder for coder in CONTROLS if coder in coders(rows)):
        signs = [sign(rows, coder, control, layer, seed) for coder in SAES if coder in coders(rows) for layer, seed in cells(rows)]
        signs = [one for one in signs if one is not None]
        more, less = signs.count(1), signs.count(-1)
        verdict = "holds" if more == len(signs) else "the opposite" if less == len(signs) else "depends" if more else "not shown"
        found.append((f"Latents fit annotations better than {NAMES[control]}",
                      f"mean F1 clearly higher in {more}, clearly lower in {less} of {len(signs)} (architecture, layer, seed)", verdict))
    return found


def sign(rows: Rows, coder: str, control: str, layer: int, seed: int) -> int | None:
    """1 or -1 where the interval of the difference is wholly on that side of 0, else 0."""
    difference = next(iter(of(rows, "difference", coder=coder, reference=control, layer=layer, seed=seed)), None)
    if difference is not None and difference["low"] is not None:
        return int(difference["low"] > 0) - int(difference["high"] < 0)
    own, other = value_of(rows, coder, layer, seed, "association_f1", "spans"), value_of(rows, control, layer, None, "association_f1", "spans")
    if own is None or other is None or own["low"] is None or other["low"] is None:
        return None
    return int(own["low"] > other["high"]) - int(own["high"] < other["low"])


def label_claims(rows: Rows) -> list[Claim]:
    """For helices and signal peptides: is there a latent, is it more than a neuron, is it all that the subject knows."""
    found = []
    for label, name in ((HELIX, "transmembrane helices"), (SIGNAL, "signal peptides")):
        own = best_of(rows, SAES, label)
        if own is None:
            continue
        there = "holds" if own["f1_low"] >= FOUND else "does not hold" if own["f1_high"] < FOUND else "not shown"
        found.append((f"A latent stands for {name} (F1 of {FOUND} or more)",
                      f"{NAMES[own['coder']]} at layer {own['layer']}: {with_interval(own, 'f1')}, shuffled labels {shown(own['null_f1_max'])}", there))
        n_controls = sum(chosen(rows, coder, label) is not None for coder in CONTROLS)
        rivals: list[tuple[str, dict[str, Any] | None]] = [(f"the best of {n_controls} controls", best_of(rows, CONTROLS, label))]
        rivals += [(f"a {READERS[reader]}", chosen_probe(rows, reader, label)) for reader in READERS]
        for what, rival in rivals:
            if rival is not None:
                named = f" ({NAMES[rival['coder']]} at layer {rival['layer']})" if "coder" in rival else ""
                found.append((f"It fits {name} better than {what}", f"{with_interval(own, 'f1')} against {with_interval(rival, 'f1')}{named}",
                              "holds" if own["f1_low"] > rival["f1_high"] else "the opposite" if own["f1_high"] < rival["f1_low"] else "not shown"))
    return found


def best_of(rows: Rows, names: tuple[str, ...], label: tuple[str, str]) -> dict[str, Any] | None:
    """The coder, layer and latent that the fit side prefers."""
    found = [row for coder in names if (row := chosen(rows, coder, label)) is not None]
    return max(found, key=lambda row: row["fit_score"], default=None)


def rule_claims(rows: Rows) -> list[Claim]:
    found = []
    for rule in RULES:
        sums = [rule_sums(rows, coder, rule) for coder in SAES]
        pairs, chance = (sum(own[index] for own in sums) for index in (0, 1))
        found.append((f"What the rule \"{rule}\" finds is more than chance", f"{pairs:.0f} pairs; {chance:.1f} with shuffled labels",
                      "nothing found" if not pairs else "holds" if chance < 0.05 * pairs else "inflated" if chance < 0.5 * pairs else "does not hold"))
    return found


def steering_claims(rows: Rows) -> list[Claim]:
    """Hits against no edit and controls, and against the same letters in random order: what shuffled letters hit as well is composition, no structure."""
    found = []
    for judge in of(rows, "judge"):
        arms = of(rows, "arm", coder=judge["coder"], goal=judge["goal"])
        best = max((arm for arm in arms if arm["kind"] == "latent"), key=lambda arm: arm["hits"])
        plain = next(arm for arm in arms if arm["kind"] == "no edit")
        most = max((arm for arm in arms if arm["kind"] not in ("latent", "no edit") and arm["strength"] == best["strength"]), key=lambda arm: arm["hits"])
        wins, lost = ([kind for kind, won in judge["beats"].items() if won is verdict] for verdict in (True, False))
        verdict = "holds" if not lost else f"beyond {', '.join(wins)}; not beyond {', '.join(lost)}" if wins else "not shown"
        shuffled = round(best["chance"] * best["n"])
        table_ = [[hits, best["n"] - hits] for hits in (best["hits"], shuffled)]
        if wins and fisher_exact(table_).pvalue > ALPHA:
            verdict += "; shuffled letters hit as often, so it is composition"
        found.append((f"Holding up {NAMES[judge['coder']]} latent {judge['latent']} writes {judge['goal']}",
                      f"{best['hits']} of {best['n']} at strength {best['strength']:g}, {shuffled} with its letters shuffled; {plain['hits']} without an edit, "
                      f"at most {most['hits']} in a control ({most['kind']}){mark(judge['goal'])}", verdict))
    return found


def not_steered(rows: Rows) -> list[Claim]:
    """Goals that no latent was good enough for."""
    found = []
    steered = {(row["coder"], row["goal"]) for row in of(rows, "judge")}
    for goal in GOALS if steered else ():
        for coder in sorted({coder for coder, _ in steered}):
            if (coder, goal) not in steered:
                layer = of(rows, "judge", coder=coder)[0]["layer"]
                own = of(rows, "label", coder=coder, layer=layer, **dict(zip(("kind", "label"), goal.split("="), strict=True)))
                best_fit = max((row["fit_score"] for row in own), default=None)
                found.append((f"Holding up a {NAMES[coder]} latent writes {goal}", f"best F1 on the fit side at layer {layer}: {shown(best_fit)}",
                              "not tried: no latent for it"))
    return found


def mark(goal: str) -> str:
    """The paper's own number, where it has one."""
    paper = wilson(*PAPER)
    return f"; the paper {PAPER[0]} of {PAPER[1]} ({paper.value:.1%} [{paper.low:.1%}, {paper.high:.1%}])" if goal.startswith("pattern") else ""
