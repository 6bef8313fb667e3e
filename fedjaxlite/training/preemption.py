"""SIGTERM, which clusters send before they kill: a run ends after the round it is in, with a checkpoint."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Generator
from typing import Any

import numpy as np

from fedjaxlite import processes
from fedjaxlite.exit_codes import TERMINATED


@contextlib.contextmanager
def noticed() -> Generator[Callable[[], bool]]:
    """Notices a first SIGTERM instead of ending by it; a second one ends the process at once.

    Nothing is installed outside of the main thread, where Python allows no handlers, nor where the program has a
    handler of its own or ignores the signal. What was there is put back at the end.

    Yields:
      `asked()`, whether a SIGTERM has come.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield lambda: False
        return
    came: list[int] = []

    def first(number: int, frame: Any) -> None:
        del frame
        came.append(number)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, first)
    try:
        with _second_leaves():
            yield lambda: bool(came)
    finally:
        if signal.getsignal(signal.SIGTERM) is first:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def _second_leaves() -> Generator[None]:
    """Ends the process at the second SIGTERM, also within one long call of XLA, where no handler of Python runs."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    if before != -1:  # an event loop of the program's own listens there
        signal.set_wakeup_fd(before)
        os.close(writer)
        os.close(reader)
        yield
        return

    def watch() -> None:
        count = 0
        while 0 not in (numbers := os.read(reader, 64)):
            count += numbers.count(signal.SIGTERM)
            if count > 1:
                os._exit(TERMINATED)

    thread = threading.Thread(target=watch, name="fedjaxlite-sigterm", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        os.set_blocking(writer, True)
        os.write(writer, b"\0")
        thread.join()
        os.close(writer)
        os.close(reader)


def anywhere(asked: bool, since: float) -> tuple[bool, float]:
    """Whether any process of the run was asked to end, and the first one's clock: all have to save the same round.

    Args:
      asked: whether this process was.
      since: seconds since the last checkpoint, as it knows them.
    """
    if processes.count() == 1:
        return asked, since
    told = processes.gathered(np.asarray([asked, since], np.float32))
    return bool(told[:, 0].any()), float(told[0, 1])
