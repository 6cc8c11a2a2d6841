"""Runs in the environment of SAELens: load SAE folders with the real library, write what it computes, save them back.

Usage: python saelens_driver.py CASE... Each CASE is a folder with sae/ and inputs.safetensors (`x`); it gets outputs.safetensors
(`latents`, `reconstruction`), facts.json and copy/, the SAE as SAELens itself writes it.
"""

import json
import sys
from pathlib import Path

import sae_lens
import torch
from safetensors.torch import load_file, save_file


def run_case(case: Path) -> None:
    x = load_file(case / "inputs.safetensors")["x"]
    sae = sae_lens.SAE.load_from_disk(case / "sae")
    with torch.no_grad():
        latents = sae.encode(x)
        reconstruction = sae.decode(latents)
    save_file({"latents": latents.contiguous(), "reconstruction": reconstruction.contiguous()}, case / "outputs.safetensors")
    sae.save_model(case / "copy")
    metadata = sae.cfg.metadata
    facts = {
        "sae_lens": sae_lens.__version__, "class": type(sae).__name__, "hook_name": metadata.hook_name, "model_name": metadata.model_name,
        "prepend_bos": metadata.prepend_bos, "context_size": metadata.context_size,
    }
    (case / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        run_case(Path(argument))
