"""Runs in the environment of SAELens: save SAEs of every architecture with the real library, and read other formats with its readers.

Usage: python saelens_formats_driver.py CASE... Each CASE is a folder with inputs.safetensors (`x`) and case.json:
    {"what": "inference", "architecture": ..., "settings": {...}}   an SAE is made and saved to sae/
    {"what": "training", "architecture": ..., "settings": {...}, "scaling": "scale" or "whiten"}   a training checkpoint is saved to sae/ before its
        input scaling is folded; outputs are those of the SAE as SAELens exports it afterwards, which is saved to exported/
    {"what": "reader", "reader": ..., "repository": ..., "folder": ..., "overrides": {...}}   sae/ is read as if it had been downloaded
    {"what": "load"}   sae/ is loaded from disk
Each gets outputs.safetensors (`latents`, `reconstruction`).
"""

import copy
import json
import math
import sys
from pathlib import Path
from typing import Any

import sae_lens
import torch
from sae_lens.loading import pretrained_sae_loaders as readers
from sae_lens.registry import get_sae_class, get_sae_training_class
from sae_lens.training.activation_scaler import ActivationScaler, ActivationWhitening
from safetensors import safe_open
from safetensors.torch import load_file, save_file


@torch.no_grad()
def randomize(sae: Any) -> None:
    torch.manual_seed(3)
    for name, parameter in sae.named_parameters():
        parameter.copy_(torch.randn_like(parameter) * (0.3 if name == "r_mag" else 1.0))
    if hasattr(sae, "topk_threshold"):
        sae.topk_threshold.fill_(2.0)


def outputs_of(sae: Any, x: torch.Tensor, case: Path) -> None:
    with torch.no_grad():
        latents, reconstruction = sae.encode(x), sae(x)
    save_file({"latents": latents.contiguous(), "reconstruction": reconstruction.contiguous()}, case / "outputs.safetensors")


def inference(case: Path, wanted: dict[str, Any], x: torch.Tensor) -> None:
    cls, config = get_sae_class(wanted["architecture"])
    sae = cls(config(**wanted["settings"]))
    randomize(sae)
    sae.save_model(case / "sae")
    outputs_of(sae_lens.SAE.load_from_disk(case / "sae"), x, case)


def training(case: Path, wanted: dict[str, Any], x: torch.Tensor) -> None:
    cls, config = get_sae_training_class(wanted["architecture"])
    sae = cls(config(**wanted["settings"]))
    randomize(sae)
    scaler = ActivationScaler()
    if wanted["scaling"] == "scale":
        scaler.scaling_factor = 2.5
    else:
        scaler.whitening = whitening(sae.cfg.d_in)
    sae.save_model(case / "sae")
    scaler.save(str(case / "sae" / "activation_scaler.json"))
    sae = copy.deepcopy(sae)
    if scaler.scaling_factor is not None:
        sae.fold_activation_norm_scaling_factor(scaler.scaling_factor)
    if scaler.whitening is not None:
        whiten = scaler.whitening
        sae.fold_activation_whitening(mean=whiten.mean, whitening_matrix=whiten.matrix, unwhitening_matrix=whiten.inverse_matrix)
    sae.save_inference_model(case / "exported")
    outputs_of(sae_lens.SAE.load_from_disk(case / "exported"), x, case)


def whitening(d: int) -> ActivationWhitening:
    generator = torch.Generator().manual_seed(4)
    rotation = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q
    scale = torch.linspace(0.5, 2, d, dtype=torch.float64)
    return ActivationWhitening(torch.randn(d, generator=generator, dtype=torch.float64), rotation * scale, (rotation / scale).T.contiguous())


def shapes_of(_repository: str, name: str) -> dict[str, list[int]]:
    with safe_open(local / Path(name).name, framework="pt") as file:
        return {key: list(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118


local = Path()


def download(repo_id: str, filename: str, subfolder: str | None = None, **_more: Any) -> str:
    """The file of that name in the case's folder; names of folders above it are the repository's."""
    parts = Path(filename if subfolder is None else f"{subfolder}/{filename}").parts
    for start in range(len(parts)):
        path = local.joinpath(*parts[start:])
        if path.exists():
            return str(path)
    raise FileNotFoundError(filename)


def reader(case: Path, wanted: dict[str, Any], x: torch.Tensor) -> None:
    global local
    local = case / "sae"
    readers.hf_hub_download, readers.get_safetensors_tensor_shapes = download, shapes_of
    read = readers.NAMED_PRETRAINED_SAE_LOADERS[wanted["reader"]]
    overrides = {"dtype": "float32", "device": "cpu", **wanted.get("overrides", {})}
    cfg, state, _ = read(wanted["repository"], wanted["folder"], "cpu", False, overrides)
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    sae = sae_lens.SAE.load_from_disk(case / "sae", converter=lambda *_given, **_more: (cfg, state))
    if "norm" in wanted:  # SAELens keeps the factors of published releases in a table of its own
        sae.fold_activation_norm_scaling_factor(math.sqrt(sae.cfg.d_in) / wanted["norm"])
    outputs_of(sae, x, case)


def main(case: Path) -> None:
    wanted, x = json.loads((case / "case.json").read_text()), load_file(case / "inputs.safetensors")["x"]
    if wanted["what"] == "load":
        outputs_of(sae_lens.SAE.load_from_disk(case / "sae"), x, case)
    else:
        {"inference": inference, "training": training, "reader": reader}[wanted["what"]](case, wanted, x)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        main(Path(argument))
