import importlib.util
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch

from sparselight.errors import RunError, StoreError
from sparselight.files import folder_lock
from sparselight.protocols import Example
from sparselight.records import StoreManifest
from sparselight.store import FolderStore, HarvestConfig, harvest
from sparselight.store.formats import MEASURE_EVERY, RoundingMeter, encode

spec = importlib.util.spec_from_file_location("toy_store_subject", Path(__file__).with_name("toy_subject.py"))
toy = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toy)

SITES = ["resid_post.0", "resid_post.1"]
CONFIG = HarvestConfig(site="resid_post.1", dtype="float32", shard_tokens=40, batch_tokens=32)


def make_store(folder, examples=None, subject=None, **changes):
    return harvest(subject or toy.ToySubject(), examples or toy.toy_examples(), SITES, folder, CONFIG.model_copy(update=changes), "corpus0")


def truth(examples, site, subject=None):
    """Activations in corpus order, one example at a time."""
    subject = subject or toy.ToySubject()
    return torch.cat([subject.capture(subject.prepare([example]), [site])[site] for example in examples])


@pytest.mark.parametrize(("dtype", "relative_error"), [("float32", 0.0), ("float16", 2**-11), ("bfloat16", 2**-8)])
def test_round_trip_is_exact_to_the_rounding_of_the_format(tmp_path, dtype, relative_error):
    examples = toy.toy_examples()
    store = make_store(tmp_path, examples, dtype=dtype)
    assert len(store.manifest.shards) > 3
    for site in SITES:
        read, expected = store.read(np.arange(store.n_tokens), site), truth(examples, site)
        assert read.dtype == torch.float32
        assert torch.equal(read, expected.to(getattr(torch, dtype)).float())
        assert ((read - expected).abs() <= relative_error * expected.abs() + 1e-7 * (relative_error > 0)).all()


def test_int8_is_exact_to_half_a_step_and_its_error_is_in_the_manifest(tmp_path):
    examples = toy.toy_examples()
    store = make_store(tmp_path, examples, dtype="int8")
    for site in SITES:
        read, expected = store.read(np.arange(store.n_tokens), site), truth(examples, site)
        step = expected.abs().amax(1, keepdim=True) / 127
        assert ((read - expected).abs() <= 0.501 * step).all()
    assert all(1e-6 < cost < 1e-3 for cost in store.manifest.rounding_fvu().values())
    assert store.manifest.rounding_fvu().keys() == set(SITES)
    assert make_store(tmp_path / "exact", examples, dtype="float32").manifest.rounding_fvu() == {}
    assert all(cost < 1e-4 for cost in make_store(tmp_path / "half", examples, dtype="bfloat16").manifest.rounding_fvu().values())


def test_the_rounding_error_is_that_of_the_measured_rows():
    x = torch.randn(160, 24, generator=torch.Generator().manual_seed(0)) * torch.linspace(0, 3, 160)[:, None]
    values, scale = encode(x, "int8")
    meter = RoundingMeter(24)
    for part in range(0, 160, 64):
        meter.add(x[part:part + 64], values[part:part + 64], scale[part:part + 64])
    rows = x[::MEASURE_EVERY].double()
    stored = values[::MEASURE_EVERY].double() * scale[::MEASURE_EVERY, None]
    found = meter.result()
    assert found.n_rows == len(rows) == 3
    assert found.error == pytest.approx(float((rows - stored).square().sum()))
    assert found.spread == pytest.approx(float((rows - rows.mean(0)).square().sum()))
    assert (stored[0] == 0).all()  # a row of zeros


def test_rows_come_in_the_order_asked_for_and_every_row_once(tmp_path):
    examples = toy.toy_examples()
    store = make_store(tmp_path, examples)
    order = np.random.default_rng(0).permutation(store.n_tokens)
    assert torch.equal(store.read(order, SITES[0]), truth(examples, SITES[0])[order])
    assert torch.equal(store.read(np.array([3, 3, 60, 0]), SITES[1]), truth(examples, SITES[1])[[3, 3, 60, 0]])
    assert store.read(np.array([], dtype=int), SITES[0]).shape == (0, 8)
    with pytest.raises(IndexError):
        store.read(np.array([store.n_tokens]), SITES[0])


def test_token_table_says_where_each_row_came_from(tmp_path):
    examples = [Example("empty", "", "g"), *toy.toy_examples(), Example("blank", "  ", "g")]
    store = make_store(tmp_path, examples)
    lines, subject = store.tokens().to_pylist(), toy.ToySubject()
    assert len(lines) == store.n_tokens == sum(subject.n_tokens(examples))
    assert [(line["example"], line["position"]) for line in lines] == [(i, p) for i, n in enumerate(subject.n_tokens(examples)) for p in range(n)]
    words = [examples[line["example"]].text[line["char_start"]:line["char_end"]] for line in lines]
    assert words == [word for example in examples for word in example.text.split()]
    assert store.examples().to_pylist() == [{"example": i, "id": example.id, "group": example.group} for i, example in enumerate(examples)]
    assert sum(shard.n_examples for shard in store.manifest.shards) == store.manifest.n_examples == len(examples)
    expected = [row for row, line in enumerate(lines) if examples[line["example"]].id in ("doc9", "doc2")]
    assert store.rows_of(["doc9", "doc2", "empty"]).tolist() == expected
    assert store.rows_of([]).tolist() == []
    with pytest.raises(StoreError, match="'doc99'"):
        store.rows_of(["doc1", "doc99"])


def test_files_are_safetensors_that_the_library_reads(tmp_path):
    store = make_store(tmp_path, dtype="bfloat16")
    with safetensors.safe_open(tmp_path / "shard-00001.safetensors", "pt") as file:
        assert sorted(file.keys()) == sorted([*SITES, *(f"{site}.row_sum" for site in SITES)])
        assert file.get_tensor(f"{SITES[1]}.row_sum").shape == file.get_tensor(SITES[1]).shape[:1]
        first = store.manifest.shards[0].n_tokens
        rows = np.arange(first, first + store.manifest.shards[1].n_tokens)
        assert torch.equal(file.get_tensor(SITES[1]).float(), store.read(rows, SITES[1]))


def test_fingerprint_depends_on_the_content_only(tmp_path):
    stores = [make_store(tmp_path / "a"), make_store(tmp_path / "b"), make_store(tmp_path / "c", toy.toy_examples(seed=1))]
    assert stores[0].fingerprint == stores[1].fingerprint != stores[2].fingerprint
    slower = stores[0].manifest.model_copy(update={"harvest_s": 1e6})
    assert FolderStore(tmp_path / "a", slower).fingerprint == stores[0].fingerprint
    assert FolderStore.open(tmp_path / "a").fingerprint == stores[0].fingerprint


def test_a_finished_store_is_not_made_again(tmp_path):
    make_store(tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.name != ".lock"}
    subject = toy.ToySubject()
    make_store(tmp_path, subject=subject)
    assert subject.batches == []
    assert before == {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.name != ".lock"}


def test_progress_counts_tokens_up_to_all_of_them(tmp_path):
    calls = []
    store = harvest(toy.ToySubject(), toy.toy_examples(), SITES, tmp_path, CONFIG, "c", lambda done, total, note="": calls.append((done, total)))
    assert calls == sorted(calls)
    assert calls[-1] == (store.n_tokens, store.n_tokens)


@pytest.mark.parametrize(("subject", "corpus", "sites", "changes", "message"), [
    (toy.ToySubject("e" * 64), "corpus0", SITES, {}, "another subject or revision"),
    (toy.ToySubject(), "corpus1", SITES, {}, "another corpus"),
    (toy.ToySubject(), "corpus0", SITES[:1], {}, "at resid_post.0 with 8 dimensions and resid_post.1"),
    (toy.ToySubject(), "corpus0", SITES, {"dtype": "float16"}, r"in float32 \(not float16\)"),
    (toy.ToySubject(), "corpus0", SITES, {"shard_tokens": 60}, "harvest.shard_tokens"),
])
@pytest.mark.parametrize("keep", ["plan.json", "manifest.json"])
def test_another_store_in_the_folder_is_refused_and_kept(tmp_path, subject, corpus, sites, changes, message, keep):
    store = make_store(tmp_path)
    (tmp_path / ({"plan.json", "manifest.json"} - {keep}).pop()).unlink()
    with pytest.raises(StoreError, match=message):
        harvest(subject, toy.toy_examples(), sites, tmp_path, CONFIG.model_copy(update=changes), corpus)
    assert make_store(tmp_path).fingerprint == store.fingerprint


def test_shards_of_unknown_origin_are_refused(tmp_path):
    make_store(tmp_path)
    (tmp_path / "plan.json").unlink()
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(StoreError, match="unknown origin"):
        make_store(tmp_path)


def test_other_examples_under_the_same_fingerprint_are_refused(tmp_path):
    make_store(tmp_path)
    with pytest.raises(StoreError, match="other examples"):
        make_store(tmp_path, toy.toy_examples(seed=5))


def test_check_subject(tmp_path):
    store = make_store(tmp_path)
    store.check_subject(toy.ToySubject().ref())
    with pytest.raises(StoreError, match="from another subject or revision"):
        store.check_subject(toy.ToySubject("0" * 64).ref())


def test_unknown_site_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(StoreError, match=r"use 'resid_post\.[01]'"):
        make_store(tmp_path).read(np.array([0]), "resid_post.2")


def test_a_second_writer_is_refused(tmp_path):
    with folder_lock(tmp_path, asked="hold it"), pytest.raises(RunError, match="another process"):
        make_store(tmp_path)


def test_what_cannot_be_harvested(tmp_path):
    with pytest.raises(StoreError, match="no token"):
        make_store(tmp_path, [Example("a", "", "g")])
    with pytest.raises(StoreError, match="the id 'a'"):
        make_store(tmp_path, [Example("a", "x", "g"), Example("a", "y", "g")])
    with pytest.raises(StoreError, match="there is no store"):
        FolderStore.open(tmp_path)


class Broken(toy.ToySubject):
    """Gives NaN at the 14th token of an example."""

    def activation(self, token_id, position, site):
        values = super().activation(token_id, position, site)
        values[position == 13] = torch.nan
        return values


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_an_example_with_activations_that_are_not_finite_is_skipped_counted_and_named(tmp_path, dtype):
    examples = toy.toy_examples()
    broken = [example.id for example in examples if len(example.text.split()) == 14]
    good = [example for example in examples if example.id not in broken]
    store = make_store(tmp_path / "all", examples, Broken(), dtype=dtype, max_skipped_frac=0.5)
    without = make_store(tmp_path / "good", good, dtype=dtype)
    assert [(example.id, example.n_tokens) for example in store.manifest.skipped] == [(name, 14) for name in broken]
    assert store.n_tokens == without.n_tokens
    for site in SITES:
        assert torch.equal(store.read(np.arange(store.n_tokens), site), without.read(np.arange(without.n_tokens), site))
    assert len(store.examples()) == len(examples)
    assert store.rows_of(broken).tolist() == []
    ids = store.examples().column("id").to_pylist()
    assert {ids[number] for number in store.tokens().column("example").to_pylist()} == {example.id for example in good}
    assert make_store(tmp_path / "all", examples, Broken(), dtype=dtype, max_skipped_frac=0.5).fingerprint == store.fingerprint
    with pytest.raises(StoreError, match=f"'{broken[0]}'.*not finite.*harvest.max_skipped_frac"):
        make_store(tmp_path / "strict", examples, Broken(), max_skipped_frac=0.0)


def test_values_that_only_the_number_format_cannot_hold_are_refused(tmp_path):
    with pytest.raises(StoreError, match=r"exceed the range of float16.*harvest.dtype"):
        make_store(tmp_path, subject=toy.ToySubject(scale=1e6), dtype="float16")


def test_tokens_of_massive_norm_are_left_out_and_counted(tmp_path):
    examples = toy.toy_examples()
    norms, limit = truth(examples, SITES[1]).norm(dim=1), 2.5
    subject = toy.ToySubject()
    subject.policy = subject.policy.model_copy(update={"max_norms": {SITES[1]: limit}})
    store = make_store(tmp_path, examples, subject)
    keep = norms <= limit
    assert 0 < int(keep.sum()) < len(keep)
    for site in SITES:
        assert torch.equal(store.read(np.arange(store.n_tokens), site), truth(examples, site)[keep])
    assert sum(shard.n_massive_tokens for shard in store.manifest.shards) == int((~keep).sum())
    before = subject.n_captured
    assert make_store(tmp_path, examples, subject).fingerprint == store.fingerprint
    assert subject.n_captured == before


def test_manifest_is_the_record_that_stands_on_disk(tmp_path):
    store = make_store(tmp_path)
    assert StoreManifest.load(tmp_path / "manifest.json") == store.manifest
    assert store.manifest.sites == {"resid_post.0": 8, "resid_post.1": 12}
    assert str(store.n_tokens) in repr(store)
    store.verify()


def test_a_sample_is_evenly_spaced_and_never_more_than_all(tmp_path):
    store = make_store(tmp_path)
    assert torch.equal(store.sample(2, SITES[0]), store.read(np.array([0, store.n_tokens - 1]), SITES[0]))
    assert len(store.sample(10**6, SITES[0])) == store.n_tokens
