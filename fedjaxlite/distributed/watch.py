"""Beats of every process to the first, and of the first to all: who died or fell silent ends all others in seconds.

A process of a run cannot go on without another one, whose clients it lacks: its collectives would wait. So all end,
with one line that says who died, and start again from the last checkpoint.
"""

import os
import selectors
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fedjaxlite import exit_codes
from fedjaxlite.distributed import lines
from fedjaxlite.distributed.launchers import Place
from fedjaxlite.distributed.lines import Wire

_SURE = 0.75
"""The share of the heartbeat after which a silent process counts as dead: its end has to be told within the whole."""

_GRACE = 1.0
"""Seconds that a process has to end by an error of its own, where another one ended by an error."""


class Watch(NamedTuple):
    """The watch of a process over the others; the thread of `begin` and the process's own share it.

    Attributes:
      place: of this process.
      heartbeat: seconds within which a dead process is noticed.
      wires: to all others from the first process, to the first from the others.
      ready: tells which of them can be read.
      heard: when each was heard last, while its connection stands.
      done: who has done its work, told to the first.
      own_done, all_done: whether this process has done its work, and whether all have.
      failing: whether this process ends by an error.
      left: whether the watch is over.
      writing: held by who sends.
    """

    place: Place
    heartbeat: float
    wires: Mapping[int, Wire]
    ready: selectors.BaseSelector
    heard: dict[int, float]
    done: set[int]
    own_done: threading.Event
    all_done: threading.Event
    failing: threading.Event
    left: threading.Event
    writing: threading.Lock


def begin(place: Place, wires: Mapping[int, Wire], heartbeat: float) -> Watch:
    """Starts the watch, on a thread of its own.

    Args:
      place: of this process.
      wires: to all others from the first process, to the first from the others.
      heartbeat: seconds.
    """
    own_done, all_done, failing, left = (threading.Event() for _ in range(4))
    heard = dict.fromkeys(wires, time.monotonic())
    own = Watch(
        place,
        heartbeat,
        wires,
        selectors.DefaultSelector(),
        heard,
        set(),
        own_done,
        all_done,
        failing,
        left,
        threading.Lock(),
    )
    for number, wire in wires.items():
        own.ready.register(wire.socket, selectors.EVENT_READ, number)
    threading.Thread(target=_run, args=(own,), name="fedjaxlite-watch", daemon=True).start()
    return own


def leave(own: Watch, seconds: float) -> bool:
    """Says that this process has done its work, and waits until all have; False after so long."""
    own.own_done.set()
    if own.place.process_id != 0:
        _tell(own, {"done": 1})
    return own.all_done.wait(seconds)


def failed(own: Watch, reason: str) -> None:
    """Tells the others that this process ends by an error."""
    own.failing.set()
    first = own.place.process_id == 0
    _tell(own, {"lost": _by_error(0, reason), "grace": _GRACE} if first else {"failed": reason})
    _until(lambda: not own.heard, 1.0)  # what was told may be lost where the end comes with bytes unread


def close(own: Watch) -> None:
    """Ends the watch, in the first process last: JAX's service answers from there."""
    if own.place.process_id == 0:
        _until(lambda: not own.heard, 5.0)
    own.left.set()
    if own.place.process_id != 0:
        for wire in own.wires.values():
            lines.close(wire)


def end_at_once(code: int) -> None:
    """Ends this process with what it printed, and without waiting for anything that may never come."""
    flushing = threading.Thread(target=_flush, daemon=True)
    flushing.start()
    flushing.join(0.5)  # another thread may hold the stream
    os._exit(code)


def _run(own: Watch) -> None:
    beat = own.heartbeat / 8
    last_beat = since = time.monotonic()
    stood, until = 0.0, 0.0
    while not own.left.is_set():
        readable = [key.data for key, _ in own.ready.select(beat / 2)]
        gap, since = time.monotonic() - since, time.monotonic()
        if gap > own.heartbeat / 2:  # this process was stopped, and does not know who was silent meanwhile
            stood, until = gap, since + own.heartbeat
            own.heard.update(dict.fromkeys(own.heard, since))
        for number in readable:
            _hear(own, number, stood if since < until else 0.0)
        _find_silent(own)
        if since - last_beat >= beat:
            _tell(own, {"beat": 1})
            last_beat = since
        first, all_done = own.place.process_id == 0, own.all_done
        if first and own.own_done.is_set() and own.done >= set(own.wires) and not all_done.is_set():
            _tell(own, {"all done": 1})
            all_done.set()


def _hear(own: Watch, number: int, stood: float) -> None:
    """Reads what a process says, or that its connection ended; `stood` is how long this one stood still before."""
    messages, stands = lines.received(own.wires[number])
    now = time.monotonic()
    ago, own.heard[number] = now - own.heard[number], now
    for message in messages:
        if "lost" in message:
            _lost(own, message["lost"], number, grace=float(message.get("grace", 0.0)))
        elif "failed" in message:
            _lost(own, _by_error(number, message["failed"]), number, grace=_GRACE)
        elif "done" in message:
            own.done.add(number)
        elif "all done" in message:
            own.all_done.set()
    if stands:
        return
    own.ready.unregister(own.wires[number].socket)
    del own.heard[number]
    if not (own.all_done.is_set() or own.failing.is_set()):
        many = own.place.num_processes
        text = f"process {number} of {many} died: its connection ended, {ago:.1f} s after it was last heard of"
        if stood:
            text = f"this process stood still for {stood:.1f} s, and the others have ended without it"
        _lost(own, text, number)


def _find_silent(own: Watch) -> None:
    """Ends all where one was silent for too long."""
    now = time.monotonic()
    for number, last in list(own.heard.items()):
        if now - last > _SURE * own.heartbeat and not (own.all_done.is_set() or own.failing.is_set()):
            text = f"process {number} of {own.place.num_processes} was silent for {now - last:.1f} s"
            _lost(own, text, number)


def _lost(own: Watch, text: str, number: int, grace: float = 0.0) -> None:
    """The end of this process, since another one ended; the first tells all others but that one."""
    _tell(own, {"lost": text, "grace": grace}, but=number)
    if grace and own.failing.wait(grace):
        return  # it ends by an error of its own
    line = (
        f"fedjaxlite, process {own.place.process_id}: {text}. The processes of a run end together; start all of them "
        "again: with resume=True (--resume on the command line) the run goes on from its last checkpoint\n"
    )
    say(line)
    own.heard.pop(number, None)  # that one is not waited for
    if own.place.process_id == 0:
        _drain(own, 1.0)
    end_at_once(exit_codes.PEER_LOST)


def say(line: str) -> None:
    """Writes a line to the standard error at once, whoever holds the stream."""
    os.write(2, line.encode())


def _by_error(number: int, reason: str) -> str:
    return f"process {number} ended by an error: {reason}"


def _tell(own: Watch, message: Any, but: int = -1) -> None:
    with own.writing:
        for number in list(own.heard):
            if number != but:
                lines.send(own.wires[number], message)


def _drain(own: Watch, seconds: float) -> None:
    """Reads until the others have closed: what was sent to them may be lost where the end comes with bytes unread."""
    until = time.monotonic() + seconds
    while own.heard and (left := until - time.monotonic()) > 0:
        for key, _ in own.ready.select(left):
            if not lines.received(own.wires[key.data])[1]:
                own.ready.unregister(key.fileobj)
                own.heard.pop(key.data, None)


def _until(holds: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not holds() and time.monotonic() < until:
        time.sleep(0.01)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # closed, or nobody reads
            continue
