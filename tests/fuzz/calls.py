"""A call with odd arguments, and the verdict on what came of it."""

import os
import signal
import traceback
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import jax
import numpy as np
from odd_values import ODD, TRACED

import fedjaxlite as fl

ROOT = Path(fl.__file__).resolve().parent.parent
LIBRARY = tuple(str(ROOT / folder) + os.sep for folder in ("fedjaxlite", "algorithms", "privacy"))
SECONDS = 40
"""What takes longer has given no answer."""
EXPECTED_KINDS = (TypeError, ValueError, IndexError, OSError)


class Base(NamedTuple):
    """A valid call, which mutations start from.

    Attributes:
      function: what is called.
      arguments: by name; those that the signature takes by position alone, or as `*args`, under "*".
      use: what a user does with the result next; None where nothing is left to do.
      sound: whether a result makes sense.
      words: for an argument, further words that a message may call it by.
      costly: whether the call, or the use, takes long enough to be drawn less often.
    """

    function: Callable[..., Any]
    arguments: Mapping[str, Any] = {}
    use: Callable[[Any], Any] | None = None
    sound: Callable[[Any], bool] = lambda result: True
    words: Mapping[str, tuple[str, ...]] = {}
    costly: bool = False


class Verdict(NamedTuple):
    """What came of a call: "works", "refused", "foreign", "unnamed", "nonsense" or "no answer", and why."""

    kind: str
    detail: str = ""

    @property
    def good(self) -> bool:
        """Whether it is as it should be."""
        return self.kind in ("works", "refused")


class NoAnswer(BaseException):
    """Raised by the alarm; no library code catches it."""


def judged(base: Base, name: str, odd: Mapping[str, str], misspelled: str | None = None) -> Verdict:
    """Makes a call and judges it.

    Args:
      base: the valid call.
      name: the function's public name.
      odd: for some arguments, the name of an odd value in `ODD` or `TRACED`.
      misspelled: a keyword that the function does not have, or None.
    """
    values = {argument: (ODD | TRACED)[label]() for argument, label in odd.items()}
    traced = [argument for argument, label in odd.items() if label in TRACED]
    more = {} if misspelled is None else {misspelled: 1}

    def call(tracers: Mapping[str, Any]) -> Any:
        result = called(base, {**base.arguments, **values, **tracers, **more})
        if base.use is not None:
            base.use(result)
        return result

    try:
        with alarm(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("error")  # NumPy's of overflows are errors that nobody sees
            warnings.simplefilter("ignore", UserWarning)  # the library's own, which say what they mean
            if traced:
                jax.make_jaxpr(lambda tracers: (call(tracers), 0)[1])({a: values[a] for a in traced})
                return Verdict("works")
            result = call({})
    except NoAnswer:
        return Verdict("no answer", f"nothing after {SECONDS} s")
    except Exception as error:
        return verdict_on(error, base, name, tuple(odd), misspelled)
    if misspelled is not None:
        return Verdict("nonsense", f"{name} took the keyword {misspelled!r}")
    return Verdict("works") if sensible(result) and base.sound(result) else Verdict("nonsense", repr(result)[:300])


def called(base: Base, arguments: Mapping[str, Any]) -> Any:
    """Calls by keyword, but for what stands under "*"."""
    named = {key: value for key, value in arguments.items() if key != "*"}
    star = arguments.get("*", ())
    return base.function(*(star if isinstance(star, tuple) else (star,)), **named)


def verdict_on(error: Exception, base: Base, name: str, odd: tuple[str, ...], misspelled: str | None) -> Verdict:
    """Whether an error is the library's own, and names an argument that was odd."""
    text = f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    innermost = str(Path(frames[-1].filename).resolve())
    where = f"{text[:300]!r} at {Path(innermost).name}:{frames[-1].lineno} ({frames[-1].name})"
    short = name.rpartition(".")[2]
    if misspelled is not None and misspelled in text:
        return Verdict("refused") if f"{short}()" in text or f"{short}." in text else Verdict("unnamed", where)
    if any(Path(frame.filename).name == "odd_values.py" for frame in frames):
        return Verdict("refused")  # a function of the caller's was called as it should be, and raised by itself
    if not innermost.startswith(LIBRARY):
        return Verdict("foreign", where)
    if not isinstance(error, EXPECTED_KINDS):
        return Verdict("foreign", where)
    words = [word for argument in odd for word in (argument, *base.words.get(argument, ()))]
    if not any(word.strip("*").lower() in text.lower() for word in words):
        return Verdict("unnamed", where)
    return Verdict("refused")


def sensible(result: Any) -> bool:
    """No negative sizes, and no NaN where a number is the answer."""
    if isinstance(result, fl.Population):
        sizes = np.diff(np.asarray(result.offsets, np.int64))
        rows = {np.shape(array)[0] for array in result.features.values()}
        return bool(np.all(sizes >= 0)) and len(rows) <= 1 and int(sizes.max(initial=0)) <= result.max_size
    if isinstance(result, (float, np.floating)):
        return not np.isnan(result)
    if isinstance(result, tuple) and not hasattr(result, "_fields"):
        return all(sensible(entry) for entry in result)
    return True


@contextmanager
def alarm(seconds: int) -> Generator[None]:
    """Raises NoAnswer after so many seconds; the interpreter has to be running Python for it."""

    def late(number: int, frame: FrameType | None) -> None:
        raise NoAnswer

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
