"""Every fast kernel against its slow dense twin: selections entry by entry, all gradients, the optimizer, over awkward shapes.

The Triton kernels run under Triton's interpreter here; on a GPU benchmarks/train_step.py runs them.
"""

import importlib.util
import os

os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from sparselight.errors import ConfigError
from sparselight.kernels import BACKENDS, Backend, DenseSelection, Selected, Selection, WeightGradients, cuda, kernels, use_backend
from sparselight.kernels.dispatch import backend

REF = BACKENDS["ref"]
HAS_TRITON = importlib.util.find_spec("triton") is not None
TRITON = backend("triton", cuda)
FAST = [pytest.param(found, id=name) for name, found in BACKENDS.items() if name not in ("ref", "triton")]
FAST.append(pytest.param(TRITON, id="triton", marks=[pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed")]))
SHAPES = [(1, 1, 1), (5, 3, 8), (17, 8, 40), (40, 33, 7)]  # token, d_in, latent
SETTINGS = {"lr": 1e-2, "betas": (0.8, 0.99), "eps": 1e-8, "weight_decay": 0.1}
IN_FLOAT64 = {"torch"}  # the others work in float32 only


def dtype_of(fast: Backend) -> torch.dtype:
    return torch.float64 if fast.name in IN_FLOAT64 else torch.float32


class Problem:
    """Activations and weights of a small SAE."""

    def __init__(self, n: int, d: int, m: int, dtype: torch.dtype, seed: int = 0, levels: int | None = None):
        self.generator, self.dtype = torch.Generator().manual_seed(seed), dtype
        if levels is None:
            self.x, self.W_enc, self.b_enc = self.draw(n, d), self.draw(m, d).T, 0.3 * self.draw(m)
        else:  # small whole numbers: every path computes them exactly, and many are equal
            self.x, self.W_enc, self.b_enc = (torch.randint(-levels, levels + 1, shape, generator=self.generator).to(dtype) for shape in ((n, d), (m, d), (m,)))
            self.W_enc = self.W_enc.T
        self.W_dec = normalize(self.draw(m, d))

    def draw(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64).to(self.dtype)


def same(a: Selected, b: Selected) -> None:
    assert isinstance(a.selection, Selection)
    assert isinstance(b.selection, Selection)
    assert a.selection.indptr.tolist() == b.selection.indptr.tolist()
    assert a.selection.latents.tolist() == b.selection.latents.tolist()
    assert a.selection.tokens.tolist() == b.selection.tokens.tolist()
    torch.testing.assert_close(a.values, b.values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fast", FAST)
@pytest.mark.parametrize("shape", [*SHAPES, (0, 3, 4)])
@pytest.mark.parametrize("k", [1, 3, 50])
def test_encode_topk(fast: Backend, shape: tuple[int, int, int], k: int) -> None:
    p = Problem(*shape, dtype_of(fast))
    same(fast.encode_topk(p.x, p.W_enc, p.b_enc, k, {}), REF.encode_topk(p.x, p.W_enc, p.b_enc, k, {}))


@pytest.mark.parametrize("fast", FAST)
@pytest.mark.parametrize("shape", [*SHAPES, (0, 3, 4)])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.4, 2.0])
def test_encode_batch_topk_whatever_the_cache_holds(fast: Backend, shape: tuple[int, int, int], share: float) -> None:
    if fast is TRITON and share * shape[0] * shape[2] > 100:
        pytest.skip("the interpreter is slow")
    p = Problem(*shape, dtype_of(fast))
    n_keep = round(share * shape[0] * shape[2])
    expected = REF.encode_batch_topk(p.x, p.W_enc, p.b_enc, n_keep, {})
    cache: dict = {}
    first = fast.encode_batch_topk(p.x, p.W_enc, p.b_enc, n_keep, cache)
    same(first, expected)
    for scale in (1.0, 10.0, 0.05):  # what was learned from other activations
        fast.encode_batch_topk(p.x * scale, p.W_enc, p.b_enc, n_keep, cache)
        again = fast.encode_batch_topk(p.x, p.W_enc, p.b_enc, n_keep, cache)
        same(again, expected)
        assert torch.equal(again.values, first.values)


@pytest.mark.parametrize("fast", FAST)
@pytest.mark.parametrize("shape", [*SHAPES, (0, 3, 4)])
def test_encode_above(fast: Backend, shape: tuple[int, int, int]) -> None:
    p = Problem(*shape, dtype_of(fast))
    m = shape[2]
    for threshold in (torch.full((m,), 0.5), torch.linspace(-1, 1, m), torch.full((m,), 1e9), torch.full((m,), -torch.inf)):
        t = threshold.to(p.dtype)
        same(fast.encode_above(p.x, p.W_enc, p.b_enc, t, {}), REF.encode_above(p.x, p.W_enc, p.b_enc, t, {}))


@given(seed=st.integers(0, 10_000), n=st.integers(0, 12), m=st.integers(1, 9), d=st.integers(1, 5), keep=st.integers(1, 60), levels=st.integers(1, 3))
@settings(max_examples=100, deadline=None)
def test_ties_go_to_the_lowest_position(seed: int, n: int, m: int, d: int, keep: int, levels: int) -> None:
    p = Problem(n, d, m, torch.float32, seed, levels)
    zero = torch.zeros(m)
    for name, fast in BACKENDS.items():
        if name in ("ref", "triton"):
            continue
        k = 1 + keep % 5
        same(fast.encode_topk(p.x, p.W_enc, p.b_enc, k, {}), REF.encode_topk(p.x, p.W_enc, p.b_enc, k, {}))
        same(fast.encode_batch_topk(p.x, p.W_enc, p.b_enc, keep, {}), REF.encode_batch_topk(p.x, p.W_enc, p.b_enc, keep, {}))
        same(fast.encode_above(p.x, p.W_enc, p.b_enc, zero, {}), REF.encode_above(p.x, p.W_enc, p.b_enc, zero, {}))


def test_topk_keeps_the_largest_positive_ones() -> None:
    found = kernels().encode_topk(torch.tensor([[3.0, 1.0, -1.0], [0.0, 2.0, 5.0]]), torch.eye(3).T, torch.zeros(3), 2, {})
    assert found.values.tolist() == [3, 1, 2, 5]
    assert found.selection.latents.tolist() == [0, 1, 1, 2]
    whole = kernels().encode_batch_topk(torch.tensor([[3.0, 1.0, -1.0], [0.0, 2.0, 5.0]]), torch.eye(3).T, torch.zeros(3), 3, {})
    assert whole.values.tolist() == [3, 2, 5]
    assert whole.cutoff == 2


@pytest.mark.parametrize("fast", FAST)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_decoding_and_all_gradients(fast: Backend, shape: tuple[int, int, int], dense: bool, nested: bool) -> None:
    n, d, m = shape
    p = Problem(*shape, dtype_of(fast))
    ends = (max(1, m // 3), max(1, m // 2), m) if nested and m > 3 else (m,)
    selected = REF.encode_batch_topk(p.x, p.W_enc, p.b_enc, n * m // 4, {})
    selection = DenseSelection(n, m) if dense else selected.selection
    values = p.draw(n, m) if dense else selected.values
    grad, grad_pre = p.draw(len(ends), n, d), p.draw(*values.shape)
    tolerance = {"rtol": 1e-10, "atol": 1e-10} if p.dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(fast.decode(values, selection, p.W_dec, ends), REF.decode(values, selection, p.W_dec, ends), **tolerance)
    torch.testing.assert_close(fast.decode_gradient(grad, selection, p.W_dec, ends), REF.decode_gradient(grad, selection, p.W_dec, ends), **tolerance)
    for fresh in (True, False):
        ours, truth = (WeightGradients(*(torch.full(size, 2.0, dtype=p.dtype) for size in ((m, d), (m,), (m, d))), fresh) for _ in range(2))
        fast.weight_gradients(p.x, grad, values, grad_pre, selection, ends, ours)
        REF.weight_gradients(p.x, grad, values, grad_pre, selection, ends, truth)
        for name in ("W_enc", "b_enc", "W_dec"):
            torch.testing.assert_close(getattr(ours, name), getattr(truth, name), **tolerance)


@pytest.mark.parametrize("fast", FAST)
@pytest.mark.parametrize("n_dead", [1, 5, 30])
@pytest.mark.parametrize("k", [1, 4, 100])
def test_dead_latent_loss(fast: Backend, n_dead: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparselight.kernels.dead.CHUNK_ENTRIES", 20)
    p = Problem(17, 8, 40, torch.float64)
    error, dead = p.draw(17, 8), torch.randperm(40, generator=p.generator)[:n_dead].sort().values
    ours, gradients = fast.dead_latent_loss(p.x, p.W_enc, p.b_enc, p.W_dec, error, dead, k)
    truth, expected = REF.dead_latent_loss(p.x, p.W_enc, p.b_enc, p.W_dec, error, dead, k)
    torch.testing.assert_close(ours, truth)
    for name in ("W_enc", "b_enc", "W_dec"):
        torch.testing.assert_close(getattr(gradients, name), getattr(expected, name))


@pytest.mark.parametrize("fast", FAST)
@pytest.mark.parametrize(("m", "chunk"), [(1, 4), (9, 4), (40, 40), (40, 64), (41, 8)])
def test_nearest_in_chunk(fast: Backend, m: int, chunk: int) -> None:
    p = Problem(1, 12, m, dtype_of(fast))
    order = torch.randperm(m, generator=p.generator)
    assert torch.equal(fast.nearest_in_chunk(p.W_dec, order, chunk), REF.nearest_in_chunk(p.W_dec, order, chunk))


@pytest.mark.parametrize("fast", FAST)
@pytest.mark.parametrize("shape", [(7, 5), (3, 130), (9,)])
@pytest.mark.parametrize("unit_rows", [True, False])
def test_adam(fast: Backend, shape: tuple[int, ...], unit_rows: bool) -> None:
    if unit_rows and len(shape) == 1:
        pytest.skip("a vector has no rows")
    p = Problem(1, 1, 1, dtype_of(fast))
    start = normalize(p.draw(*shape), dim=-1)
    ours, truth, torchs = ([start.clone(), torch.zeros_like(start), torch.zeros_like(start)] for _ in range(3))
    parameter = torch.nn.Parameter(torchs[0])
    optimizer = torch.optim.AdamW([parameter], **SETTINGS)
    for step in range(1, 5):
        grad = p.draw(*shape)
        assert fast.grad_square(ours[0], grad, unit_rows) == pytest.approx(REF.grad_square(ours[0], grad, unit_rows), rel=1e-4, abs=1e-9)
        for own, state in ((fast, ours), (REF, truth)):
            own.adam_step(state[0], grad.clone(), *state[1:], **SETTINGS, step=step, grad_scale=0.5, unit_rows=unit_rows)
        parameter.grad = 0.5 * grad
        optimizer.step()
        for a, b in zip(ours, truth, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    if unit_rows:
        torch.testing.assert_close(ours[0].norm(dim=1), torch.ones(shape[0], dtype=p.dtype))
    else:
        torch.testing.assert_close(ours[0], parameter.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fast", FAST)
def test_kernels_repeat_bit_for_bit(fast: Backend) -> None:
    def run() -> list[Tensor]:
        p = Problem(64, 16, 50, torch.float32)
        selected = fast.encode_batch_topk(p.x, p.W_enc, p.b_enc, 300, {})
        into = WeightGradients(torch.empty(50, 16), torch.empty(50), torch.empty(50, 16))
        grad = fast.decode(selected.values, selected.selection, p.W_dec, (20, 50))
        dots = fast.decode_gradient(grad, selected.selection, p.W_dec, (20, 50))
        fast.weight_gradients(p.x, grad, selected.values, dots, selected.selection, (20, 50), into)
        return [selected.values, grad, dots, into.W_enc, into.b_enc, into.W_dec]

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


def test_autocast_operands_are_taken_in_half_precision() -> None:
    p = Problem(30, 16, 60, torch.float32)
    low = BACKENDS["torch"].encode_topk(p.x.bfloat16(), p.W_enc.bfloat16(), p.b_enc, 4, {})
    assert low.values.dtype == torch.float32
    rounded = (p.x.bfloat16().float() @ p.W_enc.bfloat16().float()) + p.b_enc
    assert isinstance(low.selection, Selection)
    torch.testing.assert_close(low.values, rounded[low.selection.tokens, low.selection.latents.long()], rtol=2e-2, atol=2e-2)


def test_choice_of_a_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPARSELIGHT_KERNELS", raising=False)
    with use_backend("ref"):
        assert kernels() is REF
    assert kernels(torch.zeros(1, dtype=torch.float64)) is BACKENDS["torch"]
    assert kernels(torch.zeros(1)) is BACKENDS.get("compiled", BACKENDS["torch"])
    monkeypatch.setenv("SPARSELIGHT_KERNELS", "torch")
    assert kernels(torch.zeros(1)) is BACKENDS["torch"]
    with pytest.raises(ConfigError, match="compute with the kernels 'torhc'.*use 'torch'"), use_backend("torhc"):
        pass
