"""Every variant of a base SAE, trained on equal terms: the same number of new latents, active latents, steps and tokens.

A variant lies in the folder of its name: `sae`, the residual SAE or the whole one, and for the residual ones `stitched`, the base and it as one SAE.
One that is finished is loaded, one that was interrupted goes on. Each trains by itself: no two of them share both the stream and what the base leaves
of it. Refuses, before any work: a base SAE of another site or subject (by record), a transcoder, a domain with too few tokens.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from sparselight.config import canonical_json
from sparselight.errors import ConfigError, CorpusError, SaeError, StoreError
from sparselight.pipeline.specialise.config import CHANGES_NO_WEIGHTS, SpecialiseConfig
from sparselight.pipeline.specialise.equal_l0 import l0_on
from sparselight.pipeline.stages import share_of
from sparselight.protocols import Progress, no_progress
from sparselight.sae import ARCHITECTURES, Sae, graft, load_sae, save_stitched, stitch
from sparselight.store import FolderStore
from sparselight.train import TrainConfig, train_sae
from sparselight.train.finetune import architecture_of
from sparselight.train.notes import TOKENS_PER_WEIGHT

RESIDUAL = ("boost", "boost_silent", "boost_general")
SAMPLE_ROWS = 8192  # of a store, evenly spaced: for l0 and for the counts of a graft
BASE_SHARE = 0.3  # a step that asks the base for its error costs about this share of one that trains it


def train_variants(
    base: Sae, domain: FolderStore, general: FolderStore, config: SpecialiseConfig, folder: Path, progress: Progress = no_progress,
) -> dict[str, Sae]:
    """The variants that `config.variants` names, `base` first, as whole SAEs: residual ones stitched to the base.

    Args:
        domain, general: training activations at the base's site; none of the held-out examples may be in them.
        folder: each variant goes into the folder of its name; what is finished there is not trained again.

    Raises:
        SaeError: for a base SAE of another site or subject, or a transcoder.
        CorpusError: for a domain with too few tokens.
        TrainingError: when the folder holds variants of other settings, or a training leaves finite numbers.
    """
    site = check_parts(base, domain, general, config)
    k = total_k(base, domain, site, config)
    order = training_order(config)
    sizes = [work_of(name, base, config) for name in order]
    saes = {"base": base}
    for number, name in enumerate(order):
        saes[name] = make_variant(name, base, domain, general, site, config, k, folder / name, saes, named(share_of(progress, sizes, number), name))
    return {name: saes[name] for name in config.variants}


def training_order(config: SpecialiseConfig) -> list[str]:
    """What is trained, one after the other: a graft needs the fine-tuned SAE, wanted or not."""
    wanted = [name for name in config.variants if name != "base"]
    return [*(["finetune"] if "grafted" in wanted and "finetune" not in wanted else []), *wanted]


def shared_hash(config: SpecialiseConfig, base: Sae, general: FolderStore, domain: FolderStore) -> str:
    """Of the settings and inputs that all variants share: variants of one hash may stand in one folder."""
    settings = config.model_dump(mode="json", exclude=CHANGES_NO_WEIGHTS)
    content = canonical_json({"settings": settings, "base": base.weights_hash(), "stores": [general.fingerprint, domain.fingerprint]})
    return hashlib.sha256(content.encode()).hexdigest()[:10]


def make_variant(
    name: str, base: Sae, domain: FolderStore, general: FolderStore, site: str, config: SpecialiseConfig, k: float, place: Path, made: dict[str, Sae],
    progress: Progress,
) -> Sae:
    """One variant in its folder; `made` holds those before it."""
    if name == "grafted":
        return load_sae(place / "sae") if (place / "sae").exists() else grafted(base, made["finetune"], domain, site, config, place / "sae")
    store, subject = general if name == "boost_general" else domain, domain.manifest.subject
    settings = TrainConfig.parse(settings_of(name, base, config, k), f"specialise ({name})")
    if name not in RESIDUAL:
        init = None if name == "scratch_domain" else base
        return train_sae(store, None, site, settings, place, subject, progress=progress, init=init)
    residual = train_sae(store, None, site, settings, place, subject, base, progress, silent=general if name == "boost_silent" else None)
    return stitched(base, residual, place)


def train_budgets(base: Sae, domain: FolderStore, config: SpecialiseConfig, folder: Path, progress: Progress = no_progress) -> dict[int, Sae]:
    """`boost` trained on the first so many tokens of the domain, for each of `budgets_of`, stitched to the base.

    Raises:
        ConfigError: for a budget above the domain's tokens, or below one batch.
    """
    budgets, saes = budgets_of(config, domain.n_tokens), dict[int, Sae]()
    site = check_parts(base, domain, domain, config)
    settings = TrainConfig.parse(settings_of("boost", base, config, 0.0), "specialise (boost)")
    for number, budget in enumerate(budgets):
        place, report = folder / str(budget), named(share_of(progress, [1.0] * len(budgets), number), f"boost on {budget:,} tokens")
        residual = train_sae(domain, np.arange(budget), site, settings, place, domain.manifest.subject, base, report)
        saes[budget] = stitched(base, residual, place)
    return saes


def stitched(base: Sae, residual: Sae, place: Path) -> Sae:
    """Both as one SAE, saved beside the residual one where records say what they are."""
    whole = stitch(base, residual).requires_grad_(False)
    if whole.record is not None and not (place / "stitched").exists():
        save_stitched(whole, place / "stitched")
    return whole


def grafted(base: Sae, finetuned: Sae, domain: FolderStore, site: str, config: SpecialiseConfig, place: Path) -> Sae:
    sae = graft(base, finetuned, config.n_new, sample_rows(domain, site))
    if sae.record is not None:
        save_stitched(sae, place)
    return sae


def settings_of(name: str, base: Sae, config: SpecialiseConfig, k: float) -> dict[str, Any]:
    """The training settings of a variant.

    Args:
        k: active latents of the whole SAE (`total_k`).
    """
    steps = config.n_tokens // config.batch_tokens
    common = {"n_tokens": config.n_tokens, "batch_tokens": config.batch_tokens, "seed": config.seed, "data_seed": config.data_seed, "device": config.device,
              "checkpoint_every_s": config.checkpoint_every_s, "lr": config.lr}
    if name in RESIDUAL:
        residual = {**common, "n_latents": config.n_new, "k": config.k_new}
        batch = round(config.batch_tokens / (1 - config.silent_frac))
        return {**residual, "silent_frac": config.silent_frac, "batch_tokens": batch, "n_tokens": steps * batch} if name == "boost_silent" else residual
    architecture = architecture_of(base)
    selects = "k" in ARCHITECTURES[architecture].settings
    if name == "scratch_domain":
        return {**common, "architecture": architecture if selects else "batch_topk", "n_latents": base.n_latents + config.n_new, "k": k}
    sparsity: dict[str, Any] = {"k": k} if selects else {"objective": penalty_of(base, architecture, config)}
    if name.startswith("finetune"):
        objective = {**sparsity.get("objective", {}), **({"tilt": config.tilt} if name == "finetune_tilted" else {})}
        return {**common, **sparsity, **({"objective": objective} if objective else {}), "lr": config.finetune_lr}
    whole = name.endswith("_all")
    extension = {"n_new": config.n_new, "new_init": "most_active" if "most_active" in name else "random", "train_only": "all" if whole else "new"}
    other = {"architecture": "batch_topk"} if architecture == "matryoshka" else {}  # its nested groups are shares of all latents
    return {**common, **sparsity, **other, "finetune": extension, "lr": config.finetune_lr if whole else config.lr}


def penalty_of(base: Sae, architecture: str, config: SpecialiseConfig) -> dict[str, Any]:
    """The objective of a base SAE whose latents are kept few by a penalty: that of the settings, or of its record.

    Raises:
        ConfigError: when neither says it.
    """
    if config.objective is not None:
        return config.objective.model_dump(mode="json", exclude_defaults=True)
    record = base.record
    found = record.config.get("objective") if record is not None and record.architecture == architecture else None
    if not isinstance(found, dict) or not (found.get("l1") or found.get("l0")):
        raise ConfigError(asked=f"train on a base SAE of the architecture {architecture}",
                          why="its record does not say by which penalty its latents are kept few",
                          instead="set specialise.objective.l1 (or l0), or leave out the variants that train it (specialise.variants)")
    return dict(found)


def total_k(base: Sae, domain: FolderStore, site: str, config: SpecialiseConfig) -> float:
    """Active latents of every variant: those of the base (by its record, or by count on text of the domain where it has none or that is asked), and k_new."""
    record = base.record
    recorded = base.k or (None if record is None or config.k_from == "domain" else record.k or record.l0)
    own = recorded or l0_on(base, sample_rows(domain, site, config.equal_l0_tokens))
    return float(round(own + config.k_new)) if architecture_of(base) == "topk" else own + config.k_new


def sample_rows(store: FolderStore, site: str, n: int = SAMPLE_ROWS) -> Float[Tensor, "token d_in"]:
    """Rows of a store, evenly spaced."""
    return store.read(np.unique(np.linspace(0, store.n_tokens - 1, min(n, store.n_tokens)).astype(np.int64)), site)


def budgets_of(config: SpecialiseConfig, n_tokens: int) -> tuple[int, ...]:
    """Sizes of the domain besides the whole.

    Raises:
        ConfigError: for one that is not between a batch and the whole.
    """
    if config.budgets is None:
        return tuple(size for size in (n_tokens // 4, n_tokens // 2) if size >= config.batch_tokens)
    for budget in config.budgets:
        if not config.batch_tokens <= budget <= n_tokens:
            raise ConfigError(asked=f"train on {budget:,} tokens of the domain (specialise.budgets)",
                              why=f"it holds {n_tokens:,}, and a batch is {config.batch_tokens:,} (specialise.batch_tokens)",
                              instead="give sizes between the two")
    return config.budgets


def check_parts(base: Sae, domain: FolderStore, general: FolderStore, config: SpecialiseConfig) -> str:
    """Refuse what does not belong together; the site where the base reads.

    Raises:
        SaeError, StoreError, CorpusError: naming what differs.
    """
    record, sites, subject = base.record, domain.manifest.sites, domain.manifest.subject
    site = record.site if record is not None else next(iter(sites))
    asked = f"specialise an SAE that was trained at {site}" if record is not None else "specialise an SAE without a record"
    if record is None and len(sites) > 1:
        raise SaeError(asked=asked, why=f"the domain's store holds {len(sites)} sites", instead="give a store of the SAE's own site alone")
    if site not in sites:
        raise SaeError(asked=asked, why=f"the domain's activations are of {', '.join(sites)}", instead=f"harvest {site}, or give an SAE of that site")
    if base.is_transcoder:
        raise SaeError(asked=asked, why="it is a transcoder: what it gives back is not what it reads",
                       instead="give an SAE that was trained without a target site")
    if base.d_in != sites[site]:
        raise SaeError(asked=asked, why=f"it reads {base.d_in} dimensions, the activations have {sites[site]}", instead="give an SAE of this site and subject")
    if record is not None and record.subject.fingerprint != subject.fingerprint:
        raise SaeError(asked=asked, why=f"it was trained on {record.subject.name} ({record.subject.fingerprint[:12]}), the domain's activations are of "
                       f"{subject.name} ({subject.fingerprint[:12]})", instead="give an SAE of this very subject, with the same token policy")
    if general.manifest.sites.get(site) != sites[site] or general.manifest.subject.fingerprint != subject.fingerprint:
        raise StoreError(asked=f"compare the domain with the general store {general.location}", why="it is of another subject or site",
                         instead="harvest both from one subject at one site")
    advised = advised_tokens(config, base.d_in)
    least = max(config.min_domain_tokens, config.batch_tokens)
    if domain.n_tokens < least:
        raise CorpusError(asked=f"specialise on a domain of {domain.n_tokens:,} training tokens",
                          why=f"fewer than {least:,} are refused (specialise.min_domain_tokens), and {advised:,} are advised for {config.n_new:,} new latents "
                          f"on {base.d_in:,} dimensions",
                          instead="raise select.max_tokens, give a larger corpus or more seeds, or set specialise.n_new lower")
    return site


def advised_tokens(config: SpecialiseConfig, d_in: int) -> int:
    """Tokens of the domain below which new latents are known to fit it alone (`train/notes.py`)."""
    return TOKENS_PER_WEIGHT * config.n_new * d_in


def work_of(name: str, base: Sae, config: SpecialiseConfig) -> float:
    """What training a variant costs beside the others: encoder weights times tokens, the base's error for residual ones."""
    if name == "grafted":
        return 1e-3 * base.n_latents
    if name in RESIDUAL:
        return config.n_new + BASE_SHARE * base.n_latents
    return float(base.n_latents + (0 if name.startswith("finetune") else config.n_new))


def named(progress: Progress, name: str) -> Progress:
    """Progress whose notes begin with a name."""
    def report(done: float, total: float, note: str = "") -> None:
        progress(done, total, f"{name}: {note}" if note else name)

    return report

