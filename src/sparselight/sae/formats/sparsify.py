"""EleutherAI's sparsify: cfg.json and sae.safetensors a hookpoint, many of them in one tree, with a folder a seed where there are several.

With E = encoder.weight [latent, d_in], W_dec [latent, d_out] and, where skip_connection is on, W_skip [d_out, d_in]:
    z = the k largest of relu(E (x - b_dec) + encoder.bias)     (x itself where transcode is on)
    x_hat = z W_dec + b_dec (+ W_skip x)
Refuses `groupmax` (one latent a group) and the `signed` selection of early versions: neither is the k largest.
"""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from sparselight.sae.base import Sae
from sparselight.sae.formats.format import Exported, Format, Imported, Settings
from sparselight.sae.formats.place import Place
from sparselight.sae.formats.tensors import Tensors, assemble, check_k
from sparselight.sae.formats.writing import cannot_write, subtracting

CFG, WEIGHTS = "cfg.json", "sae.safetensors"
NAMES = ("encoder.weight", "encoder.bias", "W_dec", "b_dec")
CFG_NAMES = {"activation", "expansion_factor", "normalize_decoder", "num_latents", "k", "multi_topk", "skip_connection", "transcode", "d_in", "signed"}
ARCHITECTURES = ("topk", "topk transcoder", "topk skip transcoder")


def recognize(place: Place) -> str | None:
    return f"{CFG} and {WEIGHTS}" if place.weight_file(WEIGHTS) and place.has(CFG) else None


def read(place: Place, settings: Settings) -> Imported:  # noqa: ARG001
    cfg = place.json(CFG)
    activation = cfg.get("activation", "topk")
    if activation != "topk" or cfg.get("signed"):
        kind = f"activation = {activation!r}" if activation != "topk" else "signed = true"
        raise place.refuse(f"{CFG} says {kind}", "use an SAE that keeps the k largest (activation topk, not signed)")
    unknown = sorted(set(cfg) - CFG_NAMES)
    if unknown:
        raise place.refuse(f"{CFG} has settings of which nothing is known: {', '.join(unknown)}", "give an SAE of sparsify up to 1.3")
    tensors = Tensors(place, WEIGHTS)
    n_latents, d_in = tensors.matrix("encoder.weight")
    check_cfg(place, cfg, d_in, n_latents)
    skip = "W_skip" in tensors
    if skip is not bool(cfg.get("skip_connection")):
        raise place.refuse(f"{CFG} says skip_connection = {cfg.get('skip_connection')}, {WEIGHTS} has {'a' if skip else 'no'} W_skip", "restore both files")
    transcode = bool(cfg.get("transcode"))
    sae = assemble(*tensors.four(NAMES, "latent d_in", "latent d_out"), subtract_b_dec=not transcode, k=check_k(place, cfg["k"], n_latents),
                   W_skip=tensors.take("W_skip", tensors.matrix("W_dec")[1], d_in).T if skip else None)
    tensors.finish()
    moved = {"b_dec": "subtracted from the input before encoding (moved into b_enc: the skip connection reads the whole input), added after decoding"}
    conventions = {"dtype": tensors.dtype_note(), **(moved if skip and not transcode else {})}
    cautions = ("multi_topk is on: its library's forward() then gives the reconstruction of 4 k latents, and its encode(), as here, k of them",)
    return Imported(sae, conventions, facts_of(place, transcode), cautions if cfg.get("multi_topk") else ())


def check_cfg(place: Place, cfg: dict[str, Any], d_in: int, n_latents: int) -> None:
    """Refuse a cfg.json that says another shape than the weights have, or no k."""
    for name in ("d_in", "k"):
        if type(cfg.get(name)) is not int:
            raise place.refuse(f"{CFG} says {name} = {cfg.get(name)!r}, which is no whole number", f"set {name} in that file")
    expected = cfg.get("num_latents") or d_in * cfg.get("expansion_factor", 32)
    if (cfg["d_in"], expected) != (d_in, n_latents):
        raise place.refuse(f"{CFG} says {cfg['d_in']} dimensions and {expected} latents, the weights have {d_in} and {n_latents}", "restore both files")


def facts_of(place: Place, transcode: bool) -> dict[str, Any]:
    """The hookpoint is the folder's name; the model stands in config.json at the root of the tree, one or two folders up."""
    folder = place.folder.resolve()
    is_seed = folder.name.removeprefix("seed").isdigit()
    facts: dict[str, Any] = {"site": folder.parent.name if is_seed else folder.name} | ({"transcoder": True} if transcode else {})
    root = folder.parents[1 if is_seed else 0] / "config.json"
    try:
        config = json.loads(root.read_text(encoding="utf-8")) if root.is_file() else {}
    except (OSError, ValueError):
        return facts
    names = {"model": "model", "dataset": "dataset", "ctx_len": "context_tokens"}
    return facts | ({ours: config[theirs] for theirs, ours in names.items() if isinstance(config.get(theirs), str | int)} if isinstance(config, dict) else {})


def write(sae: Sae, folder: Path) -> Exported:
    """One hookpoint's folder."""
    if sae.k is None:
        raise cannot_write("sparsify", "it selects by thresholds, and sparsify keeps the k largest of each token",
                           "write saelens, dictionary_learning or gemma_scope")
    if sae.d_out != sae.d_in:
        raise cannot_write("sparsify", f"it reads {sae.d_in} dimensions and gives back {sae.d_out}, sparsify has one width for both", "write saelens")
    transcode = sae.is_transcoder
    sae, changed = (sae, ()) if transcode and not sae.subtract_b_dec else subtracting(sae)
    tensors = dict(zip(NAMES, (sae.W_enc.T, sae.b_enc, sae.W_dec, sae.b_dec), strict=True))
    if sae.W_skip is not None:
        tensors["W_skip"] = sae.W_skip.T
    save_file({name: tensor.detach().float().contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)
    cfg = {"activation": "topk", "expansion_factor": max(1, sae.n_latents // sae.d_in), "normalize_decoder": True, "num_latents": sae.n_latents, "k": sae.k,
           "multi_topk": False, "skip_connection": sae.W_skip is not None, "transcode": transcode, "d_in": sae.d_in}
    (folder / CFG).write_text(json.dumps(cfg, indent=1) + "\n", encoding="utf-8")
    return Exported(changed)


FORMAT = Format(
    name="sparsify", title="sparsify (EleutherAI)", layout="`<hookpoint>[/seedN]/{cfg.json, sae.safetensors}`",
    architectures=ARCHITECTURES, recognize=recognize, read=read, write=write, written=ARCHITECTURES,
    verified="eai-sparsify 1.3.3, both ways (tests/peers/test_sparsify.py)",
    refuses="groupmax, signed selection")
