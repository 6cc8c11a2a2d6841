"""The tables of the README, from results.json: `fill` writes them between its marks."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from families import FAMILIES

CONTROLS = {"rolled_labels": "shifted labels", "shuffled": "explanations of others", "random_latent": "random latents", "raw_neuron": "raw channels"}
BLOCK = re.compile(r"(<!-- table:(\w+) -->\n).*?(<!-- end -->)", re.S)


def fill(text: str, results: Mapping[str, Any]) -> str:
    """The README with its tables."""
    tables = {"size": by_size, "family": by_family, "level": by_level, "side": by_side, "steering": steering, "findings": baselines}
    return BLOCK.sub(lambda match: f"{match[1]}{tables[match[2]](results)}\n{match[3]}", text)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows])


def frac(counts: Mapping[str, Any]) -> str:
    value = counts["proven_frac"]
    return "-" if value is None else f"{value['value']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"


def f1(counts: Mapping[str, Any]) -> list[str]:
    """Latents with F1 of at least 0.5 by their own explanation, and how often each control gets there."""
    found = counts["f1_at_least_half"]
    return [str(found["own"]), *(str(found.get(name, "-")) for name in CONTROLS)]


def by_size(results: Mapping[str, Any]) -> str:
    rows = [[f"{size}x ({own['n_latents']:,})", str(own["all"]["n_alive"]), str(own["all"]["n_proven"]), frac(own["all"]), *f1(own["all"]),
             str(len(own["all"]["findings"]))] for size, own in results["expansions"].items()]
    return table(["expansion (latents)", "alive", "proven", "proven, share", "F1 >= 0.5", *CONTROLS.values(), "findings"], rows)


def by_family(results: Mapping[str, Any]) -> str:
    rows = []
    for name in FAMILIES:
        for size, own in results["expansions"].items():
            counts = own["families"][name]
            rows.append([name if size == "2" else "", f"{size}x", str(counts["n_alive"]), str(counts["n_proven"]), *f1(counts),
                         "-" if counts["mean_f1"]["own"] is None else f"{counts['mean_f1']['own']:.2f}"])
    return table(["family of the explanation", "size", "explained so", "proven", "F1 >= 0.5", *CONTROLS.values(), "mean F1"], rows)


def by_level(results: Mapping[str, Any]) -> str:
    rows = []
    for size, own in results["expansions"].items():
        for number, counts in enumerate(own["levels"], 1):
            rate = counts["median_fire_rate"]
            rows.append([f"{size}x" if number == 1 else "", str(number), str(counts["n_alive"]), frac(counts), "-" if rate is None else f"{100 * rate:.2f} %",
                         "-" if counts["mean_f1"]["own"] is None else f"{counts['mean_f1']['own']:.2f}", ", ".join(counts["findings"][:4]) or "-"])
    return table(["size", "level, the coarsest first", "alive", "proven, share", "median firing rate", "mean F1", "findings (first four)"], rows)


def by_side(results: Mapping[str, Any]) -> str:
    rows = [[f"{size}x" if name == "patches" else "", name, str(counts["n_alive"]), frac(counts), *f1(counts)]
            for size, own in results["expansions"].items() for name, counts in own["sides"].items()]
    return table(["size", "fires on", "alive", "proven, share", "F1 >= 0.5", *CONTROLS.values()], rows)


def steering(results: Mapping[str, Any]) -> str:
    rows = []
    for study in results["steering"]:
        for number, dose in enumerate(study["doses"]):
            kl = "-" if dose["kl_nats"] is None else f"{dose['kl_nats']:.2f}"
            rows.append([*([study["latent"], study["title"], study["goal"].removeprefix("reports in which ")] if not number else ["", "", ""]),
                         f"{dose['strength']:g}" if number else "no edit", f"{dose['on_target']:.2f} [{dose['low']:.2f}, {dose['high']:.2f}]",
                         ", ".join(dose["findings_moved_besides"]) or "-", f"{dose['text_ce_nats']:.2f}", kl, study["verdict"] if not number else ""])
    return table(["latent", "stands for", "goal", "strength", "share of reports", "other findings moved", "CE of the text, nats", "KL, nats", "verdict"], rows)


def baselines(results: Mapping[str, Any]) -> str:
    rows = []
    for study in results["steering"]:
        own = {f"{dose['strength']:g}": dose["on_target"] for dose in study["doses"]}
        kinds: dict[str, list[float]] = {}
        for found in study["baselines"].values():
            kinds.setdefault(found["kind"], []).append(max(found["on_target"].values()))
        best = {kind: max(values) for kind, values in kinds.items()}
        rows.append([study["latent"], study["chosen_by"], study["goal"].removeprefix("reports in which "), f"{own['0']:.2f}", f"{max(own.values()):.2f}",
                     *(f"{best[kind]:.2f}" if kind in best else "-" for kind in ("difference of means", "random latent", "random direction"))])
    header = ["latent", "chosen by its", "goal", "no edit", "latent, best", "difference of means, best", "random latents, best", "random directions, best"]
    return table(header, rows)
