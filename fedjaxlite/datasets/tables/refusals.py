"""What a table may not hold, and what to do about it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fedjaxlite.datasets.tables import kinds as kinds_
from fedjaxlite.datasets.tables import words as words_
from fedjaxlite.datasets.tables.csv_files import UnlikeKind
from fedjaxlite.datasets.tables.passes import Keys
from fedjaxlite.datasets.tables.roles import Roles

_A_GAP = "If it stands for a missing value, add it to missing_words"
_OF_WORDS = "if the column is of words, name it in categorical=[...]"


def check_kinds(kinds: Mapping[str, str], roles: Roles, dates: str) -> None:
    """Refuses inputs that are no numbers and no words."""
    for column in (*roles.inputs, *roles.kept()):
        if kinds[column] == "other":
            raise TypeError(
                f"column {column!r} holds {kinds_.say('other')}; expected numbers or text. Take it apart into columns, "
                f"or leave it out: drop=[{column!r}]."
            )
        if kinds[column] == "date" and dates == "refuse" and column not in roles.categorical:
            raise ValueError(
                f"column {column!r} holds dates, which are no numbers of themselves; pass dates='days' for days since "
                f"1970, time={column!r} to sort by them, or drop=[{column!r}]."
            )


def widened(kinds: Mapping[str, str], roles: Roles, odd: UnlikeKind) -> dict[str, str]:
    """The kinds to read once more with, after a value that was not of its column's kind.

    Raises:
      ValueError: a column of numbers has to stay one.
    """
    kind, column = kinds[odd.column], odd.column
    number = words_.first_odd_number([odd.value, "0", "1"]) is None
    if kind == "int" and number:
        return {**kinds, column: "float"}
    if kind == "text" or (kind in ("float", "int") and column in roles.inputs and column not in roles.categorical):
        row = f"row {odd.row} of" if odd.row else "a row of"
        raise ValueError(
            f"column {column!r} holds {odd.value!r} at {row} {odd.path!r}, after rows that hold {kinds_.say(kind)}. "
            f"{_A_GAP}; {_OF_WORDS}."
        )
    return {**kinds, column: "float" if kind == "null" and number else "text"}


def check_words(keys: Keys, roles: Roles, most: int, row: Callable[[int], str]) -> None:
    """Refuses text columns that are numbers with a slip among them, and those with a word for nearly every row."""
    for column in (*roles.inputs, *roles.kept(), *([roles.label] if roles.label else [])):
        if column not in keys.coded or column in roles.categorical:
            continue
        coded = keys.coded[column]
        odd = words_.first_odd_number(coded.words)
        if odd is not None:
            at = row(int(np.argmax(coded.codes == coded.words.index(odd))))
            remedy = "if the label is of words, pass classes=[...]" if column == roles.label else _OF_WORDS
            raise ValueError(f"column {column!r} holds {odd!r} at {at}, and numbers in other rows. {_A_GAP}; {remedy}.")
        if column in roles.inputs and len(coded.words) > most:
            raise ValueError(
                f"column {column!r} holds {len(coded.words)} different words, such as {coded.words[0]!r}; expected at "
                f"most max_categories={most}. Leave an id out: drop=[{column!r}]; keep codes of their own: "
                f"features=[{column!r}]; or raise max_categories."
            )


def check_missing(
    missing: Mapping[str, tuple[int, int]],
    total: int,
    told: Callable[[int], str],
    whose: Callable[[int], str],
) -> None:
    """Refuses missing inputs, and tells all columns that have some."""
    if not missing:
        return
    column, (count, first) = next(iter(missing.items()))
    others = "".join(f", {name!r} ({other})" for name, (other, _) in list(missing.items())[1:12])
    raise ValueError(
        f"values are missing: column {column!r} has none in {count} of {total} rows, first at {told(first)}, client "
        f"{whose(first)}{'; so have' + others.removeprefix(',') if others else ''}. Pass missing='keep' for NaN in x, "
        f"which fl.preprocessing imputes federatedly; missing='drop' to leave such rows out; or drop=[{column!r}]."
    )


def check_finite(beyond: Mapping[str, int], told: Callable[[int], str], whose: Callable[[int], str]) -> None:
    """Refuses inputs that float32 does not hold."""
    for column, row in beyond.items():
        raise ValueError(f"column {column!r} is infinite as float32 at {told(row)}, client {whose(row)}.")


def check_features(gaps: np.ndarray, told: Callable[[int], str]) -> None:
    """Refuses features with gaps."""
    if gaps.any():
        raise ValueError(
            f"`features` are missing at {told(int(np.argmax(gaps)))}; pass missing='drop' to leave such rows out, or "
            "name other columns."
        )


def check_gaps(argument: str, column: str, gaps: np.ndarray, told: Callable[[int], str], remedy: str) -> None:
    """Refuses missing values where each row needs one."""
    if gaps.any():
        raise ValueError(
            f"{argument}={column!r} is missing in {int(gaps.sum())} of {len(gaps)} rows, first at "
            f"{told(int(np.argmax(gaps)))}. {remedy}"
        )


def check_like(columns: Sequence[str], like: Any) -> None:
    """Refuses inputs that are not those of an earlier table."""
    if like is not None and tuple(columns) != tuple(like.columns):
        odd = sorted(set(columns) ^ set(like.columns)) or ["their order"]
        raise ValueError(
            f"the inputs are not those of the table that `like` gives: {odd[0]!r} is in one of them. Pass the same "
            "columns and the same arguments."
        )
