"""Runs in the environment of dictionary_learning: load trainers' folders, or make and save some, with the real library; write what it computes.

Usage: python dictionary_learning_driver.py CASE... Each CASE is a folder with inputs.npz (`x`) and either sae/ (ae.pt, config.json), or make.json
(dict_class, seed, arguments), of which one is made and saved to sae/. It gets outputs.npz and copy/ae.pt. The library imports nnsight, datasets
and zstandard for its buffers of language-model activations alone: where they are missing empty stand-ins take their place.
"""

import importlib.util
import json
import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import torch

for name in ("nnsight", "datasets", "zstandard"):
    if importlib.util.find_spec(name) is None:
        sys.modules[name] = MagicMock()

from dictionary_learning import dictionary, utils  # noqa: E402
from dictionary_learning.trainers import batch_top_k, matryoshka_batch_top_k, top_k  # noqa: E402


def make(case: Path) -> None:
    settings = json.loads((case / "make.json").read_text())
    torch.manual_seed(settings["seed"])
    modules = (dictionary, top_k, batch_top_k, matryoshka_batch_top_k)
    cls = next(getattr(module, settings["dict_class"]) for module in modules if hasattr(module, settings["dict_class"]))
    ae = cls(*settings["arguments"])
    for parameter in ae.parameters():
        parameter.data.copy_(torch.randn_like(parameter))
    if settings["dict_class"] == "JumpReluAutoEncoder":
        ae.threshold.data.copy_(torch.rand_like(ae.threshold) * 4 - 1)  # some below 0
    if settings["dict_class"] == "GatedAutoEncoder":
        ae.r_mag.data.mul_(0.3)
    if "threshold" in settings:
        ae.threshold.fill_(settings["threshold"])
    (case / "sae").mkdir()
    torch.save(ae.state_dict(), case / "sae" / "ae.pt")
    trainer = {"dict_class": settings["dict_class"], "activation_dim": ae.activation_dim, "dict_size": ae.dict_size, "lm_name": "tiny", "layer": 3,
               "submodule_name": "layers.3", **({"k": int(ae.k)} if hasattr(ae, "k") else {})}
    (case / "sae" / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 128}}))


def run_case(case: Path) -> None:
    if (case / "make.json").exists():
        make(case)
    x = torch.from_numpy(np.load(case / "inputs.npz")["x"])
    ae, _ = utils.load_dictionary(str(case / "sae"), "cpu")
    with torch.no_grad():
        latents = ae.encode(x)
        reconstruction = ae.decode(latents)
    np.savez(case / "outputs.npz", latents=latents.numpy(), reconstruction=reconstruction.numpy())
    (case / "copy").mkdir()
    torch.save(ae.state_dict(), case / "copy" / "ae.pt")
    (case / "copy" / "config.json").write_text((case / "sae" / "config.json").read_text())


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        run_case(Path(argument))
