"""The trainings of the Boost study: every variant on every domain, and what changes with k, with the number of tokens, and with the number of domains.

Each function gives the rows of one domain and seed. All variants get as many new latents, training tokens and active latents
(`sparselight.pipeline.specialise`), and are measured as they come and with thresholds moved to one l0. The control of every gain is the same residual SAE
trained on general data.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from studies.common.benches import BENCHES, Bench, Request, domain_features, train_base
from studies.common.measure import Values, both_sides, detected, frequency_sets, matched, planted_recall, predictions, rows_of
from studies.common.results import Row, keep
from studies.common.sentences import Intents, clinc

from sparselight.pipeline.specialise import SpecialiseConfig, train_budgets, train_variants
from sparselight.sae import Sae, load_sae, stitch
from sparselight.train import TrainConfig, train_many

FINETUNE_LR = 1e-3
KS = (2, 5, 10, 20)
BUDGETS = (0.03, 0.1, 0.3)  # shares of the domain's tokens, beside all of them
SPLICED = ("base", "boost", "boost_general", "finetune", "extended_random")


@dataclass(frozen=True, eq=False)
class Work:
    """A bench, where its trainings lie, and what is measured on it beside reconstruction."""

    bench: Bench
    folder: Path
    extra: Callable[[Sae], Values]

    def seed_folder(self, seed: int) -> Path:
        return self.folder / f"seed-{seed}"

    def base(self, seed: int) -> Sae:
        return train_base(self.bench, self.seed_folder(seed) / "base", seed)

    def base_row(self, base: Sae, domain: str) -> Row:
        return {"domain": domain, "variant": "base", "values": self.measured(base, domain, equal_l0=False)}

    def config(self, seed: int, **more: object) -> SpecialiseConfig:
        bench = self.bench
        return SpecialiseConfig.parse({
            "n_new": bench.new["n_latents"], "k_new": bench.new["k"], "n_tokens": bench.domain_tokens, "batch_tokens": bench.base["batch_tokens"],
            "lr": bench.base.get("lr", 4e-3), "finetune_lr": FINETUNE_LR, "min_domain_tokens": 1, "budgets": [], "seed": seed, "data_seed": seed,
            "device": bench.base["device"], "k_from": "record", **more}, "specialise")

    def measured(self, sae: Sae, domain: str, equal_l0: bool = True) -> Values:
        """Reconstruction of domain and general rows at the SAE's own l0, with `equal_l0` also at that of base and residual together, and the extras."""
        bench = self.bench
        sides = {"domain": rows_of(bench.domains[domain].held_out, bench.site), "general": rows_of(bench.general.held_out, bench.site)}
        found = {**both_sides(sae, sides), **self.extra(sae)}
        return found | matched(sae, bench.base["k"] + bench.new["k"], sides) if equal_l0 else found


def open_work(name: str, request: Request) -> Work:
    """A bench by name with its extras."""
    if name == "clinc":
        intents = clinc(request)
        return Work(intents.bench, request.out / name, detection(intents))
    bench = BENCHES[name](request)
    return Work(bench, request.out / name, recall(bench) if bench.planted is not None else lambda _: {})


def recall(bench: Bench) -> Callable[[Sae], Values]:
    assert bench.planted is not None
    world = bench.planted.subject.world
    sets = frequency_sets(world, domain_features(bench.planted))
    return lambda sae: planted_recall(sae, world, sets)


def detection(intents: Intents) -> Callable[[Sae], Values]:
    """Share of intents with a detector, by how many sentences of them the general SAE saw."""
    x, held_out = (rows_of(store, intents.bench.site, store.n_tokens) for store in (intents.fit, intents.held_out))
    labels, bins = [intents.labels(store) for store in (intents.fit, intents.held_out)], intents.bins()

    def measure(sae: Sae) -> Values:
        found = detected(sae, x, labels[0], held_out, labels[1], len(intents.names))
        rare = np.concatenate([chosen for name, chosen in bins.items() if name != "60 seen"])
        return {"recall_rare": float(found[rare].mean()), **{f"recall_{name}": float(found[chosen].mean()) for name, chosen in bins.items()}}

    return measure


def describe(work: Work, domain: str, _seed: int) -> list[Row]:
    """Sizes of a bench."""
    bench, general, own = work.bench, work.bench.general, work.bench.domains[domain]
    return [{"domain": domain, "variant": "", "values": {
        "d_in": general.train.manifest.sites[bench.site], "n_latents": bench.base["n_latents"], "k": bench.base["k"], "n_new": bench.new["n_latents"],
        "k_new": bench.new["k"], "base_trained": bench.base["n_tokens"], "domain_trained": bench.domain_tokens, "general_tokens": general.train.n_tokens,
        "domain_tokens": own.train.n_tokens, "domain_held_out": own.held_out.n_tokens}}]


def compare_variants(work: Work, domain: str, seed: int) -> list[Row]:
    """All variants."""
    bench, base, sides = work.bench, work.base(seed), work.bench.domains[domain]
    saes = train_variants(base, sides.train, bench.general.train, work.config(seed), work.seed_folder(seed) / domain)
    ce = {}
    if bench.subject is not None and bench.examples:
        ce = predictions(bench, saes, {"domain": sides, "general": bench.general}, [name for name in SPLICED if name in saes])
    return [{"domain": domain, "variant": name, "values": {**work.measured(sae, domain), **ce.get(name, {})}} for name, sae in saes.items()]


def sweep_k(work: Work, domain: str, seed: int) -> list[Row]:
    """Residual SAEs with other numbers of active latents, on the domain and, as the control, on general data."""
    bench, base = work.bench, work.base(seed)
    rows = [work.base_row(base, domain)]
    common = {"n_latents": bench.new["n_latents"], "n_tokens": bench.domain_tokens, "batch_tokens": bench.base["batch_tokens"],
              "lr": bench.base.get("lr", 4e-3), "seed": seed, "data_seed": seed, "device": bench.base["device"]}
    for name, store in (("boost", bench.domains[domain].train), ("boost_general", bench.general.train)):
        configs = {f"{name}-k{k}": TrainConfig.parse({**common, "k": k}, "train") for k in KS}
        saes = train_many(store, None, bench.site, configs, work.seed_folder(seed) / domain / "k", store.manifest.subject, base)
        rows += [{"domain": domain, "variant": name, "k": k, "values": work.measured(stitch(base, sae), domain, equal_l0=False)}
                 for k, sae in zip(KS, saes.values(), strict=True)]
    return rows


def sweep_budgets(work: Work, domain: str, seed: int) -> list[Row]:
    """Residual SAEs trained for as many steps on fewer tokens of the domain, and on all of them."""
    bench, base, store = work.bench, work.base(seed), work.bench.domains[domain].train
    sizes = sorted({max(int(share * store.n_tokens), bench.base["batch_tokens"]) for share in BUDGETS})
    folder = work.seed_folder(seed) / domain
    whole = train_variants(base, store, bench.general.train, work.config(seed, variants=["boost"]), folder)["boost"]
    saes = {**train_budgets(base, store, work.config(seed, budgets=sizes), folder / "budgets"), store.n_tokens: whole}
    return [work.base_row(base, domain), *(
        {"domain": domain, "variant": "boost", "share": round(size / store.n_tokens, 2), "tokens": size, "values": work.measured(sae, domain, equal_l0=False)}
        for size, sae in saes.items())]


def sum_domains(work: Work, domain: str, seed: int) -> list[Row]:
    """The residual SAEs of all domains in one, beside this domain's by itself."""
    bench, base = work.bench, work.base(seed)
    rows, names = [work.base_row(base, domain)], ("boost", "boost_silent")
    for one, sides in bench.domains.items():
        train_variants(base, sides.train, bench.general.train, work.config(seed, variants=list(names)), work.seed_folder(seed) / one)
    for name in names:
        residuals = {one: load_sae(work.seed_folder(seed) / one / name / "sae") for one in bench.domains}
        saes = {1: stitch(base, residuals[domain]), len(residuals): stitch(base, list(residuals.values()))}
        rows += [{"domain": domain, "variant": name, "n_domains": n, "values": work.measured(sae, domain, equal_l0=False)} for n, sae in saes.items()]
    return rows


Experiment = Callable[[Work, str, int], list[Row]]
EXPERIMENTS: dict[str, tuple[Experiment, Sequence[str]]] = {
    "boost-variants": (compare_variants, ("planted", "clinc", "demo", "stories", "hub")),
    "boost-k": (sweep_k, ("planted", "demo", "stories", "hub")),
    "boost-budgets": (sweep_budgets, ("planted", "demo", "stories", "hub")),
    "boost-sums": (sum_domains, ("demo", "hub")),
}


def run_all(work: Work, experiments: Mapping[str, Experiment], out: Path, seeds: Sequence[int], domains: Sequence[str] = ()) -> None:
    """Domain by domain, so that what is there when a run is stopped is whole.

    Args:
        domains: some of the bench's; all where empty.
    """
    for domain in (name for name in work.bench.domains if not domains or name in domains):
        keep(out, "settings", work.bench.name, domain, 0, partial(describe, work, domain, 0))
        for experiment, run in experiments.items():
            for seed in seeds:
                keep(out, experiment, work.bench.name, domain, seed, partial(run, work, domain, seed))
