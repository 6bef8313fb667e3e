"""A mapping from client numbers that is never changed: one that differs by an entry shares the rest with it.

A plain dict would be copied whole at every check-in; of a hundred thousand clients that is what a server would do.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

_PARTS = 64


class Table(NamedTuple):
    """Values by number, in parts of which a change copies one.

    Attributes:
      parts: dicts; number n is in part n mod 64.
    """

    parts: tuple[Mapping[int, Any], ...] = ({},) * _PARTS

    def __len__(self) -> int:
        """How many have a value."""
        return sum(map(len, self.parts))


def get(table: Table, number: int) -> Any:
    """The value of a number, or None."""
    return table.parts[number % _PARTS].get(number)


def having(table: Table, number: int, value: Any) -> Table:
    """The table in which a number has a value.

    Example:
      >>> sorted(numbers(having(having(Table(), 70, "a"), 6, "b")))
      [6, 70]
    """
    return _with_part(table, number, {**table.parts[number % _PARTS], number: value})


def lacking(table: Table, number: int) -> Table:
    """The table in which a number has none."""
    part = table.parts[number % _PARTS]
    if number not in part:
        return table
    return _with_part(table, number, {other: value for other, value in part.items() if other != number})


def numbers(table: Table) -> Iterator[int]:
    """Those who have a value."""
    for part in table.parts:
        yield from part


def _with_part(table: Table, number: int, part: Mapping[int, Any]) -> Table:
    place = number % _PARTS
    return Table((*table.parts[:place], part, *table.parts[place + 1 :]))
