"""A device's folder: read back as written, private, and whole after a kill at any line."""

import json
import os
import stat
import sys

import pytest

from fedjaxlite.deploy.device import home as homes
from fedjaxlite.deploy.device.home import Kept, Progress, folder, states
from fedjaxlite.transport import whole_file
from fedjaxlite.transport.credentials import Credentials

MINE = Credentials(b"k" * 32, b"p" * 32, b"certificate", b"authority")
HASH = "ab" * 32
# What a kill leaves open is closed by the collector here, and by the system where it is one.
killing = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:unclosed file:ResourceWarning"
)


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """The order of writes is looked at here, not the disk's."""
    monkeypatch.setattr(os, "fsync", lambda number: None)


def made(path, **changes):
    given = {"client": 3, "server": "localhost:7000", "credentials": MINE, **changes}
    return homes.write(path, **given)


def kept(round_number: int, state: bytes = b"state", message: str = "") -> Kept:
    return Kept(HASH, round_number, 0, "work", message, 5, state)


class Killed(BaseException):
    pass


def killed_at(line: int, do) -> bool:
    """Runs `do` until the given line of the files that write; whether it came that far."""
    files, seen = {folder.__file__, states.__file__, whole_file.__file__}, 0

    def trace(frame, event, arg):
        nonlocal seen
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            seen += 1
            if seen == line:
                raise Killed
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        do()
    except Killed:
        return True
    finally:
        sys.settrace(before)
    return False


def at_every_line(tmp_path, prepare, do, look):
    """What `look` sees after a kill at each line of `do`, in a folder of its own each time."""
    found, line = [], 0
    while line == 0 or found[-1] is not None:
        line += 1
        home = made(tmp_path / str(line))
        prepare(home)
        found.append(look(home) if killed_at(line, lambda home=home: do(home)) else None)
    assert len(found) > 8
    return found[:-1]


def test_a_folder_is_read_back_and_is_its_owners_alone(tmp_path):
    home = made(tmp_path / "device", program=HASH)
    assert homes.read(home.folder) == home
    assert stat.S_IMODE(home.folder.stat().st_mode) == 0o700
    for name in ("key.pem", "device.json"):
        assert stat.S_IMODE((home.folder / name).stat().st_mode) & 0o077 == 0
    with pytest.raises(FileExistsError, match="a device's folder already"):
        made(home.folder)


def test_what_is_no_device_is_refused(tmp_path):
    with pytest.raises(homes.HomeDamaged, match="it has no device.json. Make one with `enroll`"):
        homes.read(tmp_path)
    (tmp_path / "device.json").write_text("{")
    with pytest.raises(homes.HomeDamaged, match="is damaged"):
        homes.read(tmp_path)
    (tmp_path / "device.json").write_text(json.dumps({"format": "x", "client": True, "server": "", "program": ""}))
    with pytest.raises(homes.HomeDamaged, match="holds other fields than format, client, server, program"):
        homes.read(tmp_path)
    (tmp_path / "device.json").write_text(json.dumps({"format": "x", "client": 1, "server": "", "program": ""}))
    with pytest.raises(homes.HomeDamaged, match="is of the format 'x'"):
        homes.read(tmp_path)
    with pytest.raises(ValueError, match="`program` is '../../etc'; expected a sha256"):
        made(tmp_path / "other", program="../../etc")


def test_a_program_is_pinned_on_the_disk(tmp_path):
    home = made(tmp_path / "device")
    assert homes.pin(home, HASH).program == homes.read(home.folder).program == HASH


def test_two_processes_never_share_a_folder(tmp_path):
    home = made(tmp_path / "device")
    with homes.locked(home), pytest.raises(RuntimeError, match="in use by another process"), homes.locked(home):
        pass
    with homes.locked(home):
        pass


def test_an_update_is_pending_until_it_is_settled(tmp_path):
    home = made(tmp_path / "device")
    assert (homes.pending(home), homes.committed(home), homes.progress(home)) == (None, None, Progress())
    message = b"update"
    first = kept(1, message=states.hashlib.sha256(message).hexdigest())
    homes.keep(home, first, message)
    assert (homes.pending(home), homes.message_of(home, first)) == (first, message)
    assert homes.settle(home, 7, True) is None
    assert homes.settle(home, 1, True) == first
    assert (homes.pending(home), homes.committed(home)) == (None, first)
    assert homes.progress(home) == Progress(HASH, 1, 0, True)
    homes.keep(home, kept(2), None)
    assert homes.settle(home, 2, False) == kept(2)
    assert (homes.pending(home), homes.committed(home), homes.settle(home, 2, True)) == (None, first, None)
    assert homes.message_of(home, first) is None
    assert homes.dropped(home) == kept(2)


def test_a_message_never_stands_for_another_state(tmp_path):
    home = made(tmp_path / "device")
    homes.keep(home, kept(1, message="0" * 64), b"another")
    assert homes.message_of(home, kept(1, message="0" * 64)) is None


def test_a_damaged_state_says_what_to_do(tmp_path):
    home = made(tmp_path / "device")
    homes.keep(home, kept(1), None)
    path = home.folder / "state" / "pending"
    for content in (path.read_bytes()[:-1] + b"x", b"", b"no newline", b"{}\nstate"):
        path.write_bytes(content)
        with pytest.raises(homes.HomeDamaged, match=r"pending' is damaged .* Remove it to go on without"):
            homes.pending(home)
    (home.folder / "state" / "progress").write_text("[]")
    with pytest.raises(homes.HomeDamaged, match="progress' is damaged"):
        homes.progress(home)


@killing
def test_a_kill_at_any_line_of_settling_leaves_the_old_or_the_new(tmp_path):
    def prepare(home):
        homes.keep(home, kept(1, b"old"), None)
        homes.settle(home, 1, True)
        homes.keep(home, kept(2, b"new"), None)

    def look(home):
        return homes.committed(home).state, None if homes.pending(home) is None else homes.pending(home).state

    old, new = (b"old", b"new"), (b"new", None)
    seen = at_every_line(tmp_path / "yes", prepare, lambda home: homes.settle(home, 2, True), look)
    assert set(seen) == {old, new}
    assert seen == sorted(seen, key=[old, new].index)
    # Whatever the kill left, the server's word, which it says again, ends in the same place.
    for line in range(1, len(seen) + 1):
        home = homes.read(tmp_path / "yes" / str(line))
        homes.settle(home, 2, True)
        assert look(home) == new
    seen = at_every_line(tmp_path / "no", prepare, lambda home: homes.settle(home, 2, False), look)
    assert set(seen) == {old, (b"old", None)}


@killing
def test_a_kill_at_any_line_of_keeping_leaves_the_old_or_the_new(tmp_path):
    first, second = (states.hashlib.sha256(m).hexdigest() for m in (b"first", b"second"))

    def look(home):
        found = homes.pending(home)
        return found.state, homes.message_of(home, found)

    seen = at_every_line(
        tmp_path,
        lambda home: homes.keep(home, kept(1, b"old", first), b"first"),
        lambda home: homes.keep(home, kept(2, b"new", second), b"second"),
        look,
    )
    # Between the two files an old state stands without its update, which is then computed again.
    assert set(seen) == {(b"old", b"first"), (b"old", None), (b"new", b"second")}


@killing
def test_a_kill_at_any_line_of_enrolling_leaves_no_device_or_a_whole_one(tmp_path):
    line = 0
    while True:
        line += 1
        place = tmp_path / str(line)
        if not killed_at(line, lambda place=place: made(place)):
            break
        try:
            homes.read(place)
        except homes.HomeDamaged:
            made(place)
        assert homes.read(place).client == 3
