"""Storage that fails in mid-run: tried again, with nothing half-written; or an end that names what is whole."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from small_runs import go, kept, same, untimed

from fedjaxlite import storage
from fedjaxlite.observers import records, records_log
from fedjaxlite.storage import StorageError, patiently
from fedjaxlite.training import checkpoint_folder

WAITS = (0.0, 0.0, 0.0)

pytestmark = pytest.mark.usefixtures("little_garbage", "no_pictures")  # every StorageError collects garbage


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(storage, "WAITS", WAITS)


def failing(times: int, code: int, what=lambda: 7):
    """`what`, after it failed so many times; and how often it was called."""
    calls = []

    def do(*args, **options):
        calls.append(args)
        if len(calls) <= times:
            raise OSError(code, os.strerror(code))
        return what(*args, **options)

    return do, calls


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOENT])
def test_what_may_pass_is_tried_again_with_all_undone_before(code, caplog) -> None:
    do, calls = failing(3, code)
    undone = []
    assert patiently(do, "the letter could not be sent", undo=lambda: undone.append(len(calls))) == 7
    assert (len(calls), undone) == (4, [1, 2, 3])
    assert caplog.messages == [f"the letter could not be sent: {os.strerror(code)}; tried again in 0 seconds"] * 3


def test_the_last_try_ends_in_an_error_with_its_number() -> None:
    do, calls = failing(9, errno.EIO)
    with pytest.raises(StorageError, match=r"nothing: Input/output error \(4 tries in \d+ seconds\)") as raised:
        patiently(do, "nothing")
    assert (raised.value.errno, len(calls)) == (errno.EIO, 4)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EFBIG, errno.EINVAL])
def test_what_stays_so_is_not_tried_again(code) -> None:
    do, calls = failing(9, code)
    with pytest.raises(StorageError, match=f"nothing: {os.strerror(code)}$"):
        patiently(do, "nothing")
    assert len(calls) == 1


def test_what_is_no_failure_of_storage_passes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        patiently(lambda: 1 // 0, "nothing")


@pytest.mark.parametrize(
    ("text", "code", "told"),
    [
        ("NOT_FOUND: Error writing 'd/1' [OS error 2: ENOENT No such file or directory]", errno.ENOENT, "No such file"),
        ("RESOURCE_EXHAUSTED: Error writing leaf00000/0\nFailed", errno.ENOSPC, "No space left"),
        ("RESOURCE_EXHAUSTED: Out of memory allocating 3 bytes", None, "RESOURCE_EXHAUSTED: Out of memory"),
        ("Something of its own\nand more", None, "Something of its own"),
    ],
)
def test_the_storage_layers_own_words_are_understood(text, code, told) -> None:
    def do():
        raise ValueError(text)

    with pytest.raises(StorageError, match=f"it: {told}") as raised:
        patiently(do, "it", of=(ValueError,))
    assert raised.value.errno == code


class Disk:
    """A file on a disk that takes so many bytes, until somebody clears it."""

    def __init__(self, path: Path, room: list[int]) -> None:
        self.file, self.room = path.open("ab+", buffering=0), room

    def write(self, data) -> int:
        taken = self.file.write(data[: self.room[0]])
        self.room[0] -= taken
        if not taken:
            self.room[0] = 10**6  # while the writer waits
            raise OSError(errno.ENOSPC, "No space left on device")
        return taken

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_a_line_that_a_full_disk_cut_is_written_whole_later(tmp_path, monkeypatch) -> None:
    path, room = tmp_path / "records.jsonl", [40]
    monkeypatch.setattr(records_log, "_opened", lambda place: Disk(place, room))
    log = records_log.append_to(path)
    wanted = [{"round": i, "loss": i / 7} for i in range(1, 6)]
    for record in wanted:
        log.write(record)
    log.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == wanted


def test_half_a_line_that_nobody_could_take_back_is_taken_back_when_the_file_is_opened(tmp_path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(b'{"round": 1}\n{"rou')
    log = records_log.append_to(path)
    log.write({"round": 2})
    log.close()
    assert path.read_bytes() == b'{"round": 1}\n{"round": 2}\n'


def test_a_file_that_was_deleted_is_begun_again_and_that_is_told(tmp_path, caplog) -> None:
    path = tmp_path / "records.jsonl"
    log = records_log.append_to(path)
    log.write({"round": 1})
    path.unlink()
    log.write({"round": 2})
    log.close()
    assert [record["round"] for record in records.read(path)] == [2]
    assert f"{path} is gone; a new one begins with round 2" in caplog.text


def test_records_that_cannot_be_written_end_the_run_with_the_checkpoint_named(tmp_path) -> None:
    def lose(record, state):
        if record["round"] == 5:
            shutil.rmtree(tmp_path)

    with pytest.raises(StorageError) as raised:
        go(tmp_path, 8, observers=[lose])
    said = str(raised.value)
    assert f"the record of round 5 could not be written to '{tmp_path}/records.jsonl': No such file" in said
    assert f"The last whole checkpoint is that of round 4, '{tmp_path}/checkpoints/4', which is not there now" in said
    assert said.endswith("then go on with resume=True (--resume on the command line)")
    assert not tmp_path.exists()  # nothing is made where a place was mounted


def test_a_full_disk_while_recording_names_the_last_checkpoint(tmp_path, monkeypatch) -> None:
    opened = records_log._opened

    class Full:
        def __init__(self, place: Path) -> None:
            self.file = opened(place)

        def write(self, data) -> int:
            if b'"round": 5,' in bytes(data):
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(data)

        def __getattr__(self, name):
            return getattr(self.file, name)

    monkeypatch.setattr(records_log, "_opened", Full)
    with pytest.raises(
        StorageError, match=r"record of round 5 could not be written.*No space left.*of round 4, .*/4'; "
    ):
        go(tmp_path, 6)
    assert kept(tmp_path) == ["2", "4"]
    assert [record["round"] for record in records.read(tmp_path / "records.jsonl")] == [1, 2, 3, 4]


@pytest.mark.parametrize("step", ["_seal", "_put_in_place"])
def test_a_checkpoint_is_tried_again_and_the_run_ends_as_if_nothing_was(tmp_path, monkeypatch, step) -> None:
    want = go(tmp_path / "want", 4)
    do, calls = failing(2, errno.ESTALE, getattr(checkpoint_folder, step))
    monkeypatch.setattr(checkpoint_folder, step, do)
    history = go(tmp_path / "run", 4)
    assert len(calls) == 2 + 2
    assert kept(tmp_path / "run") == ["2", "4"]
    assert same(history.state, want.state)
    assert untimed(records.read(tmp_path / "run" / "records.jsonl")) == untimed(want.records)


def test_a_checkpoint_that_stays_unwritten_ends_the_run_and_leaves_nothing_half(tmp_path, monkeypatch) -> None:
    want = go(tmp_path / "want", 6)
    seal = checkpoint_folder._seal

    def full(folder, meta):
        if meta["round"] == 4:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        return seal(folder, meta)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_folder, "_seal", full)
        with pytest.raises(
            StorageError, match=r"round 4 could not be written.*quota.*\(4 tries .*that of round 2, .*/2'"
        ):
            go(tmp_path / "run", 6)
    assert kept(tmp_path / "run") == ["2"]
    assert same(go(tmp_path / "run", 6, resume=True).state, want.state)


def test_a_folder_of_checkpoints_that_vanished_is_made_again(tmp_path, caplog) -> None:
    def lose(record, state):
        if record["round"] == 3:
            shutil.rmtree(tmp_path / "checkpoints")

    history = go(tmp_path, 6, observers=[lose])
    assert kept(tmp_path) == ["4", "6"]
    assert (tmp_path / "checkpoints").stat().st_mode & 0o777 == 0o700
    assert f"{tmp_path}/checkpoints was gone, with the checkpoints in it; it was made again" in caplog.text
    assert history.stopped is None


def test_a_failed_deletion_of_old_checkpoints_ends_nothing(tmp_path, monkeypatch, caplog) -> None:
    (do, _), rename = failing(99, errno.EIO), Path.rename
    monkeypatch.setattr(Path, "rename", lambda self, to: do() if str(to).endswith(".old.tmp") else rename(self, to))
    go(tmp_path, 6)
    assert kept(tmp_path) == ["2", "4", "6"]
    assert "old checkpoints in" in caplog.text
