"""Messages between the processes of a run: a JSON value a line over TCP."""

import contextlib
import json
import socket
import time
from collections.abc import Callable
from typing import Any, NamedTuple

_LONGEST = 2**16


class Wire(NamedTuple):
    """One end of a connection.

    Attributes:
      socket: what is connected.
      unread: the bytes of a line whose end has not come.
    """

    socket: socket.socket
    unread: bytearray


def wired(connection: socket.socket, patience: float) -> Wire:
    """A Wire on which nothing waits for longer than `patience` seconds."""
    connection.settimeout(patience)
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Wire(connection, bytearray())


def send(wire: Wire, message: Any) -> bool:
    """Sends a message; False where the other end is gone, which is noticed when it is read from."""
    try:
        wire.socket.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        return False
    return True


def received(wire: Wire) -> tuple[list[Any], bool]:
    """What has come, once the socket is readable: messages, and whether the connection still stands."""
    open_still = True
    try:
        new = wire.socket.recv(_LONGEST)
        open_still = bool(new)
        wire.unread.extend(new)
    except (BlockingIOError, TimeoutError):
        pass
    except OSError:
        open_still = False
    *lines, rest = bytes(wire.unread).split(b"\n")
    wire.unread[:] = rest
    try:
        messages = [json.loads(line) for line in lines]
    except ValueError:  # no process of this library
        return [], False
    return messages, open_still and len(rest) <= _LONGEST


def next_message(wire: Wire, until: float, waiting: Callable[[], None] = lambda: None) -> Any:
    """Waits for one message; None where the connection ends, or the time is up.

    Args:
      wire: where from.
      until: on the monotonic clock.
      waiting: called twice a second.
    """
    while (left := until - time.monotonic()) > 0:
        wire.socket.settimeout(min(left, 0.5))
        messages, stands = received(wire)
        if messages:
            return messages[0]
        if not stands:
            return None
        waiting()
    return None


def close(wire: Wire) -> None:
    """Closes a connection, whatever state it is in."""
    with contextlib.suppress(OSError):
        wire.socket.shutdown(socket.SHUT_WR)
    with contextlib.suppress(OSError):
        wire.socket.close()
