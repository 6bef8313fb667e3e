"""Functions that make ids of characters and words, one value at a time: what `encode=` of the readers takes."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fedjaxlite import checks

PAD, UNKNOWN = range(2)
"""Ids that stand for no entry of a vocabulary; its first entry has the id 2."""


def encode_characters(alphabet: str, *, length: int | None = None) -> Callable[[Any], np.ndarray]:
    """A function from a text to the ids of its characters.

    Args:
      alphabet: the characters, of which number i has the id i + 2; every other one has the id 1.
      length: cut a text to so many characters, and pad shorter ones with 0; None leaves lengths as they are.

    Returns:
      A function from a str (or UTF-8 bytes) to int32 `[length]`, or `[len(text)]`.

    Raises:
      TypeError: no str. ValueError: a character that comes twice, or none.

    Example:
      >>> import fedjaxlite as fl
      >>> fl.datasets.encode_characters("abc", length=4)("cab!x").tolist()
      [4, 2, 3, 1]
    """
    alphabet = checks.text(alphabet=alphabet)
    ids = _ids("alphabet", list(alphabet))
    size = None if length is None else checks.positive_int(length=length)
    return lambda text: _padded([ids.get(c, UNKNOWN) for c in _text("encode_characters", text)], size)


def encode_words(vocabulary: Sequence[str], *, length: int, lower: bool = True) -> Callable[[Any], np.ndarray]:
    """A function from a text, or a list of words, to the ids of its words.

    Args:
      vocabulary: the words, of which number i has the id i + 2; every other one has the id 1.
      length: cut to so many words, and pad shorter ones with 0.
      lower: take words in small letters, as those of a vocabulary mostly are.

    Returns:
      A function from a str (or UTF-8 bytes), which is split at white space, or from a list of them, to int32
      `[length]`.

    Raises:
      TypeError: no words. ValueError: a word that comes twice, or none.

    Example:
      >>> import fedjaxlite as fl
      >>> encode = fl.datasets.encode_words(["the", "cat"], length=4)
      >>> encode("The cat sleeps").tolist(), encode(["cat"]).tolist()
      ([2, 3, 1, 0], [3, 0, 0, 0])
    """
    if not isinstance(vocabulary, (list, tuple)) and not (isinstance(vocabulary, np.ndarray) and vocabulary.ndim == 1):
        raise TypeError(f"`vocabulary` is {checks.shown(vocabulary)}; expected a list of words.")
    ids = _ids("vocabulary", [checks.text(vocabulary=word) for word in vocabulary])
    size = checks.positive_int(length=length)
    small = checks.flag(lower=lower)

    def encode(text: Any) -> np.ndarray:
        words = (
            [_text("encode_words", word) for word in text]
            if isinstance(text, (list, tuple, np.ndarray))
            else _text("encode_words", text).split()
        )
        return _padded([ids.get(word.lower() if small else word, UNKNOWN) for word in words], size)

    return encode


def _ids(argument: str, entries: list[str]) -> dict[str, int]:
    ids = {entry: i + 2 for i, entry in enumerate(entries)}
    if not ids:
        raise ValueError(f"`{argument}` is empty; expected at least one entry.")
    if len(ids) < len(entries):
        twice = next(entry for i, entry in enumerate(entries) if ids[entry] != i + 2)
        raise ValueError(f"`{argument}` holds {twice!r} twice; expected every entry once.")
    return ids


def _padded(found: list[int], length: int | None) -> np.ndarray:
    if length is None:
        return np.array(found, np.int32)
    ids = np.full(length, PAD, np.int32)
    ids[: len(found)] = found[:length]
    return ids


def _text(function: str, value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if not isinstance(value, str):
        raise TypeError(f"{function} was given {checks.shown(value)}; expected a text.")
    return value
