"""The first contact and the watch, with processes played by threads: what is told when one does not fit, or falls silent."""

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from fedjaxlite.distributed import lines, meeting, watch
from fedjaxlite.distributed.launchers import Place
from fedjaxlite.distributed.lines import Wire
from fedjaxlite.distributed.relay import relay

# A thread that stands for a process ends by SystemExit.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

ABOUT = {"fedjaxlite": "1", "jax": "2", "heartbeat_seconds": 5.0}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def places(count: int) -> list[Place]:
    port = free_port()
    return [Place(f"127.0.0.1:{port}", count, i, None, "arguments") for i in range(count)]


def side_by_side(*calls: Callable[[], Any]) -> list[Any]:
    """The results of calls on threads of their own; exceptions are results too."""
    found: list[Any] = [None] * len(calls)

    def run(i: int) -> None:
        try:
            found[i] = calls[i]()
        except Exception as error:
            found[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found


def met(all_places: list[Place], *about: dict[str, Any], patience: float = 20.0) -> list[Any]:
    told = [about[i] if i < len(about) else ABOUT for i in range(len(all_places))]
    first, *others = all_places
    return side_by_side(
        lambda: meeting.gather(first, told[0], patience),
        *[
            lambda place=place, one=one: meeting.join(place, one, patience)
            for place, one in zip(others, told[1:], strict=True)
        ],
    )


def test_all_come_and_hear_of_one_port() -> None:
    first, second, third = met(places(3))
    assert set(first[0]) == {1, 2}
    assert second[1] == third[1] == first[1]
    lines.send(second[0], {"beat": 1})
    assert lines.next_message(first[0][1], time.monotonic() + 5) == {"beat": 1}
    close_all([first[0], {0: second[0], 1: third[0]}])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda p: (p, {**ABOUT, "jax": "3"}), "jax is 3 in process 1 and 2 in process 0"),
        (lambda p: (p._replace(num_processes=3), ABOUT), "num_processes is 3 in process 1 and 2 in process 0"),
        (lambda p: (p._replace(process_id=0), ABOUT), "two processes came as process 0"),
    ],
)
def test_who_does_not_fit_is_told_to_both(change: Callable[[Place], Any], text: str) -> None:
    first, second = places(2)
    second, about = change(second)
    for found in met([first, second], ABOUT, about):
        assert isinstance(found, ValueError)
        assert text in str(found)


def test_who_does_not_come_is_named() -> None:
    first, second, _, _ = places(4)
    for found in met([first, second], patience=1.0):
        assert isinstance(found, TimeoutError)
        assert "processes 2 and 3 of 4 did not come" in str(found)


def test_a_first_process_that_is_not_there_is_named() -> None:
    _, second = places(2)
    with pytest.raises(TimeoutError, match="process 1 did not reach process 0 at 127.0.0.1:"):
        meeting.join(second, ABOUT, 0.5)


def test_a_port_that_is_taken_is_told() -> None:
    first, _ = places(2)
    with (
        socket.create_server(("127.0.0.1", meeting.split(first.coordinator)[1])),
        pytest.raises(OSError, match="cannot listen on that port of its host"),
    ):
        meeting.gather(first, ABOUT, 1.0)


def test_what_came_by_chance_is_sent_away() -> None:
    first, second = places(2)

    def stranger() -> None:
        with socket.create_connection(meeting.split(first.coordinator)) as connection:
            connection.sendall(b"GET / HTTP/1.1\n\n")
            connection.recv(10)

    def late() -> Any:
        time.sleep(0.5)
        return meeting.join(second, ABOUT, 20.0)

    found = side_by_side(lambda: meeting.gather(first, ABOUT, 20.0), lambda: (time.sleep(0.2), stranger()), late)
    assert set(found[0][0]) == {1}
    assert found[2][1] == found[0][1]
    close_all([found[0][0], {0: found[2][0]}])


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The last words and codes of processes that the watch ends; their threads end instead."""
    told: list[tuple[str, int]] = []
    words = threading.local()

    def say(line: str) -> None:
        words.line = line

    def end(code: int) -> None:
        told.append((words.line, code))
        raise SystemExit

    monkeypatch.setattr(watch, "say", say)
    monkeypatch.setattr(watch, "end_at_once", end)
    return told


def watched(count: int, beat: float, *without: int) -> tuple[dict[int, watch.Watch], list[dict[int, Wire]]]:
    all_places = places(count)
    found = met(all_places)
    wires = [found[0][0], *({0: wire} for wire, _ in found[1:])]
    return {i: watch.begin(all_places[i], wires[i], beat) for i in range(count) if i not in without}, wires


def wait_for(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


def close_all(wires: list[dict[int, Wire]]) -> None:
    for ends_of_one in wires:
        for wire in ends_of_one.values():
            lines.close(wire)


@pytest.mark.parametrize("gone", [0, 1])
def test_a_connection_that_ends_is_a_death(gone: int, ends: list[tuple[str, int]]) -> None:
    _, wires = watched(3, 30.0, gone)
    for wire in wires[gone].values():
        lines.close(wire)
    wait_for(lambda: len(ends) == 2)
    assert all(f"process {gone} of 3 died: its connection ended" in line and code == 4 for line, code in ends)
    close_all(wires)


@pytest.mark.parametrize("gone", [0, 1])
def test_silence_is_a_death(gone: int, ends: list[tuple[str, int]]) -> None:
    _, wires = watched(3, 2.0, gone)
    wait_for(lambda: len(ends) == 2)
    assert all(f"process {gone} of 3 was silent for" in line and code == 4 for line, code in ends)
    close_all(wires)


def test_an_error_is_told_and_an_own_error_goes_before(ends: list[tuple[str, int]]) -> None:
    watching, wires = watched(3, 30.0)
    watching[2].failing.set()  # it has an error of its own at the same time
    watch.failed(watching[1], "ValueError: no such file")
    wait_for(lambda: len(ends) == 1)
    assert ends[0][0].startswith("fedjaxlite, process 0: process 1 ended by an error: ValueError: no such file.")
    close_all(wires)


def test_all_leave_when_all_are_done(ends: list[tuple[str, int]]) -> None:
    watching, wires = watched(3, 2.0)
    assert not watch.leave(watching[1], 0.2)
    side_by_side(*(lambda own=own: watch.leave(own, 20.0) for own in watching.values()))
    assert all(own.all_done.is_set() for own in watching.values())
    side_by_side(*(lambda own=own: watch.close(own) for own in watching.values()))
    assert not ends
    close_all(wires)


@pytest.mark.parametrize("in_order", [False, True])
def test_a_relay_stays_open_until_the_process_leaves(in_order: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as far:
        near = socket.create_connection(("127.0.0.1", relay("127.0.0.1", far.getsockname()[1], lambda: in_order)))
        there, _ = far.accept()
        near.sendall(b"a question")
        assert there.recv(100) == b"a question"
        there.sendall(b"an answer")
        assert near.recv(100) == b"an answer"
        there.close()
        near.settimeout(1.0)
        if in_order:
            assert near.recv(100) == b""
        else:
            with pytest.raises(TimeoutError):
                near.recv(100)
            near.sendall(b"more")
        near.close()
