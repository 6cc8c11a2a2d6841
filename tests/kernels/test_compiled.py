"""The compiled CPU kernels beyond tests/kernels/test_kernels.py: every instruction set that runs here, hard cases for the screening, bits that
must not depend on threads or on what the cache holds, and the build."""

import shutil
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from sparselight.cli.doctor import kernels_in_use
from sparselight.kernels import DenseSelection, Selected, Selection, WeightGradients, compiled, ref
from sparselight.kernels.compiled_encode import FORMATS, TRIALS, packed_copy
from sparselight.kernels.cpu import build, loader
from sparselight.kernels.rows import take_rows
from sparselight.store.formats import ROW_NUMBER_FACTOR, StoredRows, row_sums, to_numpy
from sparselight.store.formats import encode as encode_rows

if compiled.available() is not None:
    pytest.skip(f"the compiled kernels cannot run here: {compiled.available()}", allow_module_level=True)

# Every way of screening: the build, and the numbers that it screens in.
WAYS = ["generic fp32", "avx2 fp32", "avx512 fp32", "avx512_vnni int8", "avx512_bf16 bf16", "avx512_bf16 int8", "amx bf16"]
ENCODINGS = ["topk", "batch_topk", "above"]
Cache = dict


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The numbers to screen in, with the instruction set in use while the test runs."""
    isa, numbers = request.param.split()
    if not build.library(isa).exists() or not loader.open_library("generic").sl_supports(isa.encode()):
        pytest.skip(f"no build for {isa}, or not on this processor")
    monkeypatch.setenv(loader.VARIABLE, isa)
    loader.library.cache_clear()
    assert loader.library().isa == isa
    yield numbers
    loader.library.cache_clear()


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def cache_for(numbers: str) -> Cache:
    """An empty cache, but for the choice of numbers to screen in."""
    return {"speeds": {code: [1.0 + (name == numbers)] * TRIALS for name, code in FORMATS.items()}}


class Data:
    """Activations and an encoder of some hard kind."""

    def __init__(self, kind: str, n: int, d: int, m: int, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        self.x, W, self.b_enc = draw(n, d), draw(m, d) / d**0.5, 0.1 * draw(m)
        if kind == "tiny":
            self.x, self.b_enc = self.x * 1e-17, self.b_enc * 1e-17
        elif kind == "vanishing":
            self.x, self.b_enc = self.x * 1e-30, self.b_enc * 1e-30
        elif kind == "huge":
            self.x, self.b_enc = self.x * 1e15, self.b_enc * 1e15
        elif kind == "trained":  # rows that resemble each other, and tokens made of few of them
            W = normalize(draw(m, 8) @ draw(8, d) + 0.3 * draw(m, d))
            codes = torch.where(torch.rand(n, m, generator=generator) < 8 / m, draw(n, m).abs(), 0.0)
            self.x, self.b_enc = codes @ W + 0.01 * self.x, self.b_enc - 0.5
        elif kind == "outliers":  # rows and columns far larger than the rest
            self.x[:, 0] *= 300
            self.x[:: max(1, n // 3)] *= 1e4
            W[:: max(1, m // 5)] *= 1e3
            W[:, d // 2] *= 50
        elif kind == "dead":
            self.b_enc[torch.rand(m, generator=generator) < 0.9] = -1e4
        elif kind == "silent":
            self.b_enc -= 1e4
        elif kind == "equal":  # every latent eight times
            W, self.b_enc = W[torch.arange(m) % max(1, m // 8)], self.b_enc[torch.arange(m) % max(1, m // 8)]
        elif kind == "zero":
            self.x[::2], W[::3] = 0, 0
        self.W_enc = W.T
        self.threshold = self.b_enc + 1.5 * self.x.norm(dim=1).mean() * W.norm(dim=1) / d**0.5

    @property
    def pre(self) -> Tensor:
        return self.x.double() @ self.W_enc.double() + self.b_enc.double()

    @property
    def tolerance(self) -> Tensor:
        """How far float32 may be off, whatever the order of its sums."""
        return (len(self.W_enc) + 8) * 2.0**-24 * (self.x.double().abs() @ self.W_enc.double().abs() + self.b_enc.double().abs()) + 1e-38


def encode(data: Data, encoding: str, k: int, cache: Cache) -> Selected:
    if encoding == "topk":
        return compiled.encode_topk(data.x, data.W_enc, data.b_enc, k, cache)
    if encoding == "batch_topk":
        return compiled.encode_batch_topk(data.x, data.W_enc, data.b_enc, k * len(data.x), cache)
    return compiled.encode_above(data.x, data.W_enc, data.b_enc, data.threshold, cache)


def check_selected(data: Data, encoding: str, k: int, found: Selected) -> None:
    """Against float64, as far as float32 can tell entries apart."""
    selection, pre, tolerance = found.selection, data.pre, data.tolerance
    assert isinstance(selection, Selection)
    where = (selection.tokens, selection.latents.long())
    got = torch.zeros_like(pre, dtype=torch.bool)
    got[where] = True
    assert int(got.sum()) == len(found.values), "an entry was selected twice"
    assert ((selection.latents.diff() > 0) | (selection.tokens.diff() > 0)).all(), "not in order"
    assert ((found.values.double() - pre[where]).abs() <= tolerance[where]).all()
    if encoding == "above":
        assert not ((pre > data.threshold + tolerance) & ~got).any()
        assert not ((pre <= data.threshold - tolerance) & got).any()
        return
    assert (found.values > 0).all()
    n_keep = min(k, pre.shape[1]) if encoding == "topk" else min(k * len(pre), pre.numel())
    rows = pre if encoding == "topk" else pre.reshape(1, -1)
    slack, picked = tolerance.reshape(rows.shape), got.reshape(rows.shape)
    n_certain, n_possible = ((rows > slack).sum(1), (rows > -slack).sum(1))
    assert (picked.sum(1) >= n_certain.clamp(max=n_keep)).all()
    assert (picked.sum(1) <= n_possible.clamp(max=n_keep)).all()
    least_picked = torch.where(picked, rows + slack, torch.inf).amin(1, keepdim=True)
    full = picked.sum(1, keepdim=True) == n_keep
    assert not (~picked & full & (rows - slack > least_picked)).any(), "a larger one was left out"


def identical(a: Selected, b: Selected) -> bool:
    assert isinstance(a.selection, Selection)
    assert isinstance(b.selection, Selection)
    return torch.equal(a.values, b.values) and torch.equal(a.selection.latents, b.selection.latents) and torch.equal(a.selection.indptr, b.selection.indptr)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("kind", ["plain", "tiny", "vanishing", "huge", "trained", "outliers", "dead", "silent", "equal", "zero"])
def test_selection_and_values(way: str, kind: str, encoding: str) -> None:
    data, cache = Data(kind, 70, 100, 520), cache_for(way)
    first = encode(data, encoding, 9, cache)
    check_selected(data, encoding, 9, first)
    assert identical(encode(data, encoding, 9, cache), first)
    assert cache["stats"]["broken"] == 0


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 3, 2, 5), (3, 17, 33, 4), (13, 64, 31, 31), (67, 129, 65, 20), (9, 33, 3000, 600), (5, 20, 4500, 4500)])
def test_shapes(way: str, encoding: str, shape: tuple[int, int, int, int]) -> None:
    n, d, m, k = shape
    data, cache = Data("plain", n, d, m), cache_for(way)
    check_selected(data, encoding, k, encode(data, encoding, k, cache))
    assert cache["stats"]["broken"] == 0


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_bits_depend_on_neither_threads_nor_predictions(way: str, encoding: str) -> None:
    data, cache = Data("equal", 300, 48, 400), cache_for(way)
    torch.set_num_threads(1)
    expected = encode(data, encoding, 6, cache)
    for factor in (1.0, 0.1, 10.0, 1e9):
        for n_threads in (1, 2, 3):
            torch.set_num_threads(n_threads)
            cache["topk_floor"] = {k: factor * floor for k, floor in cache.get("topk_floor", {}).items()}
            cache["cutoff"] = factor * cache.get("cutoff", 1.0)
            assert identical(encode(data, encoding, 6, cache), expected)
    assert encoding == "above" or cache["stats"]["redone"] > 0
    assert identical(encode(data, encoding, 6, cache_for(way)), expected)


def test_values_do_not_depend_on_the_way_they_are_found(way: str) -> None:
    data = Data("plain", 40, 70, 300)
    chosen = encode(data, "topk", 5, cache_for(way))
    everything = compiled.encode_above(data.x, data.W_enc, data.b_enc, torch.full((300,), -torch.inf), cache_for(way))
    dense = everything.values.view(40, 300)
    assert isinstance(chosen.selection, Selection)
    assert torch.equal(dense[chosen.selection.tokens, chosen.selection.latents.long()], chosen.values)
    assert torch.equal(dense.topk(5).values.sort().values, chosen.values.view(40, 5).sort().values)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000), n=st.integers(0, 30), d=st.integers(1, 40), m=st.integers(1, 90), k=st.integers(1, 40), levels=st.integers(1, 3),
       prediction=st.sampled_from([0.0, 0.5, 3.0]))
def test_small_whole_numbers_agree_exactly(seed: int, n: int, d: int, m: int, k: int, levels: int, prediction: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, W, b_enc = (torch.randint(-levels, levels + 1, shape, generator=generator).float() for shape in ((n, d), (m, d), (m,)))
    cache: Cache = {"topk_floor": {min(k, m): prediction}, "cutoff": prediction}
    for found, expected in [
        (compiled.encode_topk(x, W.T, b_enc, k, cache), ref.encode_topk(x, W.T, b_enc, k, {})),
        (compiled.encode_batch_topk(x, W.T, b_enc, k, cache), ref.encode_batch_topk(x, W.T, b_enc, k, {})),
        (compiled.encode_above(x, W.T, b_enc, b_enc, cache), ref.encode_above(x, W.T, b_enc, b_enc, {})),
    ]:
        assert found.values.tolist() == expected.values.tolist()
        assert found.selection.latents.tolist() == expected.selection.latents.tolist()
        assert found.selection.indptr.tolist() == expected.selection.indptr.tolist()


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 3e38])
def test_what_is_not_finite_hurts_only_itself(way: str, encoding: str, bad: float) -> None:
    data = Data("plain", 50, 40, 200)
    data.threshold.fill_(1.0)
    clean = encode(data, "above", 1, cache_for(way))
    data.x[7, 3] = bad
    data.W_enc[2, 11] = bad
    found = encode(data, encoding, 4, cache_for(way))
    assert isinstance(found.selection, Selection)
    assert not found.values.isnan().any()
    if encoding == "above":
        assert isinstance(clean.selection, Selection)
        for a, b in ((found, clean), (clean, found)):
            other = {(int(t), int(latent)): float(v) for t, latent, v in zip(b.selection.tokens, b.selection.latents, b.values, strict=True)}
            assert all(other[int(t), int(latent)] == float(v) for t, latent, v in zip(a.selection.tokens, a.selection.latents, a.values, strict=True)
                       if t != 7 and latent != 11)


def test_other_layouts_and_dtypes_are_taken() -> None:
    data, cache = Data("plain", 20, 30, 50), {}
    expected = encode(data, "topk", 3, {})
    wide = torch.zeros(20, 60)
    wide[:, ::2] = data.x
    assert identical(compiled.encode_topk(wide[:, ::2], data.W_enc.contiguous(), data.b_enc.expand(50), 3, cache), expected)
    assert compiled.encode_topk(data.x.double(), data.W_enc.double(), data.b_enc.double(), 3, {}).values.dtype == torch.float64


def test_entries_of_no_token_or_no_latent() -> None:
    data = Data("plain", 6, 5, 7)
    for found in (compiled.encode_topk(data.x, data.W_enc, data.b_enc, 0, {}), compiled.encode_batch_topk(data.x, data.W_enc, data.b_enc, 0, {})):
        assert (found.selection.n_tokens, len(found.values), found.cutoff) == (6, 0, 0.0)
        assert not compiled.decode(found.values, found.selection, torch.randn(7, 5), (7,)).any()


def test_dense_answer_where_many_pass() -> None:
    data = Data("plain", 30, 20, 100)
    threshold = torch.zeros(100)
    assert isinstance(compiled.encode_above(data.x, data.W_enc, data.b_enc, threshold, {}, True).selection, DenseSelection)
    assert isinstance(compiled.encode_above(data.x, data.W_enc, data.b_enc, threshold, {}, False).selection, Selection)
    assert isinstance(compiled.encode_above(data.x, data.W_enc, data.b_enc, threshold + 4, {}, True).selection, Selection)


def test_weights_changed_behind_pytorchs_back_are_noticed(way: str) -> None:
    data, cache = Data("plain", 60, 64, 300), cache_for(way)
    encode(data, "topk", 5, cache)
    data.W_enc.data.mul_(3)  # through .data the change is not counted
    check_selected(data, "topk", 5, encode(data, "topk", 5, cache))
    assert cache["stats"]["broken"] > 0


def test_adam_refreshes_the_packed_copy(way: str) -> None:
    data, cache = Data("plain", 40, 37, 70), cache_for(way)
    encode(data, "topk", 5, cache)
    W_enc = data.W_enc.T.contiguous()
    data.W_enc = W_enc.T
    encode(data, "topk", 5, cache)
    code, before = cache["packed"].format, cache["packed"].memory.clone()
    compiled.adam_step(W_enc, torch.randn(70, 37), torch.zeros(70, 37), torch.zeros(70, 37), lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, step=1,
                       grad_scale=1.0, unit_rows=False, cache=cache)
    held = cache["packed"]
    assert packed_copy(data.W_enc.T, code, cache) is held, "not of the present state"
    assert torch.equal(held.memory, packed_copy(W_enc.clone(), code, {}).memory)
    assert not torch.equal(held.memory, before)
    check_selected(data, "topk", 5, encode(data, "topk", 5, cache))
    assert cache["stats"]["broken"] == 0


def test_a_format_is_chosen_by_trial() -> None:
    data, cache = Data("plain", 40, 32, 100), {}
    expected = encode(data, "topk", 3, cache)
    n_formats = loader.library().functions.sl_formats().bit_count()
    for _ in range(4 * TRIALS):
        assert identical(encode(data, "topk", 3, cache), expected)
    assert len(cache["speeds"]) == min(2, n_formats)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("ends", [(50,), (5, 20, 50), (1, 50)])
@pytest.mark.parametrize(("d_in", "d_out"), [(1, 3), (40, 16), (130, 300)])
def test_sparse_products(way: str, ends: tuple[int, ...], d_in: int, d_out: int) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    pre = draw(40, 50)
    pre[10:13] = -1  # tokens without entries
    pre[:, 7] = -1  # a latent without entries
    selected = ref.encode_above(pre, torch.eye(50), torch.zeros(50), torch.full((50,), 0.3), {})
    values, selection = selected.values, selected.selection
    x, W_dec, grad, grad_pre = draw(40, d_in), draw(50, d_out), draw(len(ends), 40, d_out), draw(len(values))
    results = []
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        into = [WeightGradients(torch.full((50, d_in), 2.0), torch.full((50,), 2.0), torch.full((50, d_out), 2.0), fresh) for fresh in (True, False)]
        for buffers in into:
            compiled.weight_gradients(x, grad, values, grad_pre, selection, ends, buffers)
        results.append([compiled.decode(values, selection, W_dec, ends), compiled.decode_gradient(grad, selection, W_dec, ends),
                        *(tensor for buffers in into for tensor in (buffers.W_enc, buffers.b_enc, buffers.W_dec))])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True)), "threads change the bits"
    exact = [WeightGradients(*(torch.full(shape, 2.0, dtype=torch.float64) for shape in ((50, d_in), (50,), (50, d_out))), fresh) for fresh in (True, False)]
    for buffers in exact:
        ref.weight_gradients(x.double(), grad.double(), values.double(), grad_pre.double(), selection, ends, buffers)
    expected = [ref.decode(values.double(), selection, W_dec.double(), ends), ref.decode_gradient(grad.double(), selection, W_dec.double(), ends),
                *(tensor for buffers in exact for tensor in (buffers.W_enc, buffers.b_enc, buffers.W_dec))]
    for found, truth in zip(results[0], expected, strict=True):
        torch.testing.assert_close(found.double(), truth, rtol=1e-5, atol=2e-5)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("is_unit", [False, True])
@pytest.mark.parametrize(("d_in", "d_out"), [(1, 3), (40, 16), (130, 300)])
def test_squares_of_gradients_found_on_the_way(way: str, is_unit: bool, d_in: int, d_out: int) -> None:
    generator = torch.Generator().manual_seed(0)
    pre = torch.randn(40, 50, generator=generator)
    pre[:, 7] = -1  # a latent without entries
    selected = ref.encode_above(pre, torch.eye(50), torch.zeros(50), torch.full((50,), 0.3), {})
    x, grad, grad_pre = (torch.randn(*shape, generator=generator) for shape in ((40, d_in), (1, 40, d_out), (len(selected.values),)))
    W_dec = normalize(torch.randn(50, d_out, generator=generator))
    found = []
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        into = WeightGradients(torch.empty(50, d_in), torch.empty(50), torch.empty(50, d_out), unit_rows=W_dec if is_unit else None)
        compiled.weight_gradients(x, grad, selected.values, grad_pre, selected.selection, (50,), into)
        found.append(into.squares)
    assert found[0] == found[1], "threads change the bits"
    W_enc, rows = into.W_enc.double(), W_dec.double()
    expected = {"W_enc": ref.grad_square(W_enc, W_enc, False), "W_dec": ref.grad_square(rows, into.W_dec.double(), is_unit)}
    assert found[0] == pytest.approx(expected, rel=1e-5)
    into.fresh = False
    compiled.weight_gradients(x, grad, selected.values, grad_pre, selected.selection, (50,), into)
    assert into.squares is None, "what was there before is not in them"


@pytest.mark.parametrize("d", [1, 2, 7, 64, 130])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_rows_are_gathered_checked_and_widened(way: str, dtype: str, d: int) -> None:
    values, scale = encode_rows(torch.randn(50, d, generator=torch.Generator().manual_seed(0)), dtype)
    stored = StoredRows(to_numpy(values), None if scale is None else scale.numpy())
    sums, chosen = row_sums(stored, np.arange(50)), np.array([0, 3, 3, 17, 49])
    expected = (values.float() if scale is None else values.float() * scale[:, None])[chosen]

    def take() -> tuple[int, Tensor]:
        out = torch.full((5, d + 1), 7.0)  # a float beside each row that must stay
        factors = None if stored.scale is None else stored.scale.ctypes.data
        places = out.data_ptr() + np.array([4, 1, 0, 2, 3]) * out.stride(0) * 4
        return take_rows(stored.values.ctypes.data, sums.ctypes.data, factors, chosen, places, d, dtype, int(ROW_NUMBER_FACTOR)), out

    n_wrong, out = take()
    assert n_wrong == 0
    assert torch.equal(out[[4, 1, 0, 2, 3], :d], expected)
    assert torch.equal(out[:, d], torch.full((5,), 7.0))
    stored.values.view(np.uint8)[17, 0] ^= 4
    assert take()[0] == 1
    stored.values.view(np.uint8)[18, 0] ^= 4  # not asked for
    assert take()[0] == 1


@pytest.mark.parametrize("shape", [(1,), (37,), (12, 5), (70, 130)])
def test_adam_is_pytorchs(way: str, shape: tuple[int, ...]) -> None:
    ours = torch.linspace(-1, 1, torch.Size(shape).numel()).view(shape).clone()
    theirs = torch.nn.Parameter(ours.clone())
    optimizer = torch.optim.AdamW([theirs], lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)
    moments = (torch.zeros(shape), torch.zeros(shape))
    for step in range(1, 6):
        grad = torch.randn(shape, generator=torch.Generator().manual_seed(step))
        theirs.grad = 0.5 * grad
        optimizer.step()
        version = ours._version
        compiled.adam_step(ours, grad, *moments, lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1, step=step, grad_scale=0.5, unit_rows=False)
        assert ours._version > version
    torch.testing.assert_close(ours, theirs.detach(), rtol=2e-6, atol=2e-6)
    assert compiled.grad_square(ours, grad, False) == pytest.approx(float(grad.double().square().sum()), rel=1e-12)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("turned", [False, True])
def test_adam_of_unit_rows_and_other_layouts(way: str, turned: bool) -> None:
    rows, grad = normalize(torch.randn(33, 50)), torch.randn(33, 50)
    tensors = [rows, grad, torch.randn(33, 50), torch.rand(33, 50)]
    if turned:  # the same numbers, column by column in memory
        tensors = [tensor.T.contiguous().T for tensor in tensors]
    unit_rows, arguments = True, {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.01, "step": 3, "grad_scale": 0.3}
    expected = [tensor.double() for tensor in tensors]
    square = ref.grad_square(expected[0], expected[1], unit_rows)
    ref.adam_step(*expected, unit_rows=unit_rows, **arguments)
    found = []
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        copies = [tensor.clone() for tensor in tensors]
        assert compiled.grad_square(copies[0], copies[1], unit_rows) == pytest.approx(square, rel=1e-6)
        compiled.adam_step(*copies, unit_rows=unit_rows, **arguments)
        found.append(copies)
    for a, b, truth in zip(*found, expected, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a.double(), truth, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[0][0].norm(dim=1), torch.ones(33))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("m", "d", "chunk"), [(1, 3, 5), (2, 3, 1), (7, 5, 3), (90, 30, 90), (700, 40, 256), (700, 70, 699)])
def test_nearest(way: str, m: int, d: int, chunk: int) -> None:
    generator = torch.Generator().manual_seed(0)
    rows, order = normalize(torch.randn(m, d, generator=generator)), torch.randperm(m, generator=generator)
    if m > 50:
        rows[10:20], rows[33] = rows[0], 0  # rows that are equal, and one of no direction
    found = []
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        found.append(compiled.nearest_in_chunk(rows, order, chunk))
    assert torch.equal(*found)
    expected = ref.nearest_in_chunk(rows.double(), order, chunk)
    alone = torch.arange(m)
    assert torch.equal(found[0] == alone, expected == alone)
    place = torch.empty(m, dtype=torch.int64)
    place[order] = torch.arange(m) // chunk
    assert torch.equal(place[found[0]], place)
    cosines = [(rows.double() * rows.double()[partner]).sum(1) for partner in (found[0], expected)]
    torch.testing.assert_close(*cosines, rtol=0, atol=1e-6)


def test_nearest_of_what_is_not_finite_ends() -> None:
    rows = torch.full((200, 8), torch.nan)
    rows[:5] = normalize(torch.randn(5, 8))
    partner = compiled.nearest_in_chunk(rows, torch.arange(200), 200)
    assert ((partner >= 0) & (partner < 200)).all()
    assert (partner[:5] < 5).all()


def test_threads_are_those_of_pytorch() -> None:
    runtime = loader.library().runtime
    assert runtime is not None
    assert runtime in loader.mapped_runtimes() or not loader.mapped_runtimes()


def test_an_instruction_set_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(loader.VARIABLE, "mmx")
    loader.library.cache_clear()
    try:
        assert "SPARSELIGHT_CPU=mmx" in (compiled.available() or "")
    finally:
        loader.library.cache_clear()


def test_a_build_of_other_sources_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "fingerprint", lambda: "of other sources")
    loader.library.cache_clear()
    try:
        assert "other sources" in (compiled.available() or "")
    finally:
        loader.library.cache_clear()


def test_build_without_compiler_or_with_a_failing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "false")
    assert set(build.build().values()) == {"exit code 1"}
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert set(build.build().values()) == {"no C++ compiler was found"}
    monkeypatch.setenv(build.SKIP, "1")
    assert set(build.build().values()) == {"SPARSELIGHT_NO_COMPILE=1"}


def test_doctor_says_which_kernels_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPARSELIGHT_KERNELS", raising=False)
    assert kernels_in_use().startswith(f"compiled ({loader.library().isa}")
    monkeypatch.setenv("SPARSELIGHT_KERNELS", "torch")
    assert kernels_in_use() == "torch, chosen by SPARSELIGHT_KERNELS"
    monkeypatch.setenv("SPARSELIGHT_KERNELS", "torhc")
    assert kernels_in_use().startswith("cannot run")
