"""Stores at URLs: written, resumed, read through a bounded cache and by ranges, with a real S3 protocol server and in memory."""

import contextlib
import threading
import uuid
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_subject import ToySubject, toy_examples

from sparselight.errors import RunError, StoreError
from sparselight.protocols import Example
from sparselight.store import FolderStore, HarvestConfig, RowStream, append, harvest, merge, repair, split, store_info, verify
from sparselight.store.place import FileCache, Remote, is_remote

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
SITES = ["resid_post.0", "resid_post.1"]
EXAMPLES = toy_examples()
CONFIG = HarvestConfig(dtype="bfloat16", shard_tokens=40, batch_tokens=32)


@pytest.fixture(scope="module")
def s3():
    """The URL of a bucket on a server that this process runs."""
    pytest.importorskip("s3fs", reason="needs s3fs and moto[server] of the dev extra")
    server_module = pytest.importorskip("moto.server", reason="needs s3fs and moto[server] of the dev extra")
    import s3fs

    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    patch = pytest.MonkeyPatch()
    try:
        _, port = server.get_host_and_port()
        for name, value in {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
                            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("stores")
        yield "s3://stores"
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        patch.undo()
        server.stop()


@pytest.fixture(params=["memory", "s3"])
def url(request, tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSELIGHT_CACHE", str(tmp_path / "cache"))
    root = "memory://stores" if request.param == "memory" else request.getfixturevalue("s3")
    return f"{root}/{uuid.uuid4().hex}"


def make_store(place, examples=EXAMPLES, subject=None, corpus="corpus0"):
    return harvest(subject or ToySubject(), examples, SITES, place, CONFIG, corpus)


def same(one, other):
    rows = np.random.default_rng(0).permutation(one.n_tokens)
    assert one.n_tokens == other.n_tokens
    assert all(torch.equal(one.read(rows, site), other.read(rows, site)) for site in SITES)
    assert all(torch.equal(one.read(np.sort(rows), site), other.read(np.sort(rows), site)) for site in SITES)
    assert one.tokens().equals(other.tokens())
    assert one.examples().equals(other.examples())


def test_addresses():
    assert all(map(is_remote, ["s3://bucket/store", "memory://x", "s3:/bucket/store", "gs://b/c"]))
    assert not any(map(is_remote, ["store", "/tmp/store", "C:/store", "C://store", "a:b"]))
    assert Remote("memory:/a/b/").url == "memory://a/b"


def test_written_and_read_through_the_cache(url, tmp_path):
    local = make_store(tmp_path / "local")
    remote = make_store(url)
    assert remote.fingerprint == local.fingerprint == FolderStore.open(url).fingerprint
    same(remote, local)
    names = set(Remote(url).sizes())
    assert names == {path.name for path in (tmp_path / "local").iterdir() if not path.name.startswith(".")}
    assert not list((tmp_path / "cache" / "staging").glob("*/*.safetensors"))
    subject = ToySubject()
    make_store(url, subject=subject)
    assert subject.n_captured == 0
    with RowStream(remote, SITES[0], None, 16, 0) as one, RowStream(local, SITES[0], None, 16, 0) as other:
        assert all(torch.equal(one.batch(step), other.batch(step)) for step in range(20))


def test_what_finds_no_room_in_the_cache_is_read_by_ranges(url, tmp_path):
    local = make_store(tmp_path / "local")
    make_store(url)
    sizes = [shard.n_bytes for shard in local.manifest.shards]
    small = FileCache(tmp_path / "small", max_bytes=sizes[0] + sizes[1] + 100)
    store = FolderStore.open(url, cache=small)
    rows = np.random.default_rng(0).permutation(store.n_tokens)
    assert torch.equal(store.read(rows, SITES[1]), local.read(rows, SITES[1]))
    held = sum(path.stat().st_size for path in small.folder.iterdir())
    assert 0 < held <= small.max_bytes
    nothing = FolderStore.open(url, cache=FileCache(tmp_path / "none", max_bytes=0))
    assert torch.equal(nothing.read(rows, SITES[0]), local.read(rows, SITES[0]))
    with pytest.raises(StoreError, match="no room in a cache of 0 bytes.*SPARSELIGHT_CACHE_BYTES"):
        nothing.tokens()


def test_the_cache_evicts_what_was_used_longest_ago(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSELIGHT_CACHE", str(tmp_path / "cache"))
    one, two = (make_store(f"memory://evict/{uuid.uuid4().hex}", toy_examples(10, seed), corpus=f"c{seed}") for seed in (1, 2))
    size = sum(shard.n_bytes for store in (one, two) for shard in store.manifest.shards)
    for store in (one, two):  # each through a cache of its own, as in a process of its own
        cache = FileCache(tmp_path / "shared", max_bytes=size - 1)
        FolderStore.open(store.location, cache=cache).read(np.arange(store.n_tokens), SITES[0])
    kept = {path.name for path in (tmp_path / "shared" / "files").iterdir()}
    assert {shard.sha256 for shard in two.manifest.shards} <= kept
    assert not {shard.sha256 for shard in one.manifest.shards} <= kept


def test_a_file_that_another_process_evicts_is_fetched_again(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSELIGHT_CACHE", str(tmp_path / "cache"))
    store = make_store(f"memory://evicted/{uuid.uuid4().hex}", toy_examples(10))
    (tmp_path / "shared" / "files").mkdir(parents=True)
    (tmp_path / "shared" / "files" / "another").write_bytes(b"x")
    stat, gone = Path.stat, list[Path]()

    def then_evicted(path, **settings):
        """Gone the first time that somebody looks."""
        if path.parent == tmp_path / "shared" / "files" and not path.name.startswith(".") and path not in gone:
            gone.append(path)
            path.unlink(missing_ok=True)
        return stat(path, **settings)

    monkeypatch.setattr(Path, "stat", then_evicted)
    for _ in range(2):
        read = FolderStore.open(store.location, cache=FileCache(tmp_path / "shared")).read(np.arange(store.n_tokens), SITES[0])
        assert torch.equal(read, store.read(np.arange(store.n_tokens), SITES[0]))
    assert gone


def test_an_interrupted_harvest_goes_on_where_it_stopped(url, tmp_path):
    def fail(n_captured):
        if n_captured == 8:
            raise RuntimeError("the model broke")

    whole = ToySubject()
    local = make_store(tmp_path / "local", subject=whole)
    with pytest.raises(RuntimeError, match="the model broke"):
        make_store(url, subject=ToySubject(before_capture=fail))
    with pytest.raises(StoreError, match="did not finish"):
        FolderStore.open(url)
    assert not store_info(url).is_complete
    with pytest.raises(StoreError, match="another subject"):
        make_store(url, subject=ToySubject("0" * 64))
    subject = ToySubject()
    same(make_store(url, subject=subject), local)
    assert 0 < subject.n_captured < whole.n_captured


def test_a_vanished_object_is_named(url, tmp_path):
    store = make_store(url)
    place = Remote(url)
    place.delete("shard-00001.safetensors")
    fresh = FolderStore.open(url, cache=FileCache(tmp_path / "fresh"))
    with pytest.raises(StoreError, match=f"cannot read {url}/shard-00001.safetensors: there is no such object"):
        fresh.read(np.arange(fresh.n_tokens), SITES[0])
    ranged = FolderStore.open(url, cache=FileCache(tmp_path / "none", max_bytes=0))
    with pytest.raises(StoreError, match="shard-00001.safetensors: there is no such object"):
        ranged.read(np.arange(ranged.n_tokens), SITES[0])
    first = store.manifest.shards[0].n_tokens
    assert fresh.read(np.arange(first), SITES[0]).shape == (first, 8)
    assert verify(url) == {"shard-00001.safetensors": "it is missing"}
    subject = ToySubject()
    assert make_store(url, subject=subject).fingerprint == store.fingerprint  # only what is missing
    assert subject.n_captured <= 4
    with pytest.raises(StoreError, match="there is no store"):
        FolderStore.open(f"{url}/elsewhere")


def test_a_changed_object_is_named_and_repaired(url, tmp_path):
    store = make_store(url)
    place = Remote(url)
    place.get("shard-00002.safetensors", tmp_path / "shard")
    content = bytearray((tmp_path / "shard").read_bytes())
    content[-200] ^= 1
    (tmp_path / "shard").write_bytes(content)
    place.put(tmp_path / "shard", "shard-00002.safetensors")
    fresh = FolderStore.open(url, cache=FileCache(tmp_path / "fresh"))
    with pytest.raises(StoreError, match=f"{url}/shard-00002.safetensors: it is damaged: its content does not match its SHA-256"):
        fresh.read(np.arange(fresh.n_tokens), SITES[0])
    ranged = FolderStore.open(url, cache=FileCache(tmp_path / "none", max_bytes=0))
    with pytest.raises(StoreError, match="shard-00002.safetensors is damaged: at .* do not match their checksums"):
        [ranged.read(np.arange(ranged.n_tokens), site) for site in SITES]
    assert list(verify(url)) == ["shard-00002.safetensors"]
    assert repair(url, lambda: make_store(url)).harvested == ["shard-00002"]
    assert FolderStore.open(url).fingerprint == store.fingerprint
    assert verify(url) == {}
    place.put(tmp_path / "shard", "shard-00002.safetensors")
    assert repair(url).dropped == ["shard-00002"]
    assert verify(url) == {}
    assert FolderStore.open(url).n_tokens == store.n_tokens - store.manifest.shards[2].n_tokens


def test_append_merge_and_split_work_at_a_distance(url, tmp_path):
    store = make_store(url)
    store = append(ToySubject(), [Example("last", "w1 w2", "z")], url, CONFIG, "corpus1")
    other = make_store(tmp_path / "other", [Example("more", "w3 w4 w5", "y")], corpus="corpus2")
    merged = merge([store, other], f"{url}-merged")
    assert merged.n_tokens == store.n_tokens + 3
    sides = split(merged, tmp_path / "train", f"{url}-held", 0.3, 1)
    assert sides[0].n_tokens + sides[1].n_tokens == merged.n_tokens
    assert verify(f"{url}-merged") == verify(f"{url}-held") == {}
    info = store_info(url)
    assert (info.n_tokens, info.n_parts) == (store.n_tokens, 2)


def test_two_writers_on_one_machine_exclude_one_another(url):
    begun, go_on = threading.Event(), threading.Event()

    def wait(n_captured):
        begun.set()
        assert go_on.wait(600)

    first = threading.Thread(target=make_store, args=(url,), kwargs={"subject": ToySubject(before_capture=wait)})
    first.start()
    try:
        assert begun.wait(600)
        with pytest.raises(RunError, match="another process"):
            make_store(url)
    finally:
        go_on.set()
        first.join()
    assert FolderStore.open(url).n_tokens == 154


def test_an_unreachable_server_and_an_unknown_protocol_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSELIGHT_CACHE", str(tmp_path))
    with pytest.raises(StoreError, match="cannot open nowhere://x/y.*[Pp]rotocol"):
        FolderStore.open("nowhere://x/y")
    monkeypatch.setenv("SPARSELIGHT_CACHE_BYTES", "many")
    with pytest.raises(StoreError, match="SPARSELIGHT_CACHE_BYTES = 'many'"):
        FileCache(tmp_path)


def test_half_an_upload_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSELIGHT_CACHE", str(tmp_path))
    place = Remote(f"memory://half/{uuid.uuid4().hex}")
    put = type(place.fs).put_file

    def half(self, local, remote, **settings):
        put(self, local, remote, **settings)
        if remote.endswith(".safetensors"):
            with self.open(remote, "rb") as handle:
                content = handle.read()
            self.pipe_file(remote, content[:len(content) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(type(place.fs), "put_file", half)
        with pytest.raises(StoreError, match="bytes arrived"):
            make_store(place.url)
    with contextlib.suppress(StoreError):
        assert not store_info(place.url).is_complete
    assert make_store(place.url).n_tokens == 154
