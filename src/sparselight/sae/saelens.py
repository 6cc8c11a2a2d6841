"""SAELens' architectures on disk: names, settings and tensors of each, and our SAE in them and back.

Ours is written as `jumprelu` or, where it keeps the k largest of each token, `topk`; a transcoder as `jumprelu_transcoder` or
`jumprelu_skip_transcoder`. SAELens has no transcoder that keeps the k largest: that is written under a name of our own, which SAELens
refuses to load, because as any of its architectures it would select other latents. `metadata.not_in_saelens` says so.
Read besides, exactly: `standard`, `transcoder`, `skip_transcoder` (thresholds 0), `gated` (folded), `topk` whose selection is by
activation times decoder norm (rows are normalized).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparselight.records import SaeRecord
from sparselight.sae.architectures import ARCHITECTURES
from sparselight.sae.base import Sae
from sparselight.sae.gated import fold_gate

SAELENS_VERSION = "6.54.12"  # whose layout this is; without it SAELens takes a folder for one from before 6.0 and drops its metadata
WEIGHTS = ("W_enc", "b_enc", "W_dec", "b_dec")
GATED = ("W_enc", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag")
COMMON: dict[str, type] = {"d_in": int, "d_sae": int, "apply_b_dec_to_input": bool}
OWN = "sparselight_"


class Layout(NamedTuple):
    """One architecture."""

    tensors: tuple[str, ...]
    settings: dict[str, type]
    """Of cfg.json, which must be there."""

    def shapes(self, cfg: Mapping[str, Any]) -> dict[str, list[int]]:
        d_in, n_latents, d_out = cfg["d_in"], cfg["d_sae"], cfg["d_out" if "d_out" in self.settings else "d_in"]
        matrices = {"W_enc": [d_in, n_latents], "W_dec": [n_latents, d_out], "b_dec": [d_out], "W_skip": [d_out, d_in]}
        return {name: matrices.get(name, [n_latents]) for name in self.tensors}


def _layouts() -> dict[str, Layout]:
    found = {
        "standard": Layout(WEIGHTS, COMMON), "jumprelu": Layout((*WEIGHTS, "threshold"), COMMON), "gated": Layout(GATED, COMMON),
        "topk": Layout(WEIGHTS, {**COMMON, "k": int}),
    }
    transcoders = {"": found["standard"], "jumprelu_": found["jumprelu"], f"{OWN}topk_": found["topk"]}
    for prefix, (tensors, settings) in transcoders.items():
        found[f"{prefix}transcoder"] = Layout(tensors, {**settings, "d_out": int})
        found[f"{prefix}skip_transcoder"] = Layout((*tensors, "W_skip"), {**settings, "d_out": int})
    return found


LAYOUTS = _layouts()


def saelens_name(sae: Sae, record: SaeRecord) -> str:
    """The architecture that an SAE is written as."""
    kind = "jumprelu" if sae.k is None else "topk"
    if record.target_site is None and sae.W_skip is None and sae.d_out == sae.d_in:
        return kind
    return f"{OWN if sae.k is not None else ''}{kind}_{'' if sae.W_skip is None else 'skip_'}transcoder"


def saelens_config(sae: Sae, record: SaeRecord) -> dict[str, Any]:
    """cfg.json. `hook_name` is our site name; SAELens' own TransformerLens names do not apply to Hugging Face modules."""
    architecture, policy = saelens_name(sae, record), record.subject.token_policy
    special: dict[str, Any] = {"d_out": sae.d_out} if "d_out" in LAYOUTS[architecture].settings else {}
    if sae.k is not None:
        special |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    metadata = {
        "sae_lens_version": SAELENS_VERSION, "model_name": record.subject.name, "hook_name": record.site, "hf_hook_name": module_path(record.site),
        "context_size": policy.context_tokens, "prepend_bos": policy.prepend_bos, "exclude_special_tokens": not policy.count_specials,
        "training_architecture": ARCHITECTURES[record.architecture].saelens_name, "l0": record.l0, "num_dead_features": record.n_dead,
    }
    if record.target_site is not None:
        metadata |= {"hook_name_out": record.target_site, "hf_hook_name_out": module_path(record.target_site)}
    if architecture.startswith(OWN):
        metadata["not_in_saelens"] = "a transcoder that keeps the k largest latents of each token: read it with sparselight"
    return {
        "architecture": architecture, "d_in": sae.d_in, "d_sae": sae.n_latents, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": sae.subtract_b_dec, "normalize_activations": "none", "reshape_activations": "none", **special, "metadata": metadata,
    }


def module_path(site: str) -> str | None:
    """The module whose output a site is."""
    path, colon, side = site.rpartition(":")
    return path if colon and side == "output" else None


def saelens_tensors(sae: Sae) -> dict[str, Tensor]:
    """Tensors as SAELens has them: W_skip is [d_out, d_in] there."""
    tensors = {name: tensor.float() for name, tensor in sae.tensors().items()}
    if "W_skip" in tensors:
        tensors["W_skip"] = tensors["W_skip"].T.contiguous()
    return tensors


@torch.no_grad()
def sae_from(cfg: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Sae:
    """The SAE that checked settings and tensors of SAELens stand for."""
    settings = LAYOUTS[cfg["architecture"]].settings
    sae = Sae(cfg["d_in"], cfg["d_sae"], cfg["apply_b_dec_to_input"], d_out=cfg["d_out"] if "d_out" in settings else None,
              k=cfg["k"] if "k" in settings else None, skip="W_skip" in tensors)
    for name in (*WEIGHTS, "threshold"):
        if name in tensors:
            getattr(sae, name).copy_(tensors[name])
    if sae.W_skip is not None:
        sae.W_skip.copy_(tensors["W_skip"].T)
    if "r_mag" in tensors:
        fold_gate(sae, tensors["b_gate"], tensors["r_mag"], tensors["b_mag"])
    if sae.k is not None and cfg.get("rescale_acts_by_decoder_norm", False):
        sae.k = None  # selection is by what the activations are in units of the rows' norms, so these may change
        sae.normalize_decoder().k = cfg["k"]
    return sae
