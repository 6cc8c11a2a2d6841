"""`sparselight harvest` and `sparselight store`: from a folder of text to stores, checked, mended, added to, merged and split."""

import importlib.util
import json
from pathlib import Path

import pytest

from sparselight.cli import harvest_request, main
from sparselight.store import FolderStore

spec = importlib.util.spec_from_file_location("toy_cli_subject", Path(__file__).parents[1] / "store" / "toy_subject.py")
toy = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toy)
SITES = ["--set", "corpus.kind=text", "--site", "resid_post.0", "--site", "resid_post.1"]
SMALL = ["--set", "harvest.shard_tokens=40", "--set", "harvest.batch_tokens=64"]
FROM_TEXTS = ["--corpus", "texts", *SITES, *SMALL]


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """A folder of texts; every subject is the toy."""
    monkeypatch.setattr(harvest_request, "load_subject", lambda config: toy.ToySubject())
    for name, first in (("texts", 0), ("more", 20)):
        (tmp_path / name).mkdir()
        for number in range(first, first + 12):
            (tmp_path / name / f"{number}.txt").write_text(" ".join(f"w{(number * 7 + k) % 60}" for k in range(10 + number % 5)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys, *arguments, code=0):
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert ended.value.code == code, captured.err
    return captured.out


def run_json(capsys, *arguments, code=0):
    return json.loads(run(capsys, *arguments, "--json", code=code).splitlines()[-1])


def harvest(capsys, store="store", corpus="texts", *more):
    return run_json(capsys, "harvest", store, "--corpus", corpus, *SITES, *SMALL, *more)


def test_harvest_says_what_stands_there_and_what_comes_next(texts, capsys):
    found = harvest(capsys)
    assert found["is_complete"]
    assert found["n_examples"] == 12
    assert found["sites"] == {"resid_post.0": 8, "resid_post.1": 12}
    assert found["next_command"] == "sparselight train store --site resid_post.0"
    assert FolderStore.open("store").n_tokens == found["n_tokens"] == run_json(capsys, "store", "info", "store")["n_tokens"]
    again = harvest(capsys)
    assert {**again, "next_command": ""} == {**found, "next_command": ""}
    text = run(capsys, "store", "info", "store")
    assert f"{found['n_tokens']:,} of 12 examples in 12 groups" in text
    assert "bfloat16" in text


def test_a_dry_run_counts_and_does_nothing(texts, capsys):
    estimate = harvest(capsys, "store", "texts", "--dry-run", "--set", "harvest.dtype=int8")
    assert (estimate["n_shards_finished"], estimate["dtype"]) == (0, "int8")
    assert estimate["seconds"] > 0
    assert not Path("store").exists()
    found = harvest(capsys, "store", "texts", "--set", "harvest.dtype=int8")
    assert (found["n_tokens"], found["n_shards"], found["dtype"]) == (estimate["n_tokens"], estimate["n_shards"], "int8")
    assert found["rounding_fvu"].keys() == {"resid_post.0", "resid_post.1"}
    assert harvest(capsys, "store", "texts", "--dry-run", "--set", "harvest.dtype=int8")["n_shards_finished"] == found["n_shards"]
    text = run(capsys, "harvest", "other", "--corpus", "texts", "--set", "corpus.kind=text", "--site", "resid_post.0", "--dry-run")
    assert "nothing was done" in text


def test_a_recipe_and_a_token_budget(texts, capsys):
    Path("my.toml").write_text("[corpus]\nkind = 'text'\nroot = 'texts'\n[harvest]\nsite = 'resid_post.1'\nshard_tokens = 30\n[train]\nk = 3\n")
    found = run_json(capsys, "harvest", "store", "--recipe", "my.toml", "--max-tokens", "50")
    assert found["sites"] == {"resid_post.1": 12}
    assert 50 <= found["n_tokens"] < 80


def test_verify_and_repair(texts, capsys):
    before = harvest(capsys)
    assert "all files are" in run(capsys, "store", "verify", "store")
    shard = Path("store/shard-00001.safetensors")
    content = bytearray(shard.read_bytes())
    content[-40] ^= 1
    shard.write_bytes(content)
    damaged = run_json(capsys, "store", "verify", "store", code=1)
    assert (damaged["is_whole"], list(damaged["damaged"])) == (False, [shard.name])
    assert "next: sparselight store repair store" in run(capsys, "store", "verify", "store", code=1)
    done = run_json(capsys, "store", "repair", "store")
    assert done["dropped"] == ["shard-00001"]
    assert "dropped       shard-00001" in run(capsys, "store", "info", "store")
    done = run_json(capsys, "store", "repair", "store", *FROM_TEXTS)
    assert done["damaged"] == {}
    assert harvest(capsys)["n_tokens"] == before["n_tokens"]  # the harvest itself brings dropped shards back
    assert "nothing is damaged" in run(capsys, "store", "repair", "store")
    shard.unlink()
    done = run_json(capsys, "store", "repair", "store", *FROM_TEXTS)
    assert done["harvested"] == ["shard-00001"]
    assert run_json(capsys, "store", "verify", "store")["is_whole"]


def test_append_merge_and_split(texts, capsys):
    first, second = harvest(capsys), harvest(capsys, "second", "more")
    appended = run_json(capsys, "store", "append", "store", "--corpus", "more", "--set", "corpus.kind=text", *SMALL)
    assert (appended["n_tokens"], appended["n_parts"]) == (first["n_tokens"] + second["n_tokens"], 2)
    harvest(capsys, "third")
    merged = run_json(capsys, "store", "merge", "merged", "second", "third")
    assert merged["n_tokens"] == appended["n_tokens"]
    parts = run_json(capsys, "store", "split", "merged", "train", "held_out", "--held-out-frac", "0.3")
    assert parts["train"]["n_tokens"] + parts["held_out"]["n_tokens"] == merged["n_tokens"]
    refused = run_json(capsys, "store", "merge", "again", "second", "store", code=2)
    assert "is in second and in store" in refused["why"]


@pytest.mark.parametrize(("arguments", "words"), [
    (["harvest", "s"], ["without a corpus", "--corpus PATH"]),
    (["harvest", "s", "--corpus", "texts", "--set", "corpus.kind=text"], ["without a site", "resid_post.1"]),
    (["harvest", "s", "--corpus", "texts", "--set", "train.k=3"], ["set train", "no such setting"]),
    (["harvest", "s", "--corpus", "texts", "--set", "harvest.dtype=int7"], ["harvest.dtype", "int7"]),
    (["harvest", "s", "--corpus", "nowhere", "--site", "resid_post.0"], ["nowhere", "does not exist"]),
    (["store", "info", "nowhere"], ["nowhere", "there is none"]),
    (["store", "verify", "nowhere"], ["nowhere", "there is none"]),
    (["store", "append", "nowhere", "--corpus", "texts"], ["nowhere", "there is no store"]),
    (["store", "merge", "out", "nowhere"], ["nowhere", "there is no store"]),
])
def test_bad_input(texts, capsys, arguments, words):
    message = run_json(capsys, *arguments, code=2)
    text = f"{message['asked']}: {message['why']}. {message['instead']}"
    assert all(word in text for word in words), text
    assert not Path("s").exists()


def test_the_real_thing_in_small(tmp_path, capsys):
    pytest.importorskip("transformers")
    (tmp_path / "a.txt").write_text("import os\n\ndef path(name):\n    return os.path.join(name, 'x')\n" * 4)
    found = run_json(capsys, "harvest", tmp_path / "store", "--corpus", tmp_path, "--set", "corpus.kind=text", "--site", "resid_post.1", "--site", "mlp_out.0")
    assert found["subject"] == "demo"
    assert found["n_tokens"] > 20
    assert run_json(capsys, "store", "verify", tmp_path / "store")["is_whole"]
