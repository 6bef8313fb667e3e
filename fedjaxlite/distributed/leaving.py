"""How a process of several ends: in good order together with the others, by an error that all are told, or at once."""

import atexit
import logging
import sys
import threading
import time
from types import TracebackType
from typing import Any, NamedTuple

import jax

from fedjaxlite import exit_codes
from fedjaxlite.distributed import watch

_OF_COLLECTIVES = ("gloo", "nccl", "allreduce", "all-reduce", "allgather", "all-gather", "connection reset by peer")
_OF_PEERS = (
    *_OF_COLLECTIVES,
    *(
        "collective",
        "coordination",
        "connection",
        "socket",
        "peer",
        "broken pipe",
        "unavailable",
        "deadline",
        "timed out",
    ),
)
"""What the errors of calls between processes say; those of Gloo come as ValueError too."""

_LEAVE = 600.0
"""Seconds that a process which has done its work waits for the others."""


class _Ending(NamedTuple):
    """The watch of this process, and whether it ends by an error: with what code."""

    watch: watch.Watch
    codes: list[int]


_OWN: list[_Ending] = []
"""What this process has, once it is one of several: a process has one watch, as it has one JAX."""


def arrange(own: watch.Watch) -> None:
    """Makes this process tell the others how it ends."""
    _OWN.append(_Ending(own, []))
    log = logging.getLogger("fedjaxlite")
    if own.place.process_id != 0 and log.level == logging.NOTSET:
        log.setLevel(logging.ERROR)  # what the first process tells of the run is told once
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        wait_for_verdict(error)
        before(kind, error, trace)
        failed(f"{kind.__name__}: {error}", exit_codes.INTERRUPTED if kind is KeyboardInterrupt else 1)

    sys.excepthook = hook
    atexit.register(_at_exit)


def begun() -> bool:
    """Whether this process is one of several."""
    return bool(_OWN)


def failed(reason: str, code: int) -> None:
    """Tells the others that this process ends by an error; nothing where it is alone, or has told them.

    Args:
      reason: its first line is told.
      code: what the process exits with.
    """
    if not _OWN or _OWN[0].codes:
        return
    _OWN[0].codes.append(code)
    watch.failed(_OWN[0].watch, (reason.splitlines() or ["unknown"])[0][:500])


def wait_for_verdict(error: BaseException) -> None:
    """Where a collective failed, another process has probably died: the watch is about to say so, and ends this one.

    Args:
      error: what was raised. Returns at once where it is of another kind; after the heartbeat, if nobody has died.
    """
    if _OWN and not _OWN[0].codes and of_a_collective(error):
        time.sleep(_OWN[0].watch.heartbeat)


def of_a_collective(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, is that of a call between processes."""
    while error is not None:
        words = _OF_PEERS if isinstance(error, jax.errors.JaxRuntimeError) else _OF_COLLECTIVES
        if any(word in str(error).lower() for word in words):
            return True
        error = error.__cause__ or error.__context__
    return False


def _at_exit() -> None:
    """Before JAX's own end, which would wait for processes that may not come."""
    own, codes = _OWN[0]
    if codes:
        logging.shutdown()
        watch.end_at_once(codes[0])
    if not watch.leave(own, _LEAVE):
        failed(f"it left the program {_LEAVE:g} s ago (sys.exit?), and others go on without it", exit_codes.REFUSED)
        watch.end_at_once(exit_codes.REFUSED)
    shut: Any = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    shut.start()
    shut.join(30.0)
    watch.close(own)
