"""The converted stories260K equals llama2.c's network and tokenizer, written out here once more in numpy."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sparselight.errors import SubjectError
from sparselight.protocols import Example
from sparselight.subjects import CausalLM, SubjectConfig, load_subject
from sparselight.testing import check_subject

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
STORY = "Once upon a time, there was a little boy named Tim. He had a red ball. Tim loved to play with his ball in the park."


def script():
    spec = importlib.util.spec_from_file_location("convert_stories260k", ROOT / "scripts" / "convert_stories260k.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def source() -> Path:
    folder = DATA / "stories260k"
    if not (folder / "stories260K.bin").is_file():
        pytest.skip(f"needs llama2.c's stories260K.bin and tok512.bin in {folder}")
    return folder


@pytest.fixture(scope="module")
def subject(source: Path, tmp_path_factory: pytest.TempPathFactory) -> CausalLM:
    out = tmp_path_factory.mktemp("stories260k")
    script().convert(source, out)
    loaded = load_subject(SubjectConfig.parse({"source": str(out), "context_tokens": 128, "device": "cpu"}))
    assert isinstance(loaded, CausalLM)
    return loaded


def reference_logits(source: Path, ids: list[int]) -> np.ndarray:
    """llama2.c's forward pass, in float64, for all positions at once."""
    head = np.fromfile(source / "stories260K.bin", dtype="<i4", count=7)
    values = np.fromfile(source / "stories260K.bin", dtype="<f4", offset=28).astype(np.float64)
    dim, hidden, n_layers, n_heads, n_kv, n_vocabulary = head[:6].tolist()
    width, at = dim // n_heads, 0

    def take(*shape: int) -> np.ndarray:
        nonlocal at
        at += int(np.prod(shape))
        return values[at - int(np.prod(shape)):at].reshape(shape)

    embed, norm1 = take(n_vocabulary, dim), take(n_layers, dim)
    wq, wk, wv, wo = take(n_layers, dim, dim), take(n_layers, n_kv * width, dim), take(n_layers, n_kv * width, dim), take(n_layers, dim, dim)
    norm2, w1, w2, w3, last = take(n_layers, dim), take(n_layers, hidden, dim), take(n_layers, dim, hidden), take(n_layers, hidden, dim), take(dim)

    def rms(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * gain

    def rotate(x: np.ndarray) -> np.ndarray:
        """Neighbors (2i, 2i + 1) of each head turn by position / 10000^(2i / width)."""
        pairs = x.reshape(len(x), -1, width // 2, 2)
        turned = (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * np.arange(len(x))[:, None] * 10000.0 ** (-np.arange(0, width, 2) / width))[:, None]
        return np.stack([turned.real, turned.imag], -1).reshape(len(x), -1, width)

    x = embed[ids]
    for layer in range(n_layers):
        h = rms(x, norm1[layer])
        q, k, v = rotate(h @ wq[layer].T), rotate(h @ wk[layer].T), (h @ wv[layer].T).reshape(len(h), n_kv, width)
        k, v = (np.repeat(part, n_heads // n_kv, axis=1) for part in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(width) + np.triu(np.full((len(x), len(x)), -np.inf), 1)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        x = x + np.einsum("hqk,khd->qhd", weights / weights.sum(-1, keepdims=True), v).reshape(len(x), dim) @ wo[layer].T
        h = rms(x, norm2[layer])
        gate = h @ w1[layer].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w3[layer].T)) @ w2[layer].T
    return rms(x, last) @ embed.T


def reference_tokens(source: Path, text: str) -> list[int]:
    """llama2.c's encoder: characters (or bytes), then always the adjacent pair whose merged piece has the highest score."""
    pieces = script().read_vocabulary(source / "tok512.bin", 512)
    ids = {piece: number for number, (piece, _) in enumerate(pieces)}
    tokens: list[int] = []
    for character in (" " + text) if text else "":
        tokens += [ids[character]] if character in ids else [byte + 3 for byte in character.encode()]
    while True:
        scored = [(pieces[ids[merged]][1], -at, ids[merged]) for at in range(len(tokens) - 1)
                  if (merged := pieces[tokens[at]][0] + pieces[tokens[at + 1]][0]) in ids]
        if not scored:
            return tokens
        _, minus_at, merged_id = max(scored)
        tokens[-minus_at:-minus_at + 2] = [merged_id]


def test_logits_equal_the_reference(source: Path, subject: CausalLM) -> None:
    batch = subject.prepare([Example("story", STORY, "g")])
    logits = subject.predict(batch)
    expected = reference_logits(source, batch.input_ids[0].tolist())[1:]
    assert logits.shape == expected.shape
    torch.testing.assert_close(logits.double(), torch.from_numpy(expected), atol=2e-4, rtol=1e-4)


def test_tokens_equal_the_reference(source: Path, subject: CausalLM) -> None:
    texts = [STORY, "", " two  spaces ", "Zyx\n\ttabs", "caf\u00e9 \u2192 \u4e2d"]
    if (DATA / "wikitext2" / "valid.txt").is_file():
        texts += [line[:300].replace("<unk>", "lobster") for line in (DATA / "wikitext2" / "valid.txt").read_text(encoding="utf-8").splitlines()[:60]]
    for text in texts:
        assert subject.prepare([Example("a", text, "g")]).token_id.tolist() == reference_tokens(source, text), text


def test_it_is_a_language_model_of_stories(subject: CausalLM) -> None:
    check_subject(subject, [Example("story", STORY, "g"), Example("short", "The dog ran.", "g")])
    assert subject.wirings == ["sequential"] * 5
    story = float(subject.loss(subject.prepare([Example("story", STORY, "g")])).mean())
    scrambled = " ".join(np.random.default_rng(0).permutation(STORY.split()))
    assert story < 1.2
    assert float(subject.loss(subject.prepare([Example("scrambled", scrambled, "g")])).mean()) > story + 1
    assert subject.generate("Once upon a time", 60).startswith(", there was a little girl named Lily. She loved to play outside in the park.")


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SubjectError, match=r"no stories260K\.bin"):
        script().convert(tmp_path, tmp_path / "out")
    (tmp_path / "stories260K.bin").write_bytes(np.array([64, 172, 5, 8, 4, 512, 512], "<i4").tobytes() + bytes(400))
    (tmp_path / "tok512.bin").write_bytes(b"")
    with pytest.raises(SubjectError, match="size is not the one"):
        script().convert(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
