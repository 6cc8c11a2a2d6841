"""Runs in the environment of SAELens: load SAE folders with the real library, write what it computes, save them back; make folders of its own.

Usage: python saelens_driver.py CASE... Each CASE is a folder with sae/ and inputs.safetensors (`x`); it gets outputs.safetensors
(`latents`, `reconstruction`), facts.json and copy/, the SAE as SAELens itself writes it. A case without sae/cfg.json but with own.json
(architecture and settings) is an SAE that SAELens makes, with random weights. What SAELens cannot load is named in facts.json.
"""

import json
import sys
from pathlib import Path

import sae_lens
import torch
from safetensors.torch import load_file, save_file


def make_own(case: Path) -> None:
    settings = json.loads((case / "own.json").read_text())
    config = sae_lens.SAE.get_sae_config_class_for_architecture(settings["architecture"]).from_dict({**settings, "metadata": {}})
    sae = sae_lens.SAE.get_sae_class_for_architecture(settings["architecture"])(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    sae.save_model(case / "sae")


def run_case(case: Path) -> None:
    if (case / "own.json").exists():
        make_own(case)
    x = load_file(case / "inputs.safetensors")["x"]
    try:
        sae = sae_lens.SAE.load_from_disk(case / "sae")
    except (KeyError, ValueError) as err:
        (case / "facts.json").write_text(json.dumps({"refused": f"{type(err).__name__}: {err}"}))
        return
    with torch.no_grad():
        latents = sae.encode(x)
        reconstruction = sae(x)  # decode alone leaves a skip connection out
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
