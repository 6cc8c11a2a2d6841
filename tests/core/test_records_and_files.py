"""Records refuse what they cannot read; files are replaced whole or not at all; errors have three parts."""

import errno
import json
import multiprocessing
from pathlib import Path

import pytest

from sparselight.errors import CorpusError, MissingExtraError, RunError, SparselightError, StoreError, nearest
from sparselight.files import atomic_path, folder_lock, write_bytes
from sparselight.records import Edit, RunRecord


def test_record_round_trip(tmp_path: Path) -> None:
    edit = Edit(site="resid_post.2", latents=[1, 2], operation="scale", amount=0.5)
    edit.save(tmp_path / "edit.json")
    assert Edit.load(tmp_path / "edit.json") == edit


@pytest.mark.parametrize(("change", "message"), [
    ({"record": "run"}, "it is a run record"),
    ({"version": 99}, "it has version 99"),
    ({"latents": "many"}, "it is damaged"),
    ({"surprise": 1}, "it is damaged"),
])
def test_record_refusals(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "edit.json"
    Edit(site="s", latents=[], operation="ablate").save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(RunError, match=message):
        Edit.load(path)


def test_missing_and_torn_records(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such file"):
        RunRecord.load(tmp_path / "run.json")
    (tmp_path / "run.json").write_text('{"record": "ru')
    with pytest.raises(RunError, match="damaged"):
        RunRecord.load(tmp_path / "run.json")


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def write_half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"ne")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StoreError, match="the disk is full"):
        write_half()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_who_write_one_file_at_once_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with atomic_path(path) as slow:
        slow.write_bytes(b"half of what is slow, ")
        write_bytes(path, b"quick")
        assert path.read_bytes() == b"quick"
        with slow.open("ab") as handle:
            handle.write(b"and the other half")
    assert path.read_bytes() == b"half of what is slow, and the other half"
    assert list(tmp_path.iterdir()) == [path]


def _hold(folder: Path, held: "multiprocessing.synchronize.Event", done: "multiprocessing.synchronize.Event") -> None:
    with folder_lock(folder, "hold"):
        held.set()
        done.wait(20)


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, done = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path, held, done))
    process.start()
    try:
        assert held.wait(20)
        with pytest.raises(RunError, match="another process is writing"), folder_lock(tmp_path, "write too"):
            pass
    finally:
        done.set()
        process.join()
    with folder_lock(tmp_path, "write now"):
        pass


def test_errors_have_three_parts() -> None:
    err = CorpusError(asked="read x", why="it is not there", instead="give y")
    assert str(err) == "cannot read x: it is not there. Instead: give y."
    assert err.to_dict() == {"error": "CorpusError", "asked": "read x", "why": "it is not there", "instead": "give y"}
    assert isinstance(MissingExtraError(package="p", extra="text", asked="load"), SparselightError)
    assert "sparselight[text]" in str(MissingExtraError(package="p", extra="text", asked="load"))


def test_nearest() -> None:
    assert nearest("resid_pots", ["resid_post", "embed"]) == "use 'resid_post'"
    assert nearest("zzz", ["b", "a"]) == "use one of a, b"
