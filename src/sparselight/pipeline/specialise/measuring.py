"""What is measured of the variants: the metric families, all at one l0, on several amounts of text; drift of old latents, firing of new ones; cards.

Metrics, intervals and paired differences are those of `evaluate.run_suite`. Owns what only a specialization has: which SAEs are compared how, and how
a variant's dictionary relates to its base's. Refuses nothing by itself.
"""

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch.nn.functional import cosine_similarity

from sparselight.config import canonical_json
from sparselight.evaluate import Case, Contender, EvaluateConfig, choose, run_suite
from sparselight.evaluate.statistics import ratio
from sparselight.files import make_folder
from sparselight.interpret import explain, load_catalogue, save_catalogue
from sparselight.interpret.catalogue import FILE_NAME
from sparselight.pipeline.engine import source_hash
from sparselight.pipeline.specialise.config import VARIANTS
from sparselight.pipeline.specialise.equal_l0 import at_l0, l0_on
from sparselight.pipeline.specialise.sources import Source
from sparselight.pipeline.specialise.variants import sample_rows
from sparselight.protocols import Progress
from sparselight.records import Card, Drift, EvalRecord, NewLatents
from sparselight.sae import Sae

PAIRS = (("boost", "boost_general"), ("boost", "finetune"), ("finetune_tilted", "finetune"), ("boost", "extended_random"))
"""Differences besides those to the base."""
CHEAP, FVU_ONLY = ("reconstruction", "behaviour"), ("reconstruction",)
"""Families that are measured again at equal l0, and for each budget."""
TURNED_BELOW = 0.9


@dataclass
class EqualL0:
    """Variants with their thresholds moved so that all use one number of latents on training text of the domain."""

    l0: float
    saes: dict[str, Sae] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    """What was done to each, or why it could not be."""


def equal_l0(saes: Mapping[str, Sae], source: Source) -> EqualL0:
    """The common l0 is what the base uses on that text, and k_new."""
    config = source.settings.specialise
    x = sample_rows(source.store("domain_train"), source.site, config.equal_l0_tokens)
    result = EqualL0(l0_on(saes["base"], x) + config.k_new)
    for name, sae in saes.items():
        moved, result.words[name] = at_l0(sae, result.l0, x)
        if moved is not None:
            result.saes[name] = moved
    return result


def make_case(source: Source) -> Case:
    return Case(source.site, source.datasets(), source.settings.evaluate, source.subject)


def measure(case: Case, saes: Mapping[str, Sae], config: EvaluateConfig, folder: Path, sources: Mapping[str, str], progress: Progress) -> EvalRecord:
    """All variants in one evaluation; what is finished in the folder is found again."""
    contenders = {name: Contender(sae, is_control=name in VARIANTS and VARIANTS[name].is_control) for name, sae in saes.items()}
    pairs = [pair for pair in PAIRS if saes.keys() >= {*pair}]
    return run_suite(case, contenders, config, base="base", pairs=pairs, sources=dict(sources), folder=folder, progress=progress)


def part_of(config: EvaluateConfig, families: Sequence[str]) -> EvaluateConfig:
    """The settings with only those of the suite's families; the first of them where the suite has none."""
    wanted = [choice.family.name for choice in choose(config.suite) if choice.family.name in families]
    return config.model_copy(update={"suite": ",".join(wanted or families[:1])})


def drift(name: str, sae: Sae, base: Sae, latents: pa.Table | None) -> Drift | None:
    """How far the base's latents moved; None for an SAE that does not begin with them.

    Args:
        latents: the table of that name of the evaluation, which has every latent's fire rate.
    """
    n = base.n_latents
    if name == "scratch_domain" or sae.n_latents < n:
        return None
    cosines = cosine_similarity(base.W_dec, sae.W_dec[:n], dim=1).double()
    changes: dict[str, float] = {}
    if latents is not None:
        for dataset in dict.fromkeys(latents.column("dataset").to_pylist()):
            before, after = (fire_rates(latents, coder, dataset)[:n] for coder in ("base", name))
            if len(before) == len(after) == n and before.sum() > 0:
                changes[dataset] = float(np.abs(after - before).sum() / before.sum())
    return Drift(n_latents=n, mean_cosine=float(cosines.mean()), low_cosine=float(cosines.quantile(0.05)),
                 turned_frac=float((cosines < TURNED_BELOW).double().mean()), fire_rate_change=changes)


def fire_rates(latents: pa.Table, coder: str, dataset: str) -> np.ndarray:
    """Of all latents of a coder, in order."""
    own = latents.filter((pc.field("coder") == coder) & (pc.field("dataset") == dataset)).sort_by("latent")
    return np.asarray(own.column("fire_rate").to_numpy())


def read_table(folder: Path, name: str) -> pa.Table | None:
    """A table of details of an evaluation, None where no family wrote it."""
    path = folder / "tables" / f"{name}.parquet"
    return pq.read_table(path) if path.is_file() else None


def new_latents(case: Case, name: str, sae: Sae, n_base: int) -> list[NewLatents]:
    """How often latents beyond the base's fire on held-out text, with intervals over groups; empty where there are none."""
    if name == "scratch_domain" or sae.n_latents <= n_base:
        return []
    found = []
    for dataset in case.datasets:
        tokens, resamples = case.tokens(dataset, "held_out"), case.resamples(dataset)
        codes = case.codes(dataset, "held_out", name, Contender(sae, is_control=False))
        is_new = ((codes.latents >= n_base) & (codes.values != 0)).numpy()
        token = np.repeat(np.arange(codes.n_tokens), codes.indptr.diff().numpy())[is_new]
        active = np.bincount(token, minlength=codes.n_tokens).astype(np.float64)
        n, sums, some = (resamples.totals(np.bincount(tokens.group, weights, minlength=len(tokens.groups)).astype(np.float64))
                         for weights in (None, active, (active > 0).astype(np.float64)))
        values = [resamples.summarize(ratio(top, n))[0] for top in (sums, some)]
        assert values[0] is not None
        assert values[1] is not None
        n_alive = len(np.unique(codes.latents.numpy()[is_new]))
        found.append(NewLatents(dataset=dataset, active=values[0], token_frac=values[1], n_dead=sae.n_latents - n_base - n_alive))
    return found


@torch.no_grad()
def only_new(sae: Sae, n_base: int) -> Sae:
    """The latents beyond the base's as an SAE by themselves, which gives back what they add."""
    whole = copy.deepcopy(sae).fold_centering()
    part = Sae(sae.d_in, sae.n_latents - n_base, subtract_b_dec=False)
    part.W_enc.copy_(whole.W_enc[:, n_base:])
    for name in ("b_enc", "W_dec", "threshold"):
        getattr(part, name).copy_(getattr(whole, name)[n_base:])
    return part.requires_grad_(False)


def cards_of(source: Source, name: str, sae: Sae, n_base: int, folder: Path, progress: Progress) -> tuple[list[Card], Path]:
    """Cards of a variant's new latents, and the catalogue that they are kept in; one that fits is found again."""
    settings, part = source.settings.explain, only_new(sae, n_base)
    stores = [source.store(f"{dataset}_{side}").fingerprint for dataset in ("general", "domain") for side in ("train", "held_out")]
    content = canonical_json([name, part.weights_hash(), stores, settings.model_dump(mode="json"), source_hash("interpret"), source.subject.fingerprint])
    place = folder / f"cards-{hashlib.sha256(content.encode()).hexdigest()[:10]}"
    if not (place / FILE_NAME).exists():
        cards = explain({name: part}, source.token_sets("train"), source.token_sets("held_out"), source.site, source.subject, settings, progress)
        make_folder(place)
        save_catalogue(cards, place)
    return load_catalogue(place), place / FILE_NAME
