"""Tables and figures of the README, from the rows of results.json.

Where one layer stands for a coder it is the one with the highest F1 on the fit side, never the one that looks best held out. Refuses nothing.
"""

from typing import Any

from studies.common.charts import lines
from studies.common.results import table

from sparselight.evaluate.statistics import wilson

Rows = list[dict[str, Any]]
NAMES = {"topk": "TopK", "matryoshka": "Matryoshka", "ortsae": "OrtSAE", "relu": "ReLU", "neurons": "neurons of the site",
         "feed-forward neurons": "feed-forward neurons", "components": "principal components", "untrained": "untrained SAE"}
SAES, CONTROLS = ("topk", "matryoshka", "ortsae", "relu"), ("neurons", "feed-forward neurons", "components", "untrained")
RULES = ("precision or recall", "F1 by domain", "F1 by domain, carried", "ours")
SIGNAL, HELIX = ("signal peptide", "signal peptide"), ("transmembrane region", "helix")
READERS = {"probe": "linear probe of the subject", "letters": "probe of letters and place, no model"}


def of(rows: Rows, what: str, **wanted: Any) -> Rows:
    """Rows of one sort that match."""
    return [row for row in rows if row["what"] == what and all(row.get(name) == value for name, value in wanted.items())]


def layers(rows: Rows) -> list[int]:
    return sorted({row["layer"] for row in rows})


def coders(rows: Rows) -> list[str]:
    found = {row["coder"] for row in of(rows, "value", metric="association_f1")}
    return [coder for coder in (*SAES, *CONTROLS) if coder in found]


def cells(rows: Rows) -> list[tuple[int, int]]:
    """Layer and seed of every evaluation, by layer."""
    return sorted({(row["layer"], row["seed"]) for row in rows if row["seed"] is not None})


def seed_of(coder: str, seed: int) -> int | None:
    """Neurons of the feed-forward block stand at a site of their own, where nothing was trained."""
    return None if coder == "feed-forward neurons" else seed


def value_of(rows: Rows, coder: str, layer: int, seed: int | None, metric: str, setting: str = "") -> dict[str, Any] | None:
    return next(iter(of(rows, "value", coder=coder, layer=layer, seed=seed, metric=metric, setting=setting)), None)


def shown(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def with_interval(row: dict[str, Any] | None, name: str = "value") -> str:
    """A value and its interval over proteins."""
    if row is None:
        return "-"
    low, high = (row["low"], row["high"]) if name == "value" else (row[f"{name}_low"], row[f"{name}_high"])
    return shown(row[name]) + (f" [{shown(low)}, {shown(high)}]" if low is not None else "")


def settings_table(settings: dict[str, Any]) -> str:
    def said(value: Any) -> str:
        return ", ".join(f"{name}: {said(own)}" for name, own in value.items()) if isinstance(value, dict) else str(value)

    return table(["Setting", "Value"], [[name, said(value)] for name, value in settings.items()])


def association_table(rows: Rows) -> str:
    """By coder, layer and seed: mean held-out F1 with its interval, the same with shuffled labels, labels found, error, l0 and dead latents."""
    body = []
    for coder in coders(rows):
        for layer, seed in dict.fromkeys((layer, seed_of(coder, seed)) for layer, seed in cells(rows)):
            found = {name: value_of(rows, coder, layer, seed, metric, setting) for name, metric, setting in (
                ("f1", "association_f1", "spans"), ("null", "association_null_f1", "spans"), ("labels", "association_labels", "spans"), ("fvu", "fvu", ""),
                ("l0", "l0", ""), ("dead", "dead_frac", ""))}
            if found["f1"] is None:
                continue
            numbers = {name: None if row is None else row["value"] for name, row in found.items()}
            body.append([NAMES[coder], str(layer), "-" if seed is None else str(seed), with_interval(found["f1"]), shown(numbers["null"]),
                         shown(numbers["labels"], 0), shown(numbers["fvu"]), shown(numbers["l0"], 1), shown(numbers["dead"])])
    return table(["Coder", "Layer", "Seed", "Mean F1", "shuffled", "Labels >= 0.5", "fvu", "l0", "Dead"], body)


def label_table(rows: Rows, label: tuple[str, str]) -> str:
    """One label in full: every coder at every layer and seed, then what a probe reads, and what firing everywhere gets."""
    places = cells(rows)
    header = ["Coder", *(f"layer {layer}{f', seed {seed}' if sum(other == layer for other, _ in places) > 1 else ''}" for layer, seed in places)]
    body = []
    for coder in coders(rows):
        own = [next(iter(of(rows, "label", coder=coder, kind=label[0], label=label[1], layer=layer, seed=seed_of(coder, seed))), None)
               for layer, seed in places]
        body.append([NAMES[coder], *(f"{with_interval(row, 'f1')} ({shown(row['null_f1_max'])})" if row else "-" for row in own)])
    for reader, name in READERS.items():
        body.append([name, *(with_interval(probe_of(rows, reader, layer, label), "f1") for layer, _ in places)])
    everywhere = next((row["f1_everywhere"] for row in of(rows, "label", kind=label[0], label=label[1])), None)
    return table(header, [*body, ["firing everywhere", *[shown(everywhere)] * len(places)]])


def probe_of(rows: Rows, reader: str, layer: int, label: tuple[str, str]) -> dict[str, Any] | None:
    return next(iter(of(rows, "probe", reader=reader, layer=layer, kind=label[0], label=label[1])), None)


def known_labels(rows: Rows) -> list[tuple[str, str]]:
    return sorted({(row["kind"], row["label"]) for row in of(rows, "label")})


def chosen(rows: Rows, coder: str, label: tuple[str, str]) -> dict[str, Any] | None:
    """The coder's best latent of a label over layers and seeds, by F1 on the fit side."""
    return max(of(rows, "label", coder=coder, kind=label[0], label=label[1]), key=lambda row: row["fit_score"], default=None)


def chosen_probe(rows: Rows, reader: str, label: tuple[str, str]) -> dict[str, Any] | None:
    """The best layer's probe: an upper bound, so the held-out side may choose."""
    found = [row for layer in layers(rows) if (row := probe_of(rows, reader, layer, label)) is not None]
    return max(found, key=lambda row: row["f1"], default=None)


def labels_table(rows: Rows) -> str:
    """Of every label, each coder at the layer that the fit side chose."""
    body = []
    for label in known_labels(rows):
        own = [chosen(rows, coder, label) for coder in coders(rows)]
        body.append(["=".join(label), *(f"{with_interval(row, 'f1')} at {row['layer']}" if row else "-" for row in own),
                     *(with_interval(chosen_probe(rows, reader, label), "f1") for reader in READERS),
                     shown(next(row["f1_everywhere"] for row in own if row))])
    return table(["Label", *(NAMES[coder] for coder in coders(rows)), *READERS.values(), "firing everywhere"], body)


def ceiling_table(rows: Rows) -> str:
    """Held-out F1 of a linear probe of every label at every layer."""
    body = []
    for label in known_labels(rows):
        found = [probe_of(rows, "probe", layer, label) for layer in layers(rows)]
        plain = probe_of(rows, "letters", layers(rows)[0], label)
        body.append(["=".join(label), *(f"{with_interval(row, 'f1')}, AUROC {shown(row['auroc'])}" if row else "-" for row in found),
                     with_interval(plain, "f1")])
    return table(["Label", *(f"layer {layer}" for layer in layers(rows)), READERS["letters"]], body)


def rules_table(rows: Rows) -> str:
    """Pairs that each rule finds, by chance, and how many of them ours supports, where rules were applied."""
    body = []
    for coder in coders(rows):
        for rule in RULES:
            n, chance, supported = rule_sums(rows, coder, rule)
            if coder != "feed-forward neurons":
                body.append([NAMES[coder], rule, f"{n:.0f}", f"{chance:.1f}", f"{chance / n:.0%}" if n else "-", f"{supported:.0f}"])
    return table(["Coder", "Rule", "Pairs", "with shuffled labels", "of them by chance", "that ours supports"], body)


def rule_sums(rows: Rows, coder: str, rule: str) -> tuple[float, float, float]:
    """Pairs, pairs with shuffled labels, pairs that ours supports."""
    n = chance = supported = 0.0
    for layer, seed in cells(rows):
        found = [value_of(rows, coder, layer, seed, metric, rule) for metric in ("rule_pairs", "rule_chance_pairs", "rule_supported_frac")]
        pairs, by_chance, share = (0.0 if row is None else row["value"] for row in found)
        n, chance, supported = n + pairs, chance + by_chance, supported + pairs * share
    return n, chance, supported


def judges_table(rows: Rows) -> str:
    """What each judge is worth on natural held-out proteins."""
    body = []
    for row in of(rows, "judge"):
        precision, recall = row["precision"], row["recall"]
        f1 = None if precision is None else 2 * precision * recall / max(precision + recall, 1e-9)
        body.append([NAMES[row["coder"]], row["goal"], str(row["latent"]), shown(f1), shown(row["auroc"]), f"{row['natural']:.0%} of {row['natural_n']}",
                     "-" if row["natural_without"] is None else f"{row['natural_without']:.0%}"])
    return table(["SAE", "Goal", "Latent", "F1 of the judge by residue", "AUROC", "Natural sequences with the label that it finds", "False alarms"], body)


def steering_table(rows: Rows) -> str:
    """Every arm of every study."""
    body = []
    for row in of(rows, "arm"):
        share = wilson(row["hits"], row["n"])
        body.append([NAMES[row["coder"]], row["goal"], row["kind"], f"{row['strength']:g}" if row["strength"] else "-", f"{row['hits']} of {row['n']}",
                     f"{share.value:.1%} [{share.low:.1%}, {share.high:.1%}]", f"{row['chance']:.1%}", shown(row["hydropathy"]),
                     shown(row["composition_distance"]), f"{row['low_complexity']:.0%}", shown(row["identity"]), shown(row["pseudo_perplexity"], 1),
                     "-" if row["p"] is None else f"{row['p']:.2g}"])
    return table(["SAE", "Goal", "Arm", "Strength", "Hits", "Share", "Letters shuffled", "Hydropathy", "Distance of composition", "Low complexity", "Identity",
                  "Pseudo-perplexity", "p"], body)


def figures(rows: Rows) -> dict[str, str]:
    """Held-out F1 over layers, one line a coder: mean over labels, and of signal peptides."""
    first = min((seed for _, seed in cells(rows)), default=0)

    mean = {NAMES[coder]: {f"layer {layer}": {0: row["value"]} for layer in layers(rows)
                           if (row := value_of(rows, coder, layer, seed_of(coder, first), "association_f1", "spans"))} for coder in coders(rows)}
    signal = {NAMES[coder]: {f"layer {layer}": {0: row["f1"]} for layer in layers(rows) for row in of(
        rows, "label", coder=coder, layer=layer, seed=seed_of(coder, first), kind=SIGNAL[0], label=SIGNAL[1])} for coder in coders(rows)}
    signal["linear probe"] = {f"layer {layer}": {0: row["f1"]} for layer in layers(rows) if (row := probe_of(rows, "probe", layer, SIGNAL))}
    return {"labels": lines("labels", "Held-out F1 of the best latent, mean over labels", ("layer", "F1"), mean),
            "signal": lines("signal", "Signal peptides: held-out F1 of the best latent", ("layer", "F1"), signal)}
