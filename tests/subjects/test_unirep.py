"""UniRep written down in PyTorch: the recurrence against a loop over numbers, and all promises of a subject."""

from pathlib import Path

import numpy as np
import pytest

from sparselight.errors import SubjectError
from sparselight.protocols import Example
from sparselight.subjects import ModuleSubject
from sparselight.subjects.unirep import LETTERS, OTHER, START, unirep
from sparselight.testing import check_subject

N_LAYERS, WIDTH, HIDDEN = 2, 3, 4


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    rng, arrays = np.random.default_rng(0), {}
    arrays["embedding"] = rng.normal(size=(26, WIDTH))
    for layer in range(N_LAYERS):
        d = HIDDEN if layer else WIDTH
        shapes = {"wx": (d, 4 * HIDDEN), "wh": (HIDDEN, 4 * HIDDEN), "wmx": (d, HIDDEN), "wmh": (HIDDEN, HIDDEN), "b": (4 * HIDDEN,)}
        shapes |= {f"g{name}": (4 * HIDDEN,) if name in ("x", "h") else (HIDDEN,) for name in ("x", "h", "mx", "mh")}
        arrays |= {f"mlstm.{layer}.{name}": rng.normal(size=shape) for name, shape in shapes.items()}
    arrays |= {"dense.w": rng.normal(size=(HIDDEN, 25)), "dense.b": rng.normal(size=25)}
    np.savez(tmp_path / "weights.npz", **{name: array.astype(np.float32) for name, array in arrays.items()})
    return tmp_path / "weights.npz"


@pytest.fixture
def subject(weights: Path) -> ModuleSubject:
    return unirep(weights)


def test_hidden_states_are_those_of_the_formulas(subject: ModuleSubject, weights: Path) -> None:
    text = "MKAXL"
    got = subject.capture(subject.prepare([Example("a", text, "a"), Example("b", "MK", "b")]), [f"layers.{layer}:output" for layer in range(N_LAYERS)])
    w = dict(np.load(weights))
    x = w["embedding"][[START, *(LETTERS.index(letter) if letter in LETTERS else OTHER for letter in text)]].astype(float)
    for layer in range(N_LAYERS):
        own = {name.split(".")[2]: value.astype(float) for name, value in w.items() if name.startswith(f"mlstm.{layer}.")}
        x = slow(x, own)
        assert np.allclose(got[f"layers.{layer}:output"][: len(text)], x[1:], atol=1e-5)
        assert np.allclose(got[f"layers.{layer}:output"][len(text):], x[1:3], atol=1e-5)  # it reads from left to right


def test_a_protein_of_any_length_is_one_row(subject: ModuleSubject) -> None:
    assert subject.n_tokens([Example("long", "MKTAYIAK" * 300, "long")]) == [2400]
    assert subject.ref().token_policy.context_tokens > 40_000
    with pytest.raises(SubjectError, match=r"FileNotFoundError"):
        unirep("nowhere/model_weights.npz")


def test_predictions_are_those_of_the_next_residue(subject: ModuleSubject, weights: Path) -> None:
    examples, w = [Example("a", "MKAXL", "a"), Example("b", "MK", "b")], np.load(weights)
    batch = subject.prepare(examples)
    logits, nats = subject.predict(batch), subject.loss(batch)
    hidden = subject.capture(batch, [f"layers.{N_LAYERS - 1}:output"])[f"layers.{N_LAYERS - 1}:output"]
    assert np.allclose(logits[:, 1:], hidden.numpy() @ w["dense.w"] + w["dense.b"], atol=1e-5)
    assert bool((logits.softmax(-1)[:, 0] == 0).all()), "nothing predicts padding"
    expected = -logits.log_softmax(-1)[[0, 1, 2, 3, 5], batch.token_id[[1, 2, 3, 4, 6]]]
    assert np.allclose(nats[[1, 2, 3, 4, 6]], expected, atol=1e-5)
    assert bool(nats[0] == nats[5]), "the first residue is predicted from the start alone"


def slow(x: np.ndarray, w: dict[str, np.ndarray]) -> np.ndarray:
    """The recurrence, one residue and one gate at a time."""
    def times(vector: np.ndarray, name: str) -> np.ndarray:
        v = w[f"w{name}"]
        return np.array([w[f"g{name}"][column] * vector @ v[:, column] / np.sqrt((v[:, column] ** 2).sum()) for column in range(v.shape[1])])

    def sigmoid(value: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-value))

    h, c, states = np.zeros(HIDDEN), np.zeros(HIDDEN), []
    for vector in x:
        z = times(vector, "x") + times(times(vector, "mx") * times(h, "mh"), "h") + w["b"]
        i, f, o, u = (z[number * HIDDEN:(number + 1) * HIDDEN] for number in range(4))
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(u)
        h = sigmoid(o) * np.tanh(c)
        states.append(h)
    return np.stack(states)


def test_it_keeps_all_promises_of_a_subject(subject: ModuleSubject) -> None:
    check_subject(subject, [Example("a", "MKTAYIAKQR", "a"), Example("b", "MLSRAVCGTSRQ", "b"), Example("c", "MA", "c")])
