"""Append, merge, split, repair, info: what is done to finished stores keeps every row."""

from pathlib import Path

import numpy as np
import pytest
import torch
from toy_subject import ToySubject, toy_examples

from sparselight.corpus import ListCorpus
from sparselight.errors import RunError, StoreError
from sparselight.files import folder_lock
from sparselight.protocols import Example
from sparselight.store import FolderStore, HarvestConfig, append, harvest, merge, repair, split, store_info, verify

SITES = ["resid_post.0", "resid_post.1"]
CONFIG = HarvestConfig(dtype="float32", shard_tokens=40, batch_tokens=32)
EXAMPLES = toy_examples()
SAMPLE = Path(__file__).with_name("sample_v1")


def more_examples(n=9, seed=7):
    return [Example(f"new{i}", example.text, f"newfile{i // 2}") for i, example in enumerate(toy_examples(n, seed))]


def make_store(folder, examples=EXAMPLES, corpus="corpus0", **changes):
    return harvest(ToySubject(), examples, SITES, folder, CONFIG.model_copy(update=changes), corpus)


def truth(examples, site):
    subject = ToySubject()
    return torch.cat([subject.capture(subject.prepare([example]), [site])[site] for example in examples])


def check_rows(store, examples, decimals=None):
    """The store holds exactly these examples, each with its own rows and token table lines."""
    assert store.examples().column("id").to_pylist() == [example.id for example in examples]
    assert store.examples().column("example").to_pylist() == list(range(len(examples)))
    for site in SITES:
        assert torch.equal(store.read(np.arange(store.n_tokens), site), truth(examples, site))
    lines = store.tokens().to_pylist()
    words = [examples[line["example"]].text[line["char_start"]:line["char_end"]] for line in lines]
    assert words == [word for example in examples for word in example.text.split()]
    for example in (examples[0], examples[-1]):
        assert torch.equal(store.read(store.rows_of([example.id]), SITES[0]), truth([example], SITES[0]))
    assert verify(store.location) == {}


def test_append_adds_examples_and_keeps_what_was_there(tmp_path):
    before = make_store(tmp_path)
    files = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.name not in (".lock", "manifest.json")}
    more, most = more_examples(), [Example("last", "w1 w2 w3", "z")]
    store = append(ToySubject(), more, tmp_path, CONFIG, "corpus1")
    store = append(ToySubject(), most, tmp_path, CONFIG, "corpus2")
    check_rows(store, [*EXAMPLES, *more, *most])
    assert all((tmp_path / name).stat().st_mtime_ns == stamp for name, stamp in files.items())
    assert store.fingerprint != before.fingerprint
    subject = ToySubject()
    assert append(subject, most, tmp_path, CONFIG, "corpus2").fingerprint == store.fingerprint  # once is enough
    assert make_store(tmp_path).fingerprint == store.fingerprint
    assert subject.n_captured == 0


def test_an_interrupted_append_leaves_the_store_as_it_was_and_goes_on(tmp_path):
    before = make_store(tmp_path)

    def fail(n_captured):
        if n_captured == 4:
            raise RuntimeError("the model broke")

    more = more_examples(20)
    with pytest.raises(RuntimeError, match="the model broke"):
        append(ToySubject(before_capture=fail), more, tmp_path, CONFIG, "corpus1")
    assert FolderStore.open(tmp_path).fingerprint == before.fingerprint
    check_rows(FolderStore.open(tmp_path), EXAMPLES)
    with pytest.raises(StoreError, match="another append was begun there.*store repair"):
        append(ToySubject(), more[:3], tmp_path, CONFIG, "corpus2")
    subject = ToySubject()
    check_rows(append(subject, more, tmp_path, CONFIG, "corpus1"), [*EXAMPLES, *more])
    assert subject.n_captured < ToySubject().n_captured + 20


def test_an_unfinished_append_can_be_dropped(tmp_path):
    make_store(tmp_path)

    def fail(n_captured):
        if n_captured == 4:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        append(ToySubject(before_capture=fail), more_examples(20), tmp_path, CONFIG, "corpus1")
    assert repair(tmp_path).removed == ["plan-00001.json"]
    check_rows(append(ToySubject(), more_examples(3), tmp_path, CONFIG, "corpus2"), [*EXAMPLES, *more_examples(3)])


def test_what_cannot_be_appended(tmp_path):
    make_store(tmp_path)
    with pytest.raises(StoreError, match="the example 'doc3' is in it already"):
        append(ToySubject(), [*more_examples(2), EXAMPLES[3]], tmp_path, CONFIG, "corpus1")
    with pytest.raises(StoreError, match="another subject or revision"):
        append(ToySubject("0" * 64), more_examples(), tmp_path, CONFIG, "corpus1")
    with pytest.raises(StoreError, match="there is no store"):
        append(ToySubject(), more_examples(), tmp_path / "none", CONFIG, "corpus1")
    check_rows(FolderStore.open(tmp_path), EXAMPLES)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_merge_is_one_store_with_the_rows_of_all(tmp_path, dtype):
    more = more_examples()
    parts = [make_store(tmp_path / "a", dtype=dtype), make_store(tmp_path / "b", more, "corpus1", dtype=dtype)]
    merged = merge(parts, tmp_path / "ab")
    if dtype == "float32":
        check_rows(merged, [*EXAMPLES, *more])
    for site in SITES:
        both = torch.cat([store.read(np.arange(store.n_tokens), site) for store in parts])
        assert torch.equal(merged.read(np.arange(merged.n_tokens), site), both)
    assert merge(parts, tmp_path / "ab").fingerprint == merged.fingerprint
    other = merge([merged, make_store(tmp_path / "c", [Example("c", "x y", "c")], "corpus2", dtype=dtype)], tmp_path / "abc")
    assert other.n_tokens == merged.n_tokens + 2
    assert verify(tmp_path / "abc") == {}


def test_what_does_not_fit_is_not_merged(tmp_path):
    one = make_store(tmp_path / "a")
    with pytest.raises(StoreError, match="the example 'doc0' is in"):
        merge([one, make_store(tmp_path / "b", EXAMPLES[:2], "corpus1")], tmp_path / "out")
    with pytest.raises(StoreError, match=r"in float16 \(not float32\)"):
        merge([one, make_store(tmp_path / "c", more_examples(), "corpus1", dtype="float16")], tmp_path / "out")
    other = harvest(ToySubject("0" * 64), more_examples(), SITES, tmp_path / "d", CONFIG, "corpus1")
    with pytest.raises(StoreError, match="another subject"):
        merge([one, other], tmp_path / "out")
    with pytest.raises(StoreError, match="two or more"):
        merge([one], tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_split_divides_by_group_as_a_corpus_does(tmp_path, dtype):
    store = make_store(tmp_path / "all", dtype=dtype)
    train, held_out = split(store, tmp_path / "train", tmp_path / "held_out", held_out_frac=0.3, seed=1)
    sides = ListCorpus(EXAMPLES, "toy").split(0.3, 1)
    for part, corpus in zip((train, held_out), sides, strict=True):
        assert part.examples().column("id").to_pylist() == [example.id for example in corpus]
        if dtype == "float32":
            check_rows(part, list(corpus))
        for site in SITES:
            assert torch.equal(part.read(np.arange(part.n_tokens), site), store.read(store.rows_of([example.id for example in corpus]), site))
        assert verify(part.location) == {}
        assert part.manifest.rounding_fvu().keys() == store.manifest.rounding_fvu().keys()
    assert not set(train.examples().column("group").to_pylist()) & set(held_out.examples().column("group").to_pylist())
    assert split(store, tmp_path / "train", tmp_path / "held_out", held_out_frac=0.3, seed=1)[0].fingerprint == train.fingerprint
    with pytest.raises(StoreError, match="from another corpus"):
        split(store, tmp_path / "train", tmp_path / "held_out", held_out_frac=0.3, seed=2)
    with pytest.raises(StoreError, match="none with a token would go to"):
        split(store, tmp_path / "x", tmp_path / "y", held_out_frac=1e-9)


def test_info_in_numbers(tmp_path):
    make_store(tmp_path, dtype="bfloat16")
    info = store_info(tmp_path)
    assert info.is_complete
    assert (info.n_tokens, info.n_examples, info.n_groups) == (154, 23, 8)
    assert info.n_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert info.rounding_fvu.keys() == set(SITES)
    assert info.bytes_per_value == info.n_bytes / (154 * 20)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "shard-00001.json").unlink()
    info = store_info(tmp_path)
    assert (info.is_complete, info.n_shards, info.n_shards_planned) == (False, 3, 4)
    with pytest.raises(StoreError, match="there is none"):
        store_info(tmp_path / "nothing")


def test_the_overhead_of_a_bfloat16_store_is_under_two_percent(tmp_path):
    class Wide(ToySubject):
        def d_site(self, site):
            return 384

    examples = [Example(f"e{i}", " ".join(f"w{(i * 31 + k * k) % 997}" for k in range(60)), "g") for i in range(150)]
    harvest(Wide(), examples, SITES[:1], tmp_path, HarvestConfig(dtype="bfloat16", shard_tokens=4096), "c")
    info = store_info(tmp_path)
    assert 2 <= info.bytes_per_value < 2.04
    assert 0 < info.overhead_frac < 0.02


def test_a_repair_keeps_good_shards_and_names_what_it_drops(tmp_path):
    store = make_store(tmp_path)
    content = bytearray((tmp_path / "shard-00001.safetensors").read_bytes())
    content[-60] ^= 4
    (tmp_path / "shard-00001.safetensors").write_bytes(content)
    (tmp_path / "tokens-00002.parquet").unlink()
    assert list(verify(tmp_path)) == ["shard-00001.safetensors", "tokens-00002.parquet"]
    report = repair(tmp_path)
    assert report.dropped == ["shard-00001", "shard-00002"]
    assert report.n_tokens_lost == store.manifest.shards[1].n_tokens + store.manifest.shards[2].n_tokens
    mended = FolderStore.open(tmp_path)
    assert mended.manifest.dropped == report.dropped
    assert verify(tmp_path) == {}
    assert not (tmp_path / "shard-00001.safetensors").exists()
    first = store.manifest.shards[0]
    kept = [*EXAMPLES[:first.n_examples], *EXAMPLES[-store.manifest.shards[3].n_examples:]]
    assert torch.equal(mended.read(np.arange(mended.n_tokens), SITES[0]), truth(kept, SITES[0]))
    assert store_info(tmp_path).dropped == report.dropped
    assert repair(tmp_path).damaged == {}
    whole = make_store(tmp_path)  # the harvest that made it can still make it whole
    assert whole.manifest.dropped == []
    check_rows(whole, EXAMPLES)


def test_a_repair_with_the_harvest_at_hand_drops_nothing(tmp_path):
    before = make_store(tmp_path).fingerprint
    for name in ("shard-00000.safetensors", "tokens-00003.parquet", "examples.parquet"):
        content = bytearray((tmp_path / name).read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / name).write_bytes(content)
    with pytest.raises(StoreError, match="examples.parquet is damaged, and only the harvest"):
        repair(tmp_path)
    subject = ToySubject()
    report = repair(tmp_path, lambda: harvest(subject, EXAMPLES, SITES, tmp_path, CONFIG, "corpus0"))
    assert report.harvested == ["shard-00000", "shard-00003"]
    assert FolderStore.open(tmp_path).fingerprint == before
    check_rows(FolderStore.open(tmp_path), EXAMPLES)


def test_writers_of_one_store_exclude_one_another(tmp_path):
    store = make_store(tmp_path / "a")
    other = make_store(tmp_path / "b", more_examples(), "corpus1")
    for folder, act in (
        (tmp_path / "a", lambda: append(ToySubject(), more_examples(), tmp_path / "a", CONFIG, "c")),
        (tmp_path / "a", lambda: repair(tmp_path / "a")),
        (tmp_path / "c", lambda: merge([store, other], tmp_path / "c")),
        (tmp_path / "c", lambda: split(store, tmp_path / "c", tmp_path / "d", 0.3, 1)),
    ):
        with folder_lock(folder, asked="hold it"), pytest.raises(RunError, match="another process"):
            act()


def test_a_store_of_version_1_is_read_checked_and_worked_on(tmp_path):
    store = FolderStore.open(SAMPLE)
    assert store.fingerprint == "5bc87ca3ed5ecd2148ad782770218d426bfd6c4b880bee61a263f9784d3410a4"  # as version 0.1.0 gave it
    store.verify()
    for site in SITES:
        assert torch.equal(store.read(np.arange(store.n_tokens), site), truth(EXAMPLES, site).bfloat16().float())
        assert torch.equal(store.read(np.arange(store.n_tokens)[::-1], site), truth(EXAMPLES, site).bfloat16().float().flip(0))
    assert store.examples().column("id").to_pylist() == [example.id for example in EXAMPLES]
    assert store_info(SAMPLE).n_tokens == store.n_tokens
    new = make_store(tmp_path / "new", more_examples(), "corpus1", dtype="bfloat16", shard_tokens=60)
    merged = merge([store, new], tmp_path / "both")
    assert merged.n_tokens == store.n_tokens + new.n_tokens
    assert torch.equal(merged.read(np.arange(store.n_tokens), SITES[1]), store.read(np.arange(store.n_tokens), SITES[1]))
    sides = split(store, tmp_path / "train", tmp_path / "held", 0.3, 1)
    assert sides[0].n_tokens + sides[1].n_tokens == store.n_tokens
