"""SIGTERM: the round ends, a checkpoint is made, the process says how to go on and leaves; handlers are put back."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from small_runs import go, kept, same, untimed

from fedjaxlite import exit_codes
from fedjaxlite.observers import records

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="signals of POSIX"),
    pytest.mark.usefixtures("no_pictures"),
]


def terminate_in(number: int):
    """An observer that sends its own process a SIGTERM in some round."""

    def watch(record, state) -> None:
        if record["round"] == number:
            os.kill(os.getpid(), signal.SIGTERM)

    return watch


def test_a_terminated_run_saves_says_so_and_goes_on_with_the_same_bits(tmp_path, caplog) -> None:
    with pytest.raises(SystemExit) as ended:
        go(tmp_path, 12, checkpoint_every=6, rounds_per_dispatch=2, observers=[terminate_in(3)])
    assert ended.value.code == 143
    assert kept(tmp_path) == ["4"]
    assert [record["round"] for record in records.read(tmp_path / "records.jsonl")] == [1, 2, 3, 4]
    assert f"SIGTERM: 4 of 12 rounds in {tmp_path} are done and saved. Go on by resume=True" in caplog.text
    history = go(tmp_path, 12, checkpoint_every=6, rounds_per_dispatch=2, resume=True)
    straight = go(None, 12, checkpoint_every=6, rounds_per_dispatch=2)
    assert same(history.state, straight.state)
    assert untimed(history.records) == untimed(straight.records)


def test_a_run_that_was_done_says_that_nothing_is_left(tmp_path, caplog) -> None:
    with pytest.raises(SystemExit):
        go(tmp_path, 4, observers=[terminate_in(4)])
    assert "has ended, all of it is saved" in caplog.text
    assert (tmp_path / "curves.png").exists() or kept(tmp_path) == ["2", "4"]


def test_the_handler_is_put_back(tmp_path) -> None:
    before, wake = signal.getsignal(signal.SIGTERM), signal.set_wakeup_fd(-1)
    during = []
    go(tmp_path / "a", 2, observers=[lambda record, state: during.append(signal.getsignal(signal.SIGTERM))])
    assert during[0] not in (signal.SIG_DFL, before)
    assert signal.getsignal(signal.SIGTERM) is before is signal.SIG_DFL
    assert signal.set_wakeup_fd(wake) == -1

    def fail(record, state) -> None:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        go(tmp_path / "b", 2, observers=[fail])
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with pytest.raises(SystemExit):
        go(tmp_path / "c", 4, observers=[terminate_in(1)])
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert not [thread for thread in threading.enumerate() if thread.name == "fedjaxlite-sigterm"]


@pytest.mark.parametrize("how", ["handled", "ignored"])
def test_a_handler_of_the_users_stays(tmp_path, how) -> None:
    heard = []
    theirs = (lambda number, frame: heard.append(number)) if how == "handled" else signal.SIG_IGN
    signal.signal(signal.SIGTERM, theirs)
    try:
        history = go(tmp_path, 4, observers=[terminate_in(1)])
        assert signal.getsignal(signal.SIGTERM) is theirs
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert len(history.records) == 4
    assert heard == ([signal.SIGTERM] if how == "handled" else [])


def test_nothing_is_installed_outside_of_the_main_thread_or_without_a_folder(tmp_path) -> None:
    during = []
    watch = lambda record, state: during.append(signal.getsignal(signal.SIGTERM))  # noqa: E731
    thread = threading.Thread(target=lambda: go(tmp_path, 2, observers=[watch]))
    thread.start()
    thread.join()
    go(None, 2, observers=[watch])
    assert during == [signal.SIG_DFL] * 4


def test_an_event_loop_keeps_its_wakeup_descriptor(tmp_path) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        with pytest.raises(SystemExit):
            go(tmp_path, 4, observers=[terminate_in(1)])
        assert signal.set_wakeup_fd(writer, warn_on_full_buffer=False) == writer
    finally:
        signal.set_wakeup_fd(-1)
        os.close(reader)
        os.close(writer)


@pytest.mark.whole
def test_a_second_signal_ends_the_process_at_once() -> None:
    """Also within one long call, in which no bytecode runs and so no handler of Python does."""
    program = (
        "from fedjaxlite.training import preemption\n"
        "with preemption.noticed():\n"
        "    print('ready', flush=True)\n"
        "    import hashlib; hashlib.pbkdf2_hmac('sha256', b'a', b'b', 400_000_000)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None, "the first signal ended it"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == exit_codes.TERMINATED
