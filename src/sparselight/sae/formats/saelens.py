"""SAELens: cfg.json and sae_weights.safetensors, as 6.x writes them (read and written by sae/disk.py), and what disk.py leaves out.

Besides: the flat cfg.json from before 6.0; a `scaling_factor` of finetuning; training folders with one `topk_threshold` (BatchTopK,
Matryoshka); inputs scaled by activation_scaler.json or whitened by activation_whitening.safetensors, which are folded; reshaping of
attention heads, which is none for rows that are flat already. Asked: inputs normalized token by token (layer_norm, constant_norm_rescale).
Refuses architectures whose latents are no selection from one product: temporal, matching_pursuit, abstopk.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sparselight.sae.affine import Affine
from sparselight.sae.base import Sae
from sparselight.sae.disk import CFG, RECORD, WEIGHTS, load_sae, save_sae
from sparselight.sae.formats.format import NORMALIZATION, Exported, Format, Imported, Settings, must_be_outside, tokens_note
from sparselight.sae.formats.origin import origin
from sparselight.sae.formats.place import Place
from sparselight.sae.formats.tensors import Tensors, assemble, check_k
from sparselight.sae.gated import fold_gate
from sparselight.sae.saelens import LAYOUTS, OWN, SAELENS_VERSION, saelens_tensors

SCALER, WHITENING = "activation_scaler.json", "activation_whitening.safetensors"
TRAINING_FORMS = {"batchtopk": "jumprelu", "matryoshka_batchtopk": "jumprelu"}
RENAMED = {"hook_point": "hook_name", "activation_fn_str": "activation_fn"}  # before 6.0
FACTS = {"model_name": "model", "hook_name": "site", "hook_name_out": "target_site", "context_size": "context_tokens", "prepend_bos": "prepend_bos",
         "dataset_path": "dataset", "l0": "l0", "num_dead_features": "n_dead", "training_architecture": "architecture"}
FOLDED = ("none", "expected_average_only_in", "covariance_whitening")
PER_TOKEN = {
    "layer_norm": "SAELens takes (x - mean(x)) / (std(x) + 1e-5) over a vector's dimensions, std with n - 1, and undoes it on what comes out",
    "constant_norm_rescale": "SAELens takes x * sqrt(d_in) / |x| and undoes it on what comes out",
}


def recognize(place: Place) -> str | None:
    return f"{CFG} and {WEIGHTS}" if place.weight_file(WEIGHTS) and place.has(CFG) else None


def read(place: Place, settings: Settings) -> Imported:
    if place.has(RECORD):  # one of ours
        return Imported(load_sae(place.folder), {}, {})
    flat = place.json(CFG)
    cfg, old = modern(flat)
    architecture = TRAINING_FORMS.get(cfg["architecture"], cfg["architecture"])
    if architecture not in LAYOUTS:
        raise place.refuse(f"its architecture is {cfg['architecture']!r}, whose latents are no selection from one product of the input",
                           f"use one of {', '.join(name for name in LAYOUTS if not name.startswith(OWN))}, or wrap its functions with sparselight.wrap_coder")
    own: dict[str, str] = {}
    own |= check_input(place, cfg, settings)
    tensors = Tensors(place, WEIGHTS)
    sae = build(place, cfg, architecture, tensors, own)
    tensors.finish()
    sae = fold_scaling(place, cfg, sae, settings, own)
    metadata = cfg["metadata"]
    own |= {"dtype": tensors.dtype_note(), **tokens_note(metadata.get("prepend_bos"))}
    facts = {ours: metadata[theirs] for theirs, ours in FACTS.items() if metadata.get(theirs) is not None}
    return Imported(sae, own, facts | ({"transcoder": True} if "transcoder" in architecture else {}), cautions(metadata, old))


def modern(cfg: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """cfg.json in the words of 6.x, and whether it was older. Defaults are those that SAELens itself takes for files from before 6.0."""
    version = str((cfg.get("metadata") or {}).get("sae_lens_version") or cfg.get("sae_lens_version") or "0")
    if isinstance(cfg.get("metadata"), dict) and version.split(".")[0].isdigit() and int(version.split(".")[0]) >= 6:
        return {**cfg, "architecture": str(cfg.get("architecture"))}, False
    flat = {RENAMED.get(name, name): value for name, value in cfg.items()}
    normalize, k = flat.get("normalize_activations"), (flat.get("activation_fn_kwargs") or {}).get("k")
    is_topk = flat.get("activation_fn") == "topk" and k is not None
    return {
        **{name: flat[name] for name in ("k", "d_out", "rescale_acts_by_decoder_norm") if name in flat},
        "architecture": "topk" if is_topk else str(flat.get("architecture") or "standard"), "d_in": flat.get("d_in"), "d_sae": flat.get("d_sae"),
        "apply_b_dec_to_input": flat.get("apply_b_dec_to_input", True), **({"k": k} if is_topk else {}),
        "activation_fn": flat.get("activation_fn") or "relu", "finetuning_scaling_factor": flat.get("finetuning_scaling_factor", False),
        "normalize_activations": {None: "none", False: "none", True: "expected_average_only_in"}.get(normalize, normalize),
        "reshape_activations": flat.get("reshape_activations", "none"), "metadata": {**flat, **(flat.get("metadata") or {})},
    }, True


def check_input(place: Place, cfg: Mapping[str, Any], settings: Settings) -> dict[str, str]:
    """What the input is. Refuses what is normalized token by token, unless the user does that."""
    normalize, reshape = cfg.get("normalize_activations") or "none", cfg.get("reshape_activations") or "none"
    own = {}
    if normalize in PER_TOKEN:
        own["input"] = must_be_outside(place, settings, f"{CFG} says normalize_activations = {normalize!r}", PER_TOKEN[normalize])
    elif normalize not in FOLDED:
        raise place.refuse(f"{CFG} says normalize_activations = {normalize!r}", f"use one of {', '.join((*FOLDED, *PER_TOKEN))}")
    if reshape == "hook_z":
        own["input"] = "the outputs of all attention heads, concatenated (hook_z)"
    elif reshape != "none":
        raise place.refuse(f"{CFG} says reshape_activations = {reshape!r}", "use none or hook_z")
    return own


def build(place: Place, cfg: Mapping[str, Any], architecture: str, tensors: Tensors, own: dict[str, str]) -> Sae:
    """The SAE of the weights, before scaling is folded."""
    d_in, n_latents = tensors.matrix("W_enc")
    d_out = tensors.matrix("W_dec")[1]
    said = [cfg.get("d_in"), cfg.get("d_sae"), cfg.get("d_out", d_out)]
    if said != [d_in, n_latents, d_out]:
        raise place.refuse(f"{CFG} says d_in, d_sae, d_out = {said}, the weights have {[d_in, n_latents, d_out]}", "restore both files from one source")
    if not isinstance(cfg.get("apply_b_dec_to_input"), bool):
        raise place.refuse(f"{CFG} says apply_b_dec_to_input = {cfg.get('apply_b_dec_to_input')!r}", "set it to true or false")
    if cfg.get("activation_fn", "relu") not in ("relu", "topk"):
        raise place.refuse(f"{CFG} says activation_fn = {cfg['activation_fn']!r}", "use an SAE with relu or topk")
    b_enc = tensors.take("b_enc", n_latents) if architecture != "gated" else torch.zeros(n_latents)
    k = None
    if "k" in LAYOUTS[architecture].settings:
        if type(cfg.get("k")) is not int:
            raise place.refuse(f"{CFG} says k = {cfg.get('k')!r}, which is no whole number", "set k in that file")
        k = check_k(place, cfg["k"], n_latents)
    subtract = cfg["apply_b_dec_to_input"] and "d_out" not in LAYOUTS[architecture].settings
    sae = assemble(tensors.take("W_enc", d_in, n_latents), b_enc, tensors.take("W_dec", n_latents, d_out), tensors.take("b_dec", d_out),
                   subtract_b_dec=subtract, k=k, W_skip=tensors.take("W_skip", d_out, d_in).T if "skip" in architecture else None)
    if architecture == "gated":
        fold_gate(sae, *(tensors.take(name, n_latents) for name in ("b_gate", "r_mag", "b_mag")))
    if "jumprelu" in architecture:
        set_threshold(sae, tensors)
    if cfg.get("rescale_acts_by_decoder_norm"):
        own["decoder"] = "rows of unit norm: selection was by activation times decoder norm, so the norms were moved into the encoder"
        fold_norms(sae)
    if "scaling_factor" in tensors:
        finetuning(place, cfg, sae, tensors, own)
    return sae


@torch.no_grad()
def set_threshold(sae: Sae, tensors: Tensors) -> None:
    """One a latent; in a training folder of BatchTopK one for all."""
    if "topk_threshold" in tensors:
        sae.threshold.fill_(tensors.number("topk_threshold"))
    elif "log_threshold" in tensors:  # training folders of some versions before 6.48
        sae.threshold.copy_(tensors.take("log_threshold", sae.n_latents).exp())
    else:
        sae.threshold.copy_(tensors.take("threshold", sae.n_latents))


@torch.no_grad()
def fold_norms(sae: Sae) -> None:
    """Where latents were selected by activation times decoder norm: put the norms into the encoder. A threshold is one of such products already."""
    k, threshold = sae.k, sae.threshold.clone()
    sae.k = None  # selection is by activations in units of the rows' norms, so these may change
    sae.normalize_decoder()
    sae.k = k
    sae.threshold.copy_(threshold)


@torch.no_grad()
def finetuning(place: Place, cfg: Mapping[str, Any], sae: Sae, tensors: Tensors, own: dict[str, str]) -> None:
    """Factors by which activations were multiplied before decoding; all 1 where there was no finetuning."""
    factor = tensors.take("scaling_factor", sae.n_latents)
    if torch.allclose(factor, torch.ones_like(factor)):
        return
    if not cfg.get("finetuning_scaling_factor"):
        raise place.refuse(f"{WEIGHTS} has a scaling_factor that {CFG} does not mention", "set finetuning_scaling_factor in that file if it is to be applied")
    sae.W_dec.mul_(factor.unsqueeze(1))
    own["scaling"] = "the finetuning's scaling_factor is folded into decoder rows"


def fold_scaling(place: Place, cfg: Mapping[str, Any], sae: Sae, settings: Settings, own: dict[str, str]) -> Sae:
    """Fold what SAELens does to activations before an SAE that is still in training.

    Raises:
        SaeError: when the scaling is asked for and its numbers are not there.
    """
    normalize = cfg.get("normalize_activations") or "none"
    if normalize not in ("expected_average_only_in", "covariance_whitening"):
        return sae
    scaler = place.json(SCALER) if place.has(SCALER) else {}
    scale = scaler.get("scaling_factor")
    if normalize == "expected_average_only_in":
        if "input_scale" in settings and scale is None:
            return sae  # folded with the common settings
        if not isinstance(scale, int | float) or scale <= 0:
            raise place.ask("input_scale", f"{CFG} says normalize_activations = {normalize!r}, and no {SCALER} says by how much",
                            "sqrt(d_in) / mean norm of the activations")
        own["scaling"] = f"inputs times {scale:.6g} ({SCALER}), folded into the weights"
        scaled = sae.absorb(Affine(float(scale)), Affine(float(scale)))
        return scaled.normalize_decoder() if cfg.get("rescale_acts_by_decoder_norm") else scaled  # as SAELens exports it: norms last
    if not place.has(WHITENING):
        raise place.refuse(f"{CFG} says normalize_activations = {normalize!r}, and {WHITENING} is not there", f"restore {WHITENING}")
    return whiten(place, sae, float(scale or 1.0), own)


def whiten(place: Place, sae: Sae, scale: float, own: dict[str, str]) -> Sae:
    """Fold z = (scale * x - mean) @ matrix in float64, as SAELens keeps those numbers."""
    tensors, d = Tensors(place, WHITENING), sae.d_in
    parts = {"mean": (d,), "matrix": (d, d), "inverse_matrix": (d, d)}
    for name, shape in parts.items():
        tensors.take(name, *shape)  # for its checks; float32 would do here no more than nearly
    tensors.finish()
    mean, matrix, inverse = (tensors.values[name].double() for name in parts)
    own["scaling"] = f"whitening ({WHITENING}{'' if scale == 1 else f', after times {scale:.6g}'}), folded into the weights"
    if float((matrix @ inverse - torch.eye(d, dtype=torch.float64)).abs().max()) > 1e-3:
        raise place.refuse(f"in {WHITENING} inverse_matrix does not undo matrix", "restore that file")
    whitening = Affine(matrix * scale, mean / scale, inverse / scale)
    sae.double()
    return sae.absorb(whitening, whitening).float()


def cautions(metadata: Mapping[str, Any], old: bool) -> tuple[str, ...]:
    found = []
    if old:
        found.append("its cfg.json is from before SAELens 6.0: what it leaves out is as SAELens takes it for such files (b_dec subtracted, BOS prepended)")
    if metadata.get("training_architecture") in TRAINING_FORMS:
        found.append("SAELens before its fix of issue 763 saved BatchTopK SAEs that were trained with expected_average_only_in and rescaled by decoder norms "
                     "with a threshold off by the scaling factor; nothing in the files shows it: compare its mean active latents with its k")
    return tuple(found)


def write(sae: Sae, folder: Path) -> Exported:
    """Our own layout where the SAE has a record, else the same files without sparselight.json."""
    if sae.record is not None:
        save_sae(sae, sae.record, folder)
        return Exported()
    from safetensors.torch import save_file

    save_file(saelens_tensors(sae), folder / WEIGHTS)
    (folder / CFG).write_text(json.dumps(config_of(sae), indent=1) + "\n", encoding="utf-8")
    return Exported()


def config_of(sae: Sae) -> dict[str, Any]:
    """cfg.json of an SAE without a record: what its source said of it."""
    facts = origin(sae)
    kind = "jumprelu" if sae.k is None else "topk"
    transcoder = sae.is_transcoder and not sae.subtract_b_dec
    architecture = f"{OWN if sae.k is not None else ''}{kind}_{'' if sae.W_skip is None else 'skip_'}transcoder" if transcoder else kind
    metadata = {theirs: facts[ours] for theirs, ours in FACTS.items() if ours in facts and ours != "architecture"}
    special: dict[str, Any] = {"d_out": sae.d_out} if transcoder else {}
    if sae.k is not None:
        special |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    return {
        "architecture": architecture, "d_in": sae.d_in, "d_sae": sae.n_latents, "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": sae.subtract_b_dec,
        "normalize_activations": "none", "reshape_activations": "none", **special, "metadata": {"sae_lens_version": SAELENS_VERSION, **metadata},
    }


FORMAT = Format(
    name="saelens", title="SAELens", layout="`{cfg.json, sae_weights.safetensors}`, the same with a flat cfg.json before 6.0",
    architectures=("standard", "gated", "jumprelu", "topk", "batchtopk", "matryoshka_batchtopk", "transcoder", "skip_transcoder", "jumprelu_transcoder",
                   "jumprelu_skip_transcoder"),
    recognize=recognize, read=read, write=write, verified="sae-lens 6.54.12, both ways (tests/peers/test_saelens.py, test_saelens_formats.py)",
    written=("jumprelu", "topk", "jumprelu_transcoder", "jumprelu_skip_transcoder"), settings={"normalization": NORMALIZATION},
    refuses="temporal, matching_pursuit, abstopk; layer_norm and constant_norm_rescale inputs unless normalized by the user")
