"""Runs in the environment of sparsify: load SAE folders, or make and save some, with the real library; write what it computes.

Usage: python sparsify_driver.py CASE... Each CASE is a folder with inputs.safetensors (`x`) and either sae/, which is loaded, or make.json
(d_in, seed and settings of SparseCoderConfig), of which a SAE is made and saved to sae/. It gets outputs.safetensors and copy/. Reconstructions
are taken from decode(encode(x)): where multi_topk is on, forward() gives that of 4 k latents in its place.
"""

import contextlib
import io
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

with contextlib.redirect_stdout(io.StringIO()):  # it prints whether Triton is there
    from sparsify import SparseCoder, SparseCoderConfig


def make(case: Path) -> None:
    settings = json.loads((case / "make.json").read_text())
    torch.manual_seed(settings.pop("seed"))
    coder = SparseCoder(settings.pop("d_in"), SparseCoderConfig(**settings))
    for parameter in coder.parameters():
        parameter.data.copy_(torch.randn_like(parameter))
    if settings.get("normalize_decoder", True):
        coder.set_decoder_norm_to_unit_norm()
    coder.save_to_disk(case / "sae")


def run_case(case: Path) -> None:
    if (case / "make.json").exists():
        make(case)
    x = load_file(case / "inputs.safetensors")["x"]
    coder = SparseCoder.load_from_disk(case / "sae")
    with torch.no_grad():
        encoded = coder.encode(x)
        reconstruction = coder.decode(encoded.top_acts, encoded.top_indices)
        if coder.W_skip is not None:
            reconstruction = reconstruction + x @ coder.W_skip.mT
    latents = torch.zeros(len(x), coder.num_latents).scatter(1, encoded.top_indices, encoded.top_acts)
    save_file({"latents": latents, "reconstruction": reconstruction.contiguous()}, case / "outputs.safetensors")
    coder.save_to_disk(case / "copy")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        run_case(Path(argument))
