"""What each column of a table is for: the client, the label, an input, or something to keep or to leave."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fedjaxlite import checks
from fedjaxlite.data import host_arrays
from fedjaxlite.datasets.tables import kinds as kinds_

BY_FILE = "file"
INPUTS, LABEL, MISSING = "x", "y", "missing"


class Roles(NamedTuple):
    """Columns by what they are for.

    Attributes:
      client: whose column, or None where every file is a client.
      label: what is predicted, or None.
      group: what keeps rows together, or None.
      time: what rows are sorted by, or None.
      inputs: the columns of `x`, in the table's order.
      features: further features; a single column gives `[n]`, several `[n, k]`.
      categorical: inputs that are words or codes, with their words where these are given.
    """

    client: str | None
    label: str | None
    group: str | None
    time: str | None
    inputs: tuple[str, ...]
    features: Mapping[str, tuple[str, ...] | str]
    categorical: Mapping[str, tuple[Any, ...] | None]

    def kept(self) -> list[str]:
        """The columns of further features."""
        return [c for columns in self.features.values() for c in ([columns] if isinstance(columns, str) else columns)]


def roles_of(
    kinds: Mapping[str, str],
    *,
    by_file: bool,
    client: Any,
    label: Any,
    group: Any,
    time: Any,
    drop: Any,
    features: Any,
    categorical: Any,
) -> Roles:
    """Holds the arguments that name columns against the columns that there are.

    Raises:
      TypeError, ValueError: a column that is not there (with the nearest), or in two roles at once.
    """
    checks.text("It is the column that says whose a row is.", client=client)
    if client == BY_FILE and BY_FILE in kinds:
        raise ValueError(
            f"client={BY_FILE!r} makes a client of each file, and there is a column {BY_FILE!r} too; rename it, or "
            "name another one."
        )
    if client == BY_FILE and not by_file:
        raise ValueError(f"client={BY_FILE!r} makes a client of each file; `source` is a frame. Name a column.")
    single = {"client": None if client == BY_FILE else client, "label": label, "group": group, "time": time}
    for name, column in single.items():
        if column is not None:
            single[name] = _column(name, column, kinds)
    taken = [column for column in single.values() if column is not None]
    repeated = [column for i, column in enumerate(taken) if column in taken[:i]]
    if repeated:
        named = ", ".join(f"{name}={column!r}" for name, column in single.items() if column == repeated[0])
        raise ValueError(f"{named} name one column; expected a column for one purpose.")
    dropped = _columns("drop", drop, kinds)
    kept = _features(features, kinds)
    if group in (*kept, INPUTS, LABEL, MISSING, *host_arrays.RESERVED):
        raise ValueError(
            f"`group` is {group!r}, the name of another feature, and is kept under its own; rename one of them."
        )
    own = {column for columns in kept.values() for column in ([columns] if isinstance(columns, str) else columns)}
    for column in dropped:
        if column in taken or column in own:
            raise ValueError(f"`drop` names {column!r}, which another argument asks for; leave it out of one of them.")
    inputs = tuple(column for column in kinds if column not in {*taken, *dropped, *own})
    words = _categorical(categorical, kinds, (*inputs, *own))
    return Roles(single["client"], single["label"], single["group"], single["time"], inputs, kept, words)


def nearest(given: str, known: Sequence[str]) -> str:
    """What a wrong name was meant to be, in words."""
    near = checks.nearest(given, known)
    listed = ", ".join(map(repr, known[:30])) + (" ..." if len(known) > 30 else "")
    return f"did you mean {near!r}? The columns are {listed}" if near else f"the columns are {listed}"


def _column(argument: str, column: Any, kinds: Mapping[str, str]) -> str:
    column = checks.text("It is the name of a column.", **{argument: column})
    if column not in kinds:
        raise ValueError(f"`{argument}` is {column!r}, which is no column; {nearest(column, list(kinds))}.")
    if kinds[column] == "other":
        raise TypeError(f"`{argument}` is {column!r}, which holds {kinds_.say('other')}; expected numbers or text.")
    return column


def _columns(argument: str, columns: Any, kinds: Mapping[str, str]) -> tuple[str, ...]:
    if isinstance(columns, str) or not isinstance(columns, Sequence):
        raise TypeError(f"`{argument}` is {checks.shown(columns)}; expected a list of names of columns.")
    for column in columns:
        checks.text(f"`{argument}` is a list of names of columns.", **{argument: column})
        if column not in kinds:
            raise ValueError(f"`{argument}` names {column!r}, which is no column; {nearest(column, list(kinds))}.")
    return tuple(columns)


def _features(features: Any, kinds: Mapping[str, str]) -> dict[str, tuple[str, ...] | str]:
    if not isinstance(features, Mapping):
        features = {column: column for column in _columns("features", features, kinds)}
    kept = {}
    for name, columns in features.items():
        name = checks.text("`features` is a mapping from a feature's name to a column, or a list.", features=name)
        if name in (INPUTS, LABEL, MISSING, *host_arrays.RESERVED):
            raise ValueError(f"`features` has the name {name!r}, which is taken; call the feature something else.")
        if isinstance(columns, str):
            kept[name] = _columns("features", [columns], kinds)[0]
        else:
            kept[name] = _columns("features", columns, kinds)
            if not kept[name]:
                raise ValueError(f"`features` gives {name!r} no column; expected at least one.")
    return kept


def _categorical(categorical: Any, kinds: Mapping[str, str], among: Sequence[str]) -> dict[str, tuple[Any, ...] | None]:
    if not isinstance(categorical, Mapping):
        categorical = dict.fromkeys(_columns("categorical", categorical, kinds))
    for column, words in categorical.items():
        _columns("categorical", [column], kinds)
        if column not in among:
            raise ValueError(f"`categorical` names {column!r}, which is no input; leave it out there or in `drop`.")
        if words is not None and (isinstance(words, str) or not isinstance(words, Sequence) or not words):
            raise TypeError(f"`categorical` gives {column!r} {checks.shown(words)}; expected a list of its words.")
    return {column: None if words is None else tuple(words) for column, words in categorical.items()}
