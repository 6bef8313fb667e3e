"""Damage on the disk: whatever happened to the newest checkpoint, the newest whole one is used and nothing is deleted."""

import logging
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small_runs
from small_runs import go, kept, same, untimed

from fedjaxlite import storage
from fedjaxlite.observers import records
from fedjaxlite.observers.recovery import spans
from fedjaxlite.training import checkpoint_folder, curves, run_folder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run of four rounds with checkpoints of rounds 2 and 4."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    go(folder, 4)
    return folder


@pytest.fixture(scope="module")
def straight():
    return go(None, 6)


@pytest.fixture
def case(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "checkpoints" / "4").rglob("*") if path.is_file())


def flip(path: Path, moments: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[moments.randrange(len(data))] ^= 1 << moments.randrange(8)
    path.write_bytes(bytes(data))


def goes_on_from(folder: Path, straight, caplog, *, told: str) -> None:
    """The run ends as the undisturbed one did, and says what it found and where it is now."""
    caplog.clear()
    history = go(folder, 6, resume=True)
    assert same(history.state, straight.state)
    assert untimed(history.records) == untimed(straight.records)
    [said] = [r.getMessage() for r in caplog.records if "is damaged" in r.getMessage()]
    assert told in said
    assert "moved to" in said
    assert "the run goes on from round 2" in said


def test_any_flipped_bit_is_found(whole, tmp_path) -> None:
    moments = random.Random(0)
    assert checkpoint_folder.look(whole / "checkpoints" / "4")[0] is not None
    for original in files_of(whole):
        for _ in range(4 if original.stat().st_size else 0):
            copy = Path(shutil.copytree(whole / "checkpoints" / "4", tmp_path / "4", dirs_exist_ok=True))
            path = copy / original.relative_to(whole / "checkpoints" / "4")
            flip(path, moments)
            meta, why = checkpoint_folder.look(copy)
            assert meta is None, f"a flipped bit in {path} was not found"
            assert why.split()[0] in (str(path.relative_to(copy)), "meta/metadata")


def test_every_file_that_is_missing_emptied_or_cut_is_found(whole, tmp_path) -> None:
    for original in files_of(whole):
        for harm in ("missing", "emptied", "cut"):
            copy = Path(shutil.copytree(whole / "checkpoints" / "4", tmp_path / "4", dirs_exist_ok=True))
            path = copy / original.relative_to(whole / "checkpoints" / "4")
            if harm == "missing":
                path.unlink()
            elif not path.stat().st_size:
                continue
            else:
                path.write_bytes(b"" if harm == "emptied" else path.read_bytes()[: path.stat().st_size // 2])
            meta, why = checkpoint_folder.look(copy)
            assert meta is None, f"{path} was {harm} and that was not found"
            assert why.startswith(str(path.relative_to(copy)))


@pytest.mark.usefixtures("no_pictures")
def test_a_flipped_bit_in_the_arrays_is_told_and_the_one_before_is_used(case, straight, caplog) -> None:
    largest = max(files_of(case), key=lambda path: path.stat().st_size)
    flip(largest, random.Random(1))
    goes_on_from(case, straight, caplog, told="checkpoint of round 4")
    assert kept(case) == ["4", "6", "damaged"]
    assert [p.name for p in (case / "checkpoints" / "damaged").iterdir()] == ["4"]


@pytest.mark.usefixtures("no_pictures")
def test_a_checkpoint_without_its_arrays_is_moved_aside(case, straight, caplog) -> None:
    shutil.rmtree(case / "checkpoints" / "4" / "state")
    goes_on_from(case, straight, caplog, told="state/")


@pytest.mark.usefixtures("no_pictures")
def test_an_empty_folder_and_a_file_with_the_name_of_a_round_are_moved_aside(case, straight, caplog) -> None:
    (case / "checkpoints" / "9").mkdir()
    (case / "checkpoints" / "11").write_text("not a folder")
    history = go(case, 6, resume=True)
    assert same(history.state, straight.state)
    told = "".join(record.getMessage() for record in caplog.records)
    assert "round 9" in told
    assert "round 11" in told
    assert "goes on from round 4" in told
    assert sorted(p.name for p in (case / "checkpoints" / "damaged").iterdir()) == ["11", "9"]


def test_without_any_whole_checkpoint_a_run_is_refused_and_nothing_is_touched(case) -> None:
    for number in ("2", "4"):
        (case / "checkpoints" / number / "meta" / "metadata").write_bytes(b"\xff")
    lines = (case / "records.jsonl").read_bytes()
    with pytest.raises(
        ValueError, match=r"no checkpoint in .* is whole \(that of round 4: meta/metadata cannot be read"
    ):
        go(case, 6, resume=True)
    assert kept(case) == ["2", "4"]
    assert (case / "records.jsonl").read_bytes() == lines


@pytest.mark.usefixtures("no_pictures")
def test_what_a_killed_process_left_half_written_is_cleared(case) -> None:
    shutil.copytree(case / "checkpoints" / "4", case / "checkpoints" / "5.tmp")
    shutil.copytree(case / "checkpoints" / "4", case / "checkpoints" / "7.orbax-checkpoint-tmp")
    go(case, 6, resume=True)
    assert kept(case) == ["4", "6"]


@pytest.mark.usefixtures("no_pictures")
def test_a_process_killed_while_it_removes_an_old_checkpoint_leaves_no_damage(tmp_path, monkeypatch, caplog) -> None:
    """Its folder has another name before the first file of it goes."""
    removed = []
    monkeypatch.setattr(checkpoint_folder.shutil, "rmtree", lambda path, **options: removed.append(path.name))
    go(tmp_path, 6)
    assert kept(tmp_path) == ["2.old.tmp", "4", "6"]
    assert "2.old.tmp" in removed
    monkeypatch.undo()
    go(tmp_path, 8, resume=True)
    assert kept(tmp_path) == ["6", "8"]
    assert "damaged" not in caplog.text


def test_a_checkpoint_that_may_not_be_read_is_not_called_damaged(case, monkeypatch) -> None:
    def forbidden(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", forbidden)
    with pytest.raises(PermissionError):
        checkpoint_folder.look(case / "checkpoints" / "4")


# --- records


def lines_of(folder: Path) -> list[str]:
    return (folder / "records.jsonl").read_text().splitlines(keepends=True)


@pytest.mark.parametrize(
    ("harm", "missing"),
    [
        (lambda path: path.unlink(), [1, 2, 3, 4]),
        (lambda path: path.write_bytes(b""), [1, 2, 3, 4]),
        (lambda path: path.write_text("".join(path.read_text().splitlines(keepends=True)[:2])), [3, 4]),
        (lambda path: path.write_text("".join(path.read_text().splitlines(keepends=True)[2:])), [1, 2]),
        (lambda path: path.write_bytes(path.read_bytes().replace(b'"round": 2', b'"r\xfeund": 2')), [2]),
        (lambda path: path.write_bytes(b"\xff\xfe\n" + path.read_bytes()), []),
        (lambda path: path.write_text(path.read_text() + path.read_text()), []),
        (lambda path: path.write_text("".join(reversed(path.read_text().splitlines(keepends=True)))), []),
        (lambda path: path.write_text(path.read_text() + '{"round": 9}\n{"round": 10, "lo'), []),
    ],
    ids=["deleted", "empty", "end lost", "start lost", "not UTF-8", "one more line", "twice", "reversed", "ahead"],
)
def test_records_have_no_silent_hole(case, straight, caplog, harm, missing) -> None:
    path = case / "records.jsonl"
    before = path.read_bytes()
    harm(path)
    damaged = path.read_bytes() if path.exists() else b""
    history = go(case, 6, resume=True)
    found = records.read(path)
    assert [record["round"] for record in found] == [1, 2, 3, 4, 5, 6]
    assert [record["round"] for record in found if record.get("missing")] == missing
    assert untimed(history.records) == untimed(found)
    kept = [record for record in straight.records if record["round"] not in missing]
    assert untimed([record for record in found if not record.get("missing")]) == untimed(kept)
    told = " ".join(record.getMessage() for record in caplog.records)
    assert ("are missing in" in told) == bool(missing)
    if missing:
        assert spans(missing) in told
        assert f"missing_records = {missing}".replace(" ", "") in (case / "config.toml").read_text().replace(
            " ", ""
        ).replace("\n", "").replace(",]", "]")
    if b"\xfe" in damaged:
        assert (case / "records.jsonl.damaged").read_bytes() == damaged
    assert before


def test_a_file_of_records_that_is_not_utf8_is_refused_plainly(tmp_path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(b'{"round": 1}\n\xff\n{"round": 2}\n')
    with pytest.raises(ValueError, match=r"line 2 of .* is no record \(it is not UTF-8\)"):
        records.read(path)


def test_a_run_that_began_late_has_no_hole_before_its_beginning(tmp_path, caplog) -> None:
    first = go(None, 2).state
    run = small_runs.composed()
    train = small_runs.train
    options = {"out_dir": tmp_path, "checkpoint_every": 2, "progress": False}
    train(run, first, small_runs.people(), num_rounds=4, **options)
    history = train(run, small_runs.begin(), small_runs.people(), num_rounds=6, resume=True, **options)
    assert [record["round"] for record in history.records] == [3, 4, 5, 6]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# --- one folder, one run


@pytest.mark.usefixtures("no_pictures")
def test_a_second_run_in_a_folder_is_refused(case) -> None:
    with (
        run_folder.held(case, resume=True),
        pytest.raises(RuntimeError, match=r"another run is going on \(process \d+ on .*\).*wait for it, end it, or"),
    ):
        go(case, 6, resume=True)
    assert len(go(case, 6, resume=True).records) == 6


def test_a_killed_process_leaves_no_lock(tmp_path) -> None:
    program = (
        "import sys, time; from fedjaxlite.training import run_folder\n"
        "with run_folder.held(sys.argv[1], resume=False): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(RuntimeError, match=f"process {process.pid} on"), run_folder.held(tmp_path, resume=False):
        pass
    process.kill()
    process.communicate()
    with run_folder.held(tmp_path, resume=False) as folder:
        assert folder.path == tmp_path


def test_a_folder_that_was_used_while_one_waited_is_refused(tmp_path, monkeypatch) -> None:
    """The run that held the lock until now has left something."""
    lock = run_folder._lock

    def late(folder):
        folder.records.write_text('{"round": 1}\n')
        return lock(folder)

    monkeypatch.setattr(run_folder, "_lock", late)
    with pytest.raises(FileExistsError, match="holds a run already"):
        go(tmp_path, 2)


def test_a_file_system_that_cannot_lock_is_told(tmp_path, monkeypatch, caplog) -> None:
    def unable(file, how):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(storage.fcntl, "flock", unable)
    with run_folder.held(tmp_path, resume=False):
        pass
    assert "cannot be locked (No locks available): see to it yourself" in caplog.text


def test_curves_that_do_not_fit_on_the_disk_are_told_and_the_run_is_whole(tmp_path, monkeypatch, caplog) -> None:
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fedjaxlite.training.curves.plot", full)
    history = go(tmp_path, 2)
    assert len(history.records) == 2
    assert "curves.png could not be written: No space left on device" in caplog.text
    np.testing.assert_equal(kept(tmp_path), ["2"])


def test_a_run_without_accuracy_and_loss_has_no_curves_and_ends_well(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(curves, "_KINDS", ("something else",))
    assert not curves.can_be_drawn(go(tmp_path, 2).records)
    assert not (tmp_path / "curves.png").exists()
