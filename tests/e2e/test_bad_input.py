"""The table of bad input: each line of it ends with exit code 2, a three-part message that names the fault, and nothing lost."""

import json
import shutil
from pathlib import Path

import pytest
from small_run import overrides, run_command

from sparselight.cli import main

ROWS = [
    # what is wrong, arguments after `run demo`, words that the message must hold
    ("missing corpus", ["--set", "corpus.root=/no/such/folder"], ["corpus.root", "/no/such/folder", "does not exist"]),
    ("empty corpus", ["--set", "corpus.root={empty}"], ["holds no example", "corpus.root"]),
    ("not UTF-8", ["--set", "corpus.root={latin}", "--set", "corpus.kind=text"], ["latin.txt", "not UTF-8"]),
    ("unknown site", ["--set", "harvest.site=resid_pots.2"], ["resid_pots.2", "resid_post"]),
    ("layer out of range", ["--set", "harvest.site=resid_post.99"], ["resid_post.99"]),
    ("unknown setting", ["--set", "train.lrr=1"], ["train.lrr", "no such setting", "'lr'"]),
    ("unknown table", ["--set", "trian.lr=1"], ["trian", "no such setting", "'train'"]),
    ("wrong type", ["--set", "train.n_tokens=many"], ["train.n_tokens", "'many'", "valid integer"]),
    ("out of range", ["--set", "train.k=-1"], ["train.k", "-1", "greater than"]),
    ("k above the width", ["--set", "train.k=9999"], ["train.k", "9999"]),
    ("batch above the store", ["--set", "train.batch_tokens=10000000"], ["train.batch_tokens"]),
    ("unknown architecture", ["--set", "train.architecture=batchtopk"], ["train.architecture", "batchtopk"]),
    ("no such model", ["--set", "subject.source=/no/such/model"], ["/no/such/model"]),
    ("seeds that match nothing", ["--set", 'select.seeds=["sslprotocol.py"]'], ["select.seeds", "sslproto.py"]),
    ("no seeds", ["--set", "select.seeds=[]"], ["select.seeds"]),
    ("unknown stage", ["--until", "trian"], ["trian", "'train'"]),
    ("a folder with something else", ["--out", "{latin}"], ["holds something else"]),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bad")
    for name in ("empty", "latin"):
        (root / name).mkdir()
    (root / "latin" / "latin.txt").write_bytes(b"caf\xe9 " * 10)
    return {"empty": root / "empty", "latin": root / "latin", "out": root / "out"}


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--json"])
    captured = capsys.readouterr()
    assert ended.value.code == 2, captured.err
    assert "Traceback" not in captured.err
    return json.loads(captured.out.splitlines()[-1])


@pytest.mark.parametrize(("what", "arguments", "words"), ROWS, ids=[row[0] for row in ROWS])
def test_bad_input(what: str, arguments: list[str], words: list[str], places: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    filled = [argument.format(**places) if "{" in argument else argument for argument in arguments]
    out = [] if "--out" in filled else ["--out", str(places["out"])]
    message = refused(["run", "demo", *overrides(), *out, *filled], capsys)
    text = f"{message['asked']}: {message['why']}. Instead: {message['instead']}"
    assert all(message[part].strip() for part in ("asked", "why", "instead"))
    assert "{" not in text.replace("{'", "")
    for word in words:
        assert word in text, f"{what}: {word!r} not in {text!r}"


def test_missing_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such file" in refused(["run", "nothing.toml"], capsys)["why"]
    assert "'demo'" in refused(["run", "dmeo"], capsys)["instead"]


def test_a_corrupted_shard_is_named_and_nothing_else_is_lost(small_run: tuple[Path, dict], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "copy"
    shutil.copytree(small_run[0], out)
    shutil.rmtree(out / small_run[1]["stages"]["train"])
    shard = next((out / small_run[1]["stages"]["harvest"] / "general_train").glob("shard-*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-5] ^= 0x10
    shard.write_bytes(content)
    message = refused(["run", "demo", "--out", str(out), *overrides()], capsys)
    assert shard.stem in message["asked"] + message["why"]
    assert (out / small_run[1]["stages"]["corpus"] / "record.json").exists()
    shard.unlink()  # what the message advises
    done = run_command("run", "demo", "--out", str(out), "--json", "--until", "train", *overrides())
    assert json.loads(done.stdout)["summaries"]["train"] == small_run[1]["summaries"]["train"]


def test_a_full_disk_keeps_what_was_written(
    small_run: tuple[Path, dict], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    import errno

    out = tmp_path / "copy"
    shutil.copytree(small_run[0], out)
    shutil.rmtree(out / small_run[1]["stages"]["explain"])

    def full(*arguments: object, **settings: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        message = refused(["run", "demo", "--out", str(out), *overrides()], capsys)
    assert "the disk is full" in message["why"]
    assert (out / small_run[1]["stages"]["evaluate"] / "record.json").exists()
    with pytest.raises(SystemExit) as ended:
        main(["run", "demo", "--out", str(out), "--json", *overrides()])
    assert ended.value.code == 0
    assert (out / json.loads(capsys.readouterr().out)["report"]).exists()
