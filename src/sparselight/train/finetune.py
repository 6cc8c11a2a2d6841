"""Training that goes on from an SAE (fine-tuning), with latents added to it where that is asked for (an extended SAE).

The SAE's weights are brought into the scaled space of the training by the inverse of the map that folding undoes, so that before the first
step it reconstructs as it did; what the settings leave open (architecture, width, k, target) is the SAE's. With train.finetune.train_only =
"new" all it had comes out bit for bit. Refuses: settings that contradict the SAE, and what the files of a foreign one leave open.
"""

import copy
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from sparselight.errors import ConfigError, TrainingError
from sparselight.sae import ARCHITECTURES, Sae, initialize
from sparselight.train.config import FinetuneConfig, TrainConfig
from sparselight.train.data import SCALE_BATCHES, Scaling, TrainingData

ONE_UNIT = 1e-5  # decoder norms that differ by less, relative to the largest, are one


def settle(config: TrainConfig, init: Sae | None, table: str = "train") -> TrainConfig:
    """The settings, with what they leave open taken from the SAE that training goes on from.

    Args:
        table: name of the settings in their recipe, for messages.

    Raises:
        ConfigError: when they contradict it, or nothing says how sparse it is meant to be.
    """
    if init is None:
        if config.finetune != FinetuneConfig():
            raise ConfigError(asked=f"train with {table}.finetune", why="there is no SAE to go on from", instead="give one (init=, --init), or leave it out")
        return config
    given = {name: value for name, value in config.model_dump(mode="json", exclude_unset=True).items() if value is not None and name != "expansion"}
    asked = f"go on training from an SAE of {init.n_latents} latents"
    n_latents = init.n_latents + config.finetune.n_new
    for name, contradicts in (("n_latents", config.n_latents not in (None, n_latents)), ("expansion", config.expansion != TrainConfig().expansion)):
        if contradicts:
            raise ConfigError(asked=asked, why=f"{table}.{name} = {getattr(config, name):g}", instead=f"leave it out; {table}.finetune.n_new adds latents")
    architecture = given.get("architecture") or architecture_of(init)
    found = {"architecture": architecture, "n_latents": n_latents, **specific_settings(init, architecture, given, asked, table)}
    target = target_of(init)
    if target is None and init.is_transcoder and config.target_site is None:
        raise ConfigError(asked=asked, why="it is a transcoder, and nothing says of which site", instead=f"set {table}.target_site")
    if init.W_skip is not None:
        found["skip"] = True
    settled = TrainConfig.parse({**found, **({} if target is None else {"target_site": target}), **given}, table)
    check_settled(settled, init, target, asked, table)
    return settled


def architecture_of(init: Sae) -> str:
    """What its record says, or its form: k -> topk, no thresholds -> relu, one for all -> batch_topk, one each -> jump_relu."""
    record = init.record
    if record is not None and record.role in ("base", "residual") and record.architecture in ARCHITECTURES:
        return record.architecture
    if init.k is not None:
        return "topk"
    thresholds = init.threshold.clamp(min=0)
    if not thresholds.any():
        return "relu"
    return "batch_topk" if torch.allclose(thresholds, thresholds[0], rtol=ONE_UNIT) else "jump_relu"


def specific_settings(init: Sae, architecture: str, given: dict[str, Any], asked: str, table: str) -> dict[str, Any]:
    """What the SAE says of its architecture's own settings."""
    if architecture not in ARCHITECTURES:
        return {}  # its name is refused with the other settings
    settings, record = ARCHITECTURES[architecture].settings, init.record
    recorded = record.config if record is not None and record.architecture == architecture else {}
    found: dict[str, Any] = {name: recorded[name] for name in ("group_fracs", "within_token", "bandwidth") if name in settings and name in recorded}
    if "k" in settings and "k" not in given:
        facts = {} if init.imported is None else init.imported.facts
        known = [init.k, *((None, None) if record is None else (record.k, record.l0)), facts.get("k"), facts.get("l0")]
        k = next((float(value) for value in known if value), None)
        if k is None:
            raise ConfigError(asked=asked, why="nothing says how many of its latents a token is meant to have", instead=f"set {table}.k")
        found["k"] = float(max(1, round(k))) if architecture == "topk" or found.get("within_token") else k
    if architecture == "matryoshka" and given.get("finetune", {}).get("n_new"):
        raise ConfigError(asked=asked, why="its nested groups are shares of all latents, and added ones would shift them",
                          instead=f"set {table}.architecture = 'batch_topk', or {table}.finetune.n_new = 0")
    return found


def target_of(init: Sae) -> str | None:
    if init.record is not None:
        return init.record.target_site
    return None if init.imported is None else init.imported.facts.get("target_site")


def check_settled(config: TrainConfig, init: Sae, target: str | None, asked: str, table: str) -> None:
    """Refuse settings with which the SAE would not compute before the first step what it did."""
    if config.target_site != target and (target is not None or not init.is_transcoder):
        raise ConfigError(asked=asked, why=f"{table}.target_site = {config.target_site!r}, and it gives back {target or 'what it reads'}",
                          instead=f"leave {table}.target_site out, or train a fresh one")
    if config.skip != (init.W_skip is not None):
        raise ConfigError(asked=asked, why=f"{table}.skip = true, and it has no skip connection", instead=f"leave {table}.skip out")
    if config.architecture == "relu" and bool((init.threshold > 0).any()):
        raise ConfigError(asked=asked, why=f"its latents have thresholds, which {table}.architecture = 'relu' has not", instead="use jump_relu or batch_topk")
    ranked = config.architecture == "topk" or config.within_token
    norms = torch.linalg.vector_norm(init.W_dec, dim=1)
    if ranked and config.decoder_norm == "unit" and (config.normalize not in ("none", "scalar") or not is_one(norms)):
        why = "decoder rows of unit norm would make other latents the k largest" if is_one(norms) else "its decoder rows differ in norm"
        raise ConfigError(asked=asked, why=f"it keeps the k largest, and with {table}.decoder_norm = 'unit' {why}",
                          instead=f"set {table}.decoder_norm = 'free'" + (f", or {table}.normalize = 'scalar'" if is_one(norms) else ""))
    if config.finetune.new_init == "most_active" and config.finetune.n_new > init.n_latents:
        raise ConfigError(asked=f"set {table}.finetune.n_new to {config.finetune.n_new}", why=f"the SAE has {init.n_latents} latents to copy",
                          instead=f"make it smaller, or set {table}.finetune.new_init = 'random'")


def is_one(norms: Float[Tensor, " latent"]) -> bool:
    return bool((norms - norms[0]).abs().max() <= ONE_UNIT * norms.max())


@torch.no_grad()
def start_from(init: Sae, config: TrainConfig, data: TrainingData) -> Sae:
    """The SAE as training sees it, in front of the latents added to it. Its function on scaled rows is the SAE's on raw ones."""
    device = data.rows.device
    own = in_scaled_space(copy.deepcopy(init).to(device), data.scaling, config.decoder_norm == "unit")
    if config.architecture == "jump_relu" and not (own.threshold > 0).any():
        own.threshold.fill_(config.first_threshold)
    sae = Sae(own.d_in, own.n_latents + config.finetune.n_new, own.subtract_b_dec, d_out=own.d_out, skip=own.W_skip is not None).to(device)
    new = new_latents(init, own, config, data)
    sae.W_enc.copy_(torch.cat([own.W_enc, new.W_enc], 1))
    for name in ("b_enc", "W_dec", "threshold"):
        getattr(sae, name).copy_(torch.cat([getattr(own, name), getattr(new, name)]))
    sae.b_dec.copy_(own.b_dec)
    if sae.W_skip is not None and own.W_skip is not None:
        sae.W_skip.copy_(own.W_skip)
    sae.b_dec.requires_grad_(data.base is None)
    return sae


@torch.no_grad()
def in_scaled_space(sae: Sae, scaling: Scaling, unit_rows: bool) -> Sae:
    """The inverse of folding, in float64 on the way."""
    into, out_of = (part.to(torch.float64).inverted() for part in (scaling.into, scaling.out_of))
    sae = sae.double().absorb(into, out_of)
    if not is_one(torch.linalg.vector_norm(sae.W_dec, dim=1)):
        sae.k = None  # else its latents would keep their units
    if unit_rows:
        sae.normalize_decoder()
    sae.k = None  # the training's own way of selecting begins
    return sae.float()


def new_latents(init: Sae, own: Sae, config: TrainConfig, data: TrainingData) -> Sae:
    """The added latents, in scaled units; none where none are asked for. They read rows centered on the store's mean, or as what they copy does."""
    n_new, device = config.finetune.n_new, data.rows.device
    fresh = Sae(own.d_in, n_new, False, d_out=own.d_out)
    initialize(fresh, None, torch.Generator().manual_seed(config.seed), tied=config.tied_init and config.target_site is None)
    fresh = fresh.to(device)
    if n_new and config.finetune.new_init == "most_active":
        return with_noise(own, most_active(init, data, n_new), fresh, config.finetune.new_noise)
    mean = data.scaling.b_dec if data.is_plain and data.scaling.b_dec is not None else torch.zeros_like(own.W_enc[:, 0])
    fresh.b_enc.copy_(((own.b_dec if own.subtract_b_dec else torch.zeros_like(mean)) - mean) @ fresh.W_enc)
    fresh.threshold.fill_(config.first_threshold if config.architecture == "jump_relu" else 0.0)
    return fresh


def with_noise(own: Sae, chosen: Int[Tensor, " new"], noise: Sae, size: float) -> Sae:
    """Copies of latents; each row has noise of `size` times its length added, decoder rows get their length back."""
    for name in ("b_enc", "threshold"):
        getattr(noise, name).copy_(getattr(own, name)[chosen])
    columns, rows = own.W_enc[:, chosen], own.W_dec[chosen]
    noise.W_enc.copy_(columns + size * torch.linalg.vector_norm(columns, dim=0) * noise.W_enc)
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    noise.W_dec.copy_(normalize(rows + size * lengths * noise.W_dec) * lengths)
    return noise


def most_active(init: Sae, data: TrainingData, n: int) -> Int[Tensor, " latent"]:
    """The latents that fire on most rows of the first batches, the most active first, ties by number."""
    init = copy.deepcopy(init).to(data.rows.device)
    fires = sum(torch.bincount(init.encode(data.rows.batch(step).own).latents, minlength=init.n_latents) for step in range(SCALE_BATCHES))
    assert isinstance(fires, Tensor)
    return fires.argsort(descending=True, stable=True)[:n]


@torch.no_grad()
def put_back(sae: Sae, init: Sae, config: TrainConfig) -> None:
    """After folding, when only new latents were trained: everything that the SAE had, bit for bit.

    Only a threshold that selection by rank has for all latents together is a new one. Where k selects, new latents take the units of the old ones.
    """
    n = init.n_latents
    before, now = (torch.linalg.vector_norm(part.W_dec[:n], dim=1) for part in (init, sae))
    units = torch.where(now > 0, before / now, 1)
    if is_one(units) and abs(float(units[0]) - 1) < ONE_UNIT:
        units = torch.ones_like(units)
    sae.W_enc[:, :n], sae.b_enc[:n], sae.W_dec[:n] = init.W_enc, init.b_enc, init.W_dec
    sae.b_dec.copy_(init.b_dec)
    if sae.W_skip is not None and init.W_skip is not None:
        sae.W_skip.copy_(init.W_skip)
    if sae.k is not None:
        sae.W_dec[n:] *= units.mean()
        sae.W_enc[:, n:] /= units.mean()
        sae.b_enc[n:] /= units.mean()
        sae.threshold /= units.mean()
    elif "k" in ARCHITECTURES[config.architecture].settings:
        sae.threshold[:n] /= units
    else:
        sae.threshold[:n] = init.threshold


def check_init(init: Sae, base: Sae | None, site: str, d_in: int, d_out: int) -> None:
    """Refuse an SAE of another site or width, and a residual one that adds something everywhere.

    Raises:
        TrainingError: naming what does not fit.
    """
    asked = f"go on training from an SAE at {site}"
    if init.d_in != d_in or init.d_out != d_out:
        raise TrainingError(asked=asked, why=f"it reads {init.d_in} dimensions and gives back {init.d_out}; the store has {d_in} and {d_out}",
                            instead="give an SAE of the same site and target")
    if init.record is not None and init.record.site != site:
        raise TrainingError(asked=asked, why=f"it was trained at {init.record.site}", instead="give an SAE of the same site")
    if base is not None and bool(init.b_dec.any()):
        raise TrainingError(asked=asked, why="with a base SAE it is a residual SAE, and its decoder bias is not 0", instead="give a residual SAE, or no base")
