"""Columns of few values as codes: the words of categories, and the classes of a label."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedjaxlite import checks
from fedjaxlite.datasets.tables import kinds as kinds_

MOST_CLASSES = 20
"""A label of whole numbers with more values than that may be a quantity: the user says which."""


class Coded(NamedTuple):
    """A column as codes.

    Attributes:
      codes: int32 `[n]`, -1 where the value is missing.
      words: what the codes stand for: strings, ints, floats or bools, ascending unless given.
    """

    codes: np.ndarray
    words: tuple[Any, ...]


def codes_of(chunk: Any, table: dict[str, int], missing_words: Sequence[str]) -> np.ndarray:
    """Int32 `[b]` of a chunk of a text column, which has a dictionary of its own, in the order of a table that grows.

    Spaces around a word do not count.
    """
    own = [word.strip() for word in chunk.dictionary.to_pylist()]
    places = [-1 if word in missing_words else table.setdefault(word, len(table)) for word in own]
    indices = chunk.indices.fill_null(len(own)).to_numpy(zero_copy_only=False)
    return np.asarray([*places, -1], np.int32)[indices]


def of_text(chunks: Sequence[np.ndarray], table: Mapping[str, int]) -> Coded:
    """A text column of its chunks' codes, now in the order of the words."""
    codes = np.concatenate([*chunks, np.zeros(0, np.int32)])
    words = np.asarray([*table, ""], np.str_)[:-1]
    held = np.bincount(codes + 1, minlength=len(words) + 1)[1:] > 0  # a frame's dictionary may have words to spare
    order = np.argsort(words, kind="stable")
    order = order[held[order]]
    rank = np.full(len(words) + 1, -1, np.int32)
    rank[order] = np.arange(len(order))
    return Coded(rank[codes], tuple(words[order].tolist()))


def of_numbers(values: np.ndarray, kind: str) -> Coded:
    """The codes of a column of numbers or of true and false."""
    there = ~np.isnan(values)
    found, inverse = np.unique(values[there], return_inverse=True)
    codes = np.full(len(values), -1, np.int32)
    codes[there] = inverse
    if kind == "bool":
        return Coded(codes, tuple(bool(value) for value in found))
    whole = bool(np.all(found == np.floor(found)))
    return Coded(codes, tuple(int(value) if whole else float(value) for value in found))


def recoded(coded: Coded, words: Sequence[Any], what: str, row: Callable[[int], str]) -> Coded:
    """The same column in the codes of given words.

    Raises:
      ValueError: the column holds a word that is none of them.
    """
    for word in words:
        if not isinstance(word, (str, int, float)):
            raise TypeError(f"{what} is given the word {checks.shown(word)}; expected texts or numbers.")
    places = {word: i for i, word in enumerate(words)}
    if len(places) < len(words):
        raise ValueError(f"{what} is given a word twice among {', '.join(map(repr, words[:8]))}; expected each once.")
    table = np.asarray([places.get(word, -1) for word in (*coded.words, None)], np.int32)
    unknown = [word for word in coded.words if word not in places]
    if unknown:
        at = int(np.argmax(coded.codes == coded.words.index(unknown[0])))
        raise ValueError(
            f"{what} holds {unknown[0]!r} at {row(at)}, which is none of the words given: "
            f"{', '.join(map(repr, words[:20]))}. Add it, or correct the table."
        )
    return Coded(np.where(coded.codes < 0, -1, table[coded.codes]).astype(np.int32), tuple(words))


def first_odd_number(words: Sequence[str]) -> str | None:
    """Of a text column whose words are numbers for the most part, the first that is none."""
    odd = [word for word in words if not _is_number(word)]
    return odd[0] if odd and len(odd) < len(words) / 2 else None


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def is_of_classes(kind: str, values: np.ndarray | None, target: str | None) -> bool:
    """Whether a label is of classes, by what is asked for or by what it holds.

    Raises:
      ValueError: it holds many whole numbers, and nobody says what they are; or words, and numbers are asked for.
    """
    if target == "classes":
        return True
    if kind in ("text", "bool") or values is None:
        if target == "numbers" and kind != "bool":
            raise ValueError(f"target='numbers', and the label holds {kinds_.say(kind)}; leave `target` out.")
        return target is None
    if target == "numbers" or kind == "date":
        return False
    found = np.unique(values[~np.isnan(values)])
    if not np.all(found == np.floor(found)):
        return False
    if len(found) > MOST_CLASSES:
        raise ValueError(
            f"the label holds {len(found)} whole numbers, from {found[0]:.0f} to {found[-1]:.0f}: quantities or "
            "classes? Pass target='numbers' (float32 y) or target='classes' (int32 y)."
        )
    return True


def classes_of(coded: Coded, classes: Any, what: str, row: Callable[[int], str]) -> Coded:
    """A label's codes, in the order given, or joined as a mapping from words to names says."""
    if classes is None:
        return coded
    if not isinstance(classes, Mapping):
        if isinstance(classes, str) or not isinstance(classes, Sequence) or not classes:
            raise TypeError(
                f"`classes` is {checks.shown(classes)}; expected a list of the label's words in their order, or a dict "
                "from a word to its class, such as {0: 'healthy', 1: 'ill', 2: 'ill'}."
            )
        return recoded(coded, classes, what, row)
    own = recoded(coded, tuple(classes), what, row)
    for name in classes.values():
        if not isinstance(name, (str, int, float)):
            raise TypeError(f"`classes` gives {checks.shown(name)} as a class; expected texts or numbers.")
    names = tuple(dict.fromkeys(classes.values()))
    table = np.asarray([*(names.index(name) for name in classes.values()), -1], np.int32)
    return Coded(table[own.codes], names)
