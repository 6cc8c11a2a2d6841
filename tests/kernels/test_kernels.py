"""Every fast kernel against its slow dense twin: forward and every gradient, in float64, over awkward shapes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparselight.errors import ConfigError
from sparselight.kernels import BACKENDS, Selected, Selection, kernels, use_backend

REF = BACKENDS["ref"]
FAST = [pytest.param(backend, id=name) for name, backend in BACKENDS.items() if name != "ref"]
SHAPES = [(1, 1, 1), (5, 3, 8), (17, 8, 40), (64, 16, 7)]  # token, d_in, latent


def problem(n: int, d: int, m: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    tensors = {"x": draw(n, d), "W_enc": draw(m, d).T, "b_enc": draw(m), "W_dec": draw(m, d), "target": draw(n, d)}
    return {name: tensor.requires_grad_(name != "target") for name, tensor in tensors.items()}


def pre_of(p: dict[str, Tensor]) -> Tensor:
    return (p["x"] @ p["W_enc"] + p["b_enc"]).detach()


def same(a: Selected, b: Selected) -> bool:
    return all(torch.equal(x, y) for x, y in [
        (a.values, b.values), (a.selection.latents, b.selection.latents), (a.selection.indptr, b.selection.indptr), (a.selection.tokens, b.selection.tokens)])


@pytest.mark.parametrize("fast", FAST)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.4, 2.0])
@pytest.mark.parametrize("hint", [None, 0.0, 0.3, 100.0])
def test_select_batch_topk(fast, shape, share, hint) -> None:
    pre = pre_of(problem(*shape))
    n_keep = round(share * pre.numel())
    assert same(fast.select_batch_topk(pre, n_keep, hint), REF.select_batch_topk(pre, n_keep, hint))


@given(seed=st.integers(0, 10_000), n=st.integers(0, 12), m=st.integers(1, 9), n_keep=st.integers(0, 60), levels=st.integers(1, 4),
       hint=st.none() | st.floats(0, 4))
@settings(max_examples=150, deadline=None)
def test_select_batch_topk_breaks_ties_by_position(seed: int, n: int, m: int, n_keep: int, levels: int, hint: float | None) -> None:
    pre = torch.randint(-1, levels, (n, m), generator=torch.Generator().manual_seed(seed)).float()
    expected = REF.select_batch_topk(pre, n_keep, None)
    assert len(expected.values) == min(n_keep, int((pre > 0).sum()))
    for name, backend in BACKENDS.items():
        assert same(backend.select_batch_topk(pre, n_keep, hint), expected), name


def test_select_keeps_the_largest() -> None:
    found = kernels().select_batch_topk(torch.tensor([[3.0, 1.0, -1.0], [0.0, 2.0, 5.0]]), 3, None)
    assert found.values.tolist() == [3, 2, 5]
    assert found.selection.latents.tolist() == [0, 1, 2]
    assert found.selection.indptr.tolist() == [0, 1, 3]
    assert found.cutoff == 2


@pytest.mark.parametrize("fast", FAST)
@pytest.mark.parametrize("shape", SHAPES)
def test_select_above(fast, shape) -> None:
    pre = pre_of(problem(*shape))
    pre.view(-1)[::3] = 0.5  # on the threshold: not above
    for threshold in (torch.full((shape[2],), 0.5), torch.linspace(-1, 1, shape[2]), torch.full((shape[2],), 1e9)):
        assert same(fast.select_above(pre, threshold.double()), REF.select_above(pre, threshold.double()))


@pytest.mark.parametrize("fast", FAST)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n_keep", [0, 1, 9, 10_000])
def test_sparse_products_and_all_gradients(fast, shape, n_keep: int) -> None:
    def run(backend) -> tuple[Tensor, dict[str, Tensor]]:
        p = problem(*shape)
        pre = pre_of(p)
        pre[len(pre) // 2 :: 2] = -1  # empty rows
        selected = REF.select_batch_topk(pre, n_keep, None)
        values = backend.sparse_encode(p["x"], p["W_enc"], p["b_enc"], selected)
        x_hat = backend.sparse_decode(values, selected.selection, p["W_dec"])
        loss = (x_hat - p["target"]).square().sum() + values.sin().sum()  # a second path into the values
        grads = torch.autograd.grad(loss, [p["x"], p["W_enc"], p["b_enc"], p["W_dec"]])
        return x_hat.detach(), dict(zip(("x", "W_enc", "b_enc", "W_dec"), grads, strict=True))

    (expected, slow), (found, quick) = run(REF), run(fast)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for name, grad in slow.items():
        torch.testing.assert_close(quick[name], grad, rtol=1e-11, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}")


def test_float32_is_as_near_to_the_truth_as_dense_float32() -> None:
    p = {name: tensor.detach().float().requires_grad_(tensor.requires_grad) for name, tensor in problem(64, 16, 40).items()}
    selected = REF.select_batch_topk(pre_of(p), 300, None)
    values = kernels().sparse_encode(p["x"], p["W_enc"], p["b_enc"], selected)
    (kernels().sparse_decode(values, selected.selection, p["W_dec"]) - p["target"]).square().sum().backward()
    exact = problem(64, 16, 40)
    z = REF.sparse_encode(exact["x"], exact["W_enc"], exact["b_enc"], selected)
    (REF.sparse_decode(z, selected.selection, exact["W_dec"]) - exact["target"]).square().sum().backward()
    for name in ("x", "W_enc", "b_enc", "W_dec"):
        error = (p[name].grad.double() - exact[name].grad).norm() / exact[name].grad.norm()
        assert error < 1e-6, name


@pytest.mark.parametrize("fast", FAST)
@pytest.mark.parametrize(("dead", "k"), [([0], 1), ([1, 3, 6], 5), ([0, 1, 2, 3, 4, 5, 6], 2), ([6], 400)])
def test_dead_latent_loss_and_all_gradients(fast, dead: list[int], k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparselight.kernels.dead.CHUNK_ENTRIES", 20)

    def run(backend) -> list[Tensor]:
        p = problem(64, 16, 7)
        loss = backend.dead_latent_loss(p["x"], p["W_enc"], p["b_enc"], p["W_dec"], pre_of(p), p["target"], torch.tensor(dead), k)
        return [loss, *torch.autograd.grad(3 * loss, [p["W_enc"], p["b_enc"], p["W_dec"]])]

    for expected, found in zip(run(REF), run(fast), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def test_results_repeat_bit_for_bit() -> None:
    def run() -> list[Tensor]:
        p = {name: tensor.detach().float().requires_grad_(tensor.requires_grad) for name, tensor in problem(64, 16, 40).items()}
        selected = kernels().select_batch_topk(pre_of(p), 500, None)
        values = kernels().sparse_encode(p["x"], p["W_enc"], p["b_enc"], selected)
        loss = (kernels().sparse_decode(values, selected.selection, p["W_dec"]) - p["target"]).square().sum()
        return list(torch.autograd.grad(loss, [p["W_enc"], p["b_enc"], p["W_dec"]]))

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


def test_selection_orders() -> None:
    selection = Selection.from_flat(torch.tensor([0, 2, 5, 8]), n_tokens=4, n_latents=3)
    assert selection.latents.tolist() == [0, 2, 2, 2]
    assert selection.indptr.tolist() == [0, 2, 3, 4, 4]
    assert selection.tokens.tolist() == [0, 0, 1, 2]
    order, bounds = selection.by_latent
    assert (order.tolist(), bounds.tolist()) == ([0, 1, 2, 3], [0, 1, 1, 4])
    assert selection.n_fires().tolist() == [1, 0, 3]


def test_backend_by_name() -> None:
    with use_backend("ref"):
        assert kernels() is REF
    assert kernels() is BACKENDS["torch_sparse"]
    with pytest.raises(ConfigError, match="use 'torch_sparse'"), use_backend("torch_spars"):
        pass
