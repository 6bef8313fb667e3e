"""Which fields a message of each kind has, exactly, and what their values may be: tables of checks.

A check takes a value as JSON gave it and says what was expected in its place; the empty text where it is right. `bool`
is no number, an int is no float, a number that is not finite is none, and a text has no control characters: it may go
into a log.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Check = Callable[[Any], str]
HALF = 2**31 - 1
SAFE = 2**53 - 1  # every reader of JSON has these integers exactly
MOST_TEXT = 1000
_HASH = re.compile(r"[0-9a-f]{64}")
_TOKEN = re.compile(r"[A-Za-z0-9._-]{0,200}")
_PEM = re.compile(r"[\x20-\x7e\n]*")


class Schema(NamedTuple):
    """The fields of a kind, and the most bytes of its body: None where the reader says how many."""

    fields: Mapping[str, Check]
    body: int | None = 0


def integer(least: int, most: int) -> Check:
    """An int of a range."""
    words = f"an integer in [{least}, {most}]"
    return lambda value: "" if type(value) is int and least <= value <= most else words


def number(least: float) -> Check:
    """A finite float from a bound on."""
    words = f"a finite float, {least} or more" if least > -math.inf else "a finite float"
    return lambda value: "" if type(value) is float and math.isfinite(value) and value >= least else words


def boolean(value: Any) -> str:
    """True or False."""
    return "" if type(value) is bool else "true or false"


def one_of(*words: str) -> Check:
    """One of a few words."""
    return lambda value: "" if type(value) is str and value in words else f"one of {', '.join(words)}"


def matching(pattern: re.Pattern[str], words: str, *, empty: bool = False, most: int = 200) -> Check:
    """A text of a form."""

    def check(value: Any) -> str:
        fits = type(value) is str and len(value) <= most and (pattern.fullmatch(value) or (empty and not value))
        return "" if fits else words

    return check


def text(value: Any) -> str:
    """Words for people."""
    fits = type(value) is str and len(value) <= MOST_TEXT and value.isprintable()
    return "" if fits else f"at most {MOST_TEXT} printable characters in one line"


def key(value: Any) -> str:
    """The data of a JAX key."""
    fits = type(value) is list and len(value) == 2 and all(type(v) is int and 0 <= v < 2**32 for v in value)
    return "" if fits else "a list of two integers of 32 bits"


def metrics(value: Any) -> str:
    """{name: float}."""
    fits = (
        type(value) is dict
        and len(value) <= 100
        and all(_named(n) and not number(-math.inf)(v) for n, v in value.items())
    )
    return "" if fits else "at most 100 names, of at most 100 printable characters, with a finite float each"


def _named(name: Any) -> bool:
    return type(name) is str and 0 < len(name) <= 100 and name.isprintable()


ROUND, ATTEMPT, CLIENT = integer(0, SAFE), integer(0, HALF), integer(0, 2**32 - 3)
BYTES, COUNT, SECONDS = integer(0, 2**40), integer(0, SAFE), number(0.0)
HASH = matching(_HASH, "64 digits of a SHA-256 in lower case")
HASH_OR_NOT = matching(_HASH, "64 digits of a SHA-256 in lower case, or nothing", empty=True)
PACKED = one_of("raw", "zlib")
PEM = matching(_PEM, "PEM of at most 4,096 characters", most=4096)
SETTLED = {"settled": integer(-1, SAFE), "counted": boolean}
_PIECE = {"offset": BYTES, "total": BYTES, "packed": PACKED}


def schemas(chunk: int) -> dict[str, tuple[Schema, ...]]:
    """The schemas of every kind of message; two where both sides say it with other fields.

    Args:
      chunk: the most bytes of a piece.
    """
    from_client = {
        "check_in": Schema(
            {"pending": integer(-1, SAFE), "attempt": ATTEMPT, "num_examples": COUNT}
            | {"idle": boolean, "charging": boolean, "wireless": boolean, "program": HASH_OR_NOT}
        ),
        "get": Schema({"sha256": HASH, "offset": BYTES}),
        "put": Schema({"round": ROUND, "attempt": ATTEMPT, "sha256": HASH} | _PIECE, chunk),
        "evaluated": Schema({"round": ROUND, "metrics": metrics, "num_examples": COUNT}),
        "failed": Schema({"round": ROUND, "attempt": ATTEMPT, "reason": text}),
        "introduce": Schema({}),
        "enroll": Schema({"token": matching(_TOKEN, "a token"), "csr": PEM}),
    }
    from_server = {
        "wait": Schema({"seconds": SECONDS, "reason": text} | SETTLED),
        "task": Schema(
            {"round": ROUND, "attempt": ATTEMPT, "what": one_of("train", "evaluate"), "program": HASH}
            | {"program_bytes": BYTES, "model": HASH, "model_bytes": BYTES, "key": key, "client": CLIENT}
            | {"upload_bytes": BYTES, "masked": boolean, "seconds": SECONDS}
            | SETTLED
        ),
        "finished": Schema({"rounds": ROUND} | SETTLED),
        "chunk": Schema(_PIECE, chunk),
        "have": Schema({"offset": BYTES}),
        "taken": Schema({"round": ROUND}),
        "introduced": Schema({"authority": PEM}),
        "enrolled": Schema({"client": CLIENT, "certificate": PEM, "authority": PEM, "program": HASH_OR_NOT}),
        "refused": Schema({"reason": text, "again": boolean}),
    }
    secure = (
        Schema({"round": ROUND, "attempt": ATTEMPT}, None),
        Schema({"stage": text}, None),
    )
    return {kind: (schema,) for kind, schema in (from_client | from_server).items()} | {"secure": secure}
