"""A thread beside the run's own: work in order, whose errors are the run's, and which ends with it."""

import contextlib
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple


class Background(NamedTuple):
    """A thread that does one thing after the other; see `background`.

    Attributes:
      begin: `begin(what, work, *args) -> Later`; `what` says in an error what the thread was at.
      look: `look()`, raises the error of the first work that failed, if one did.
      drain: `drain()`, waits until all is done, and raises likewise.
    """

    begin: Callable[..., "Later"]
    look: Callable[[], None]
    drain: Callable[[], None]


class Later(NamedTuple):
    """What a thread will have found.

    Attributes:
      future: of the work.
    """

    future: Future[Any]

    def found(self) -> Any:
        """Waits for it; raises the error of the work."""
        return self.future.result()


@contextlib.contextmanager
def background(name: str) -> Generator[Background]:
    """A thread for the time of a `with`: at its end what has not begun is dropped, and what has is waited for.

    Args:
      name: of the thread.

    Yields:
      a Background.
    """
    going: list[Future[Any]] = []
    pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    def told(what: str, work: Callable[..., Any], *args: Any) -> Any:
        try:
            return work(*args)
        except BaseException as error:
            error.add_note(f"That was beside a round of the run, while {what}.")
            raise

    def begin(what: str, work: Callable[..., Any], *args: Any) -> Later:
        look()
        future = pool.submit(told, what, work, *args)
        going.append(future)
        return Later(future)

    def look() -> None:
        while going and going[0].done():
            going.pop(0).result()

    def drain() -> None:
        while going:
            going.pop(0).result()

    try:
        yield Background(begin, look, drain)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
