"""`sparselight convert` and `sparselight push`: what they print, and what they exit with."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import sparselight as sl
from sparselight.cli import main
from sparselight.records import SaeRecord, SubjectRef, TokenPolicy
from sparselight.sae import save_sae


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    return int(caught.value.code or 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An SAE as sparsify saves it."""
    generator = torch.Generator().manual_seed(0)
    W, D, b = (torch.randn(*shape, generator=generator) for shape in ((6, 20), (20, 6), (6,)))
    sl.export_sae(sl.sae_from_arrays(W, D, b_dec=b, k=3, subtract_b_dec=True), tmp_path / "layers.3", "sparsify")
    return tmp_path / "layers.3"


def test_looking_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("convert", str(folder)) == 0
    shown = capsys.readouterr().out
    assert "read as     sparsify (recognized by cfg.json and sae.safetensors)" in shown
    assert "b_dec       subtracted from the input before encoding" in shown
    assert "selection   the 3 largest positive pre-activations of each token" in shown
    assert f"convert {folder} OUT --to saelens --verify" in shown
    assert [path.name for path in folder.parent.iterdir()] == ["layers.3"]


@pytest.mark.parametrize("form", ["saelens", "dictionary_learning", "sparsify"])
def test_converted_and_verified(form: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32))
    assert run("convert", str(folder), str(tmp_path / "out"), "--to", form, "--verify", "--activations", str(tmp_path / "x.npy"), "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["equal"] is True
    assert result["read"]["format"] == "sparsify"
    assert result["differences"][0]["n_tokens"] == 542
    assert result["differences"][0]["latents"] == 0


def test_a_difference_is_an_exit_code(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from sparselight.sae import formats

    real = formats.export_sae

    def faulty(sae: Any, target: Path, form: str) -> list[str]:
        said = real(sae, target, form)
        tensors = load_file(target / "sae_weights.safetensors")
        save_file({**tensors, "b_enc": tensors["b_enc"] + 0.1}, target / "sae_weights.safetensors")
        return said

    monkeypatch.setattr(formats, "export_sae", faulty)
    assert run("convert", str(folder), str(tmp_path / "out"), "--verify") == 1
    assert "DIFFERENT" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "words"), [
    (("--to", "gemma_scope"), "keeps the k largest of each token, and Gemma Scope has thresholds"), (("--to", "openai"), "that format is only read"),
    (("--to", "sae_lens"), "use 'saelens'"), (("--set", "kk=3"), "no setting kk"), (("--verify", "--activations", "nothing.npy"), "nothing.npy"),
])
def test_refusals(arguments: tuple[str, ...], words: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("convert", str(folder), str(tmp_path / "out"), *arguments) == 2
    assert words in capsys.readouterr().err


def test_nothing_to_verify(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("convert", str(folder), "--verify") == 2
    assert "give TARGET after SOURCE" in capsys.readouterr().err


def test_activations_of_another_width(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"x": torch.zeros(3, 7)}, tmp_path / "x.safetensors")
    assert run("convert", str(folder), str(tmp_path / "out"), "--verify", "--activations", str(tmp_path / "x.safetensors")) == 2
    assert "no finite matrix [token, 6]" in capsys.readouterr().err


def test_push_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sae = sl.sae_from_arrays(torch.ones(6, 20), torch.ones(20, 6), subtract_b_dec=False)
    subject = SubjectRef(name="tiny", fingerprint="f", token_policy=TokenPolicy(prepend_bos=True, context_tokens=64))
    record = SaeRecord(
        architecture="batch_topk", role="base", site="resid_post.1", subject=subject, store_fingerprint="s", d_in=6, n_latents=20, k=4, l0=4.1, n_dead=1,
        dead_after_tokens=100, n_tokens_seen=1000, normalization="n", loss_scale="l", config={"k": 4})
    save_sae(sae, record, tmp_path / "sae")
    assert run("push", str(tmp_path / "sae"), "me/saes", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "# me/saes: resid_post.1" in shown
    assert "nothing was sent (dry run)" in shown
    assert run("push", str(tmp_path / "sae"), "me", "--dry-run") == 2
    assert "OWNER/NAME" in capsys.readouterr().err
