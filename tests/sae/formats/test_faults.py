"""Damaged and hostile files: refused by name, nothing executed, nothing read from outside of the folder."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sparselight.errors import SaeError
from sparselight.sae import Sae
from sparselight.sae.formats import FORMATS, export_sae, load_sae
from sparselight.sae.formats.place import Place, check_torch

WRITTEN = ("saelens", "sparsify", "dictionary_learning", "gemma_scope", "gemma_scope_2")


@pytest.fixture(params=WRITTEN)
def folder(request: pytest.FixtureRequest, random_sae: Callable[..., Sae], tmp_path: Path) -> Path:
    sae = random_sae(6, 20, k=3 if request.param in ("sparsify", "dictionary_learning") else None)
    export_sae(sae, tmp_path / request.param, request.param)
    return tmp_path / request.param


def weights(folder: Path) -> Path:
    return next(path for path in folder.iterdir() if path.suffix in (".safetensors", ".npz", ".pt"))


def rewrite(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """The same file with its tensors changed."""
    if file.suffix == ".safetensors":
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file)
    elif file.suffix == ".npz":
        with np.load(file) as arrays:
            named: dict[str, Any] = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        change(named)
        np.savez(file, **{name: tensor.numpy() for name, tensor in named.items()})
    else:
        named = torch.load(file, weights_only=True)
        change(named)
        torch.save(named, file)


def matrix(tensors: dict[str, Any]) -> str:
    return sorted(name for name, tensor in tensors.items() if tensor.ndim == 2)[0]


def test_truncated(folder: Path) -> None:
    file = weights(folder)
    content = file.read_bytes()
    for part in (0, 10, len(content) // 2, len(content) - 7):
        file.write_bytes(content[:part])
        with pytest.raises(SaeError, match=f"{file.name} (is missing or damaged|holds Python objects)"):
            load_sae(f"{folder.name}:{folder}")


def test_gone(folder: Path) -> None:
    weights(folder).unlink()
    with pytest.raises(SaeError):
        load_sae(f"{folder.name}:{folder}")
    with pytest.raises(SaeError, match="those of no format known here"):
        load_sae(folder)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_not_finite(folder: Path, bad: float) -> None:
    rewrite(weights(folder), lambda tensors: tensors[matrix(tensors)].__setitem__((0, 0), bad))
    with pytest.raises(SaeError, match="values that are not finite"):
        load_sae(folder)


def test_wrong_shape(folder: Path) -> None:
    def shorten(tensors: dict[str, Any]) -> None:
        name = matrix(tensors)
        tensors[name] = tensors[name][:, :-1].contiguous()

    rewrite(weights(folder), shorten)
    with pytest.raises(SaeError):
        load_sae(folder)


def test_whole_numbers_in_place_of_weights(folder: Path) -> None:
    def whole(tensors: dict[str, Any]) -> None:
        tensors[matrix(tensors)] = tensors[matrix(tensors)].long()

    rewrite(weights(folder), whole)
    with pytest.raises(SaeError, match="not floating-point numbers"):
        load_sae(folder)


def test_a_tensor_that_nobody_knows(folder: Path) -> None:
    rewrite(weights(folder), lambda tensors: tensors.update(input_norm=torch.ones(6)))
    with pytest.raises(SaeError, match="input_norm"):
        load_sae(f"{folder.name}:{folder}")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"d_in": 6}', "\x00\xff"])
def test_damaged_settings(folder: Path, text: str) -> None:
    settings = next((path for path in folder.iterdir() if path.suffix == ".json"), None)
    if settings is None or (folder.name in ("gemma_scope_2", "dictionary_learning") and text.startswith('{"')):
        return  # files without settings, or whose settings say nothing that is needed
    settings.write_text(text, encoding="utf-8")
    with pytest.raises(SaeError):
        load_sae(f"{folder.name}:{folder}")


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", ["torch", "pickle"])
@pytest.mark.parametrize("form", [name for name, form in FORMATS.items() if ".pt" in form.layout or name in ("openai", "recsae", "gemma_scope")])
def test_a_file_with_code_in_it_runs_nothing(form: str, protocol: str, tmp_path: Path) -> None:
    made = tmp_path / "made-by-the-file"
    file = tmp_path / ("layer0.sae.pt" if form == "qwen_scope" else "ae.pt")
    content = {"W_enc": torch.ones(2, 2), "model_state_dict": {}, "k": Evil(made)}
    if protocol == "torch":
        torch.save(content, file)
    else:
        file.write_bytes(pickle.dumps(content))
    for source in (f"{form}:{file}", str(file), str(tmp_path)):
        with pytest.raises(SaeError):
            load_sae(source)
    assert not made.exists()
    with pytest.raises(SaeError, match="can run code when they are read, so it was not"):
        Place(file).content(file.name)


def test_the_evil_file_would_run(tmp_path: Path) -> None:
    """The other half of the test before: plain unpickling does run it."""
    pickle.loads(pickle.dumps(Evil(tmp_path / "made")))
    assert (tmp_path / "made").exists()


def test_python_objects_in_npz(tmp_path: Path) -> None:
    made = tmp_path / "made-by-the-file"
    np.savez(tmp_path / "params.npz", W_enc=np.array([Evil(made)], dtype=object), allow_pickle=True)
    for source in (tmp_path, f"gemma_scope:{tmp_path}"):
        with pytest.raises(SaeError):
            load_sae(source)
    assert not made.exists()


def test_a_torch_that_is_not_safe() -> None:
    with pytest.raises(SaeError, match="CVE-2025-32434"):
        check_torch("load it", "2.5.1+cpu")
    check_torch("load it", "2.6.0")
    check_torch("load it", "2.13.0+cpu")


@pytest.fixture
def transcoders(tmp_path: Path) -> Path:
    """A set of two layers, and a file outside of it."""
    pytest.importorskip("yaml")
    folder = tmp_path / "set"
    folder.mkdir()
    tensors = {"W_enc": torch.ones(4, 3), "b_enc": torch.ones(4), "W_dec": torch.ones(4, 3), "b_dec": torch.ones(3)}
    for path in (folder / "layer_0.safetensors", folder / "layer_1.safetensors", tmp_path / "layer_7.safetensors"):
        save_file(tensors, path)
    return folder


@pytest.mark.parametrize("name", ["../layer_7.safetensors", "/etc/passwd", "link.safetensors", "x/../../layer_7.safetensors"])
def test_path_tricks_in_an_index(name: str, transcoders: Path) -> None:
    (transcoders / "link.safetensors").symlink_to(transcoders.parent / "layer_7.safetensors")
    (transcoders / "config.yaml").write_text(f"transcoders:\n  - layer_0.safetensors\n  - {name}\n")
    assert load_sae(transcoders, layer=0).n_latents == 4
    with pytest.raises(SaeError, match="lies outside of its folder"):
        load_sae(transcoders, layer=1)


@pytest.mark.parametrize(("text", "words"), [
    ("transcoders: [a, b", "config.yaml cannot be read"), ("- 1\n- 2\n", "config.yaml is damaged"),
    ("x: !!python/object/apply:os.mkdir [made]\ntranscoders: []\n", "config.yaml cannot be read"),
    ("model_kind: cross_layer_transcoder\n", "several layers at once"), ("transcoders: ['hf://a/b/layer_0.safetensors']\n", "lies elsewhere, at hf://a/b"),
])
def test_faulty_index(text: str, words: str, transcoders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(transcoders)
    (transcoders / "config.yaml").write_text(text)
    with pytest.raises(SaeError, match=words):
        load_sae(f"circuit_tracer:{transcoders}", layer=0)
    assert not (transcoders / "made").exists()


def test_links_in_a_tree_are_not_followed(random_sae: Callable[..., Sae], tmp_path: Path) -> None:
    export_sae(random_sae(k=2), tmp_path / "elsewhere" / "layers.9", "sparsify")
    export_sae(random_sae(k=2), tmp_path / "tree" / "layers.0", "sparsify")
    (tmp_path / "tree" / "layers.1").symlink_to(tmp_path / "elsewhere" / "layers.9")
    (tmp_path / "tree" / "loop").symlink_to(tmp_path / "tree")
    sae = load_sae(tmp_path / "tree")
    assert sae.imported is not None
    assert sae.imported.source.endswith("tree/layers.0")


@pytest.mark.parametrize(("change", "words"), [
    ({"activation": "groupmax"}, "activation = 'groupmax'"), ({"signed": True}, "signed = true"), ({"k": 0}, "k = 0 of 20"), ({"k": 21}, "k = 21 of 20"),
    ({"k": "3"}, "k = '3'"), ({"d_in": 7}, "7 dimensions and 20 latents, the weights have 6 and 20"), ({"num_latents": 0, "expansion_factor": 2}, "12 latents"),
    ({"skip_connection": True}, "has no W_skip"), ({"input_norm": "layer"}, "of which nothing is known: input_norm"),
])
def test_settings_of_sparsify(change: dict[str, Any], words: str, random_sae: Callable[..., Sae], tmp_path: Path) -> None:
    export_sae(random_sae(6, 20, k=3), tmp_path / "out", "sparsify")
    cfg = json.loads((tmp_path / "out" / "cfg.json").read_text())
    (tmp_path / "out" / "cfg.json").write_text(json.dumps({**cfg, **change}))
    with pytest.raises(SaeError, match=words):
        load_sae(tmp_path / "out")
