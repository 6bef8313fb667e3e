"""Which clients and which columns are wanted, and what a wrong name is told."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedjaxlite import checks
from fedjaxlite.data import host_arrays


class Wanted(NamedTuple):
    """What becomes of the columns of a source.

    Attributes:
      features: own name of each column that is taken, by its name in the source; None takes all as they are.
      encode: functions from one value to numbers, by the column's name in the source.
      shapes: the shape of one row, by the column's name in the source.
    """

    features: Mapping[str, str] | None
    encode: Mapping[str, Callable[[Any], Any]]
    shapes: Mapping[str, tuple[int, ...]]


class Clients(NamedTuple):
    """Which clients are taken.

    Attributes:
      names: their ids, in the order wanted; None takes all.
      most: how many, from the first on; None takes all.
    """

    names: tuple[Any, ...] | None
    most: int | None


def wanted(features: Any = None, encode: Any = None, shapes: Any = None) -> Wanted:
    """The arguments of a reader, checked.

    Raises:
      TypeError, ValueError: the text names the argument.
    """
    functions = {} if encode is None else _mapping("encode", encode, "{'text': a function of one value}")
    for column, function in functions.items():
        checks.is_function_of("value", **{f"encode[{column!r}]": function})
    given = {} if shapes is None else _mapping("shapes", shapes, "{'x': (28, 28, 1)}")
    return Wanted(_features(features), functions, {column: _shape(column, shape) for column, shape in given.items()})


def clients(names: Any = None, num_clients: Any = None) -> Clients:
    """Which clients a reader takes.

    Raises:
      TypeError, ValueError: both are given, or one of them is something else.
    """
    if num_clients is not None:
        num_clients = checks.positive_int(num_clients=num_clients)
    if names is None:
        return Clients(None, num_clients)
    if num_clients is not None:
        raise ValueError(f"`clients` names clients and `num_clients` is {num_clients}; expected one of the two.")
    if isinstance(names, (str, bytes)):
        raise TypeError(f"`clients` is {names!r}; expected a list of ids, such as [{names!r}].")
    ids = host_arrays.distinct("`clients`", host_arrays.as_ids("`clients`", names))
    if not ids.size:
        raise ValueError("`clients` is empty; expected the ids of at least one client, or None for all.")
    return Clients(tuple(ids.tolist()), None)


def nearest(name: Any, known: Iterable[Any], what: str) -> str:
    """The end of a message about a name that is not there: the nearest one, and some of those there are."""
    names = [str(k) for k in known]
    shown = ", ".join(repr(n) for n in names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    return f"{what}: {shown or 'none'}.{checks.did_you_mean(name, names)}"


def natural(text: str) -> tuple[Any, ...]:
    """A key to sort by, in which file_2 comes before file_10."""
    parts = re.split(r"(\d+)", text)
    return tuple((int(p), p) if i % 2 else (p, "") for i, p in enumerate(parts))


def check_found(chosen: Clients, found: Sequence[Any], source: str) -> None:
    """Refuses a list of clients of which some are not there, or fewer clients than were asked for."""
    if chosen.most is not None and len(found) < chosen.most:
        raise ValueError(f"num_clients={chosen.most}, but {source} has {len(found)} clients; ask for fewer.")
    if chosen.names is not None:
        here = set(found)
        missing = [name for name in chosen.names if name not in here]
        if missing:
            others = f" and {len(missing) - 1} more of those named" if len(missing) > 1 else ""
            raise ValueError(
                f"`clients` names {missing[0]!r}{others}, and there is no such client in {source}; write ids as they "
                "stand there."
            )


def _features(features: Any) -> Mapping[str, str] | None:
    if features is None:
        return None
    if isinstance(features, str) or not isinstance(features, (Mapping, Sequence)):
        raise TypeError(
            f"`features` is {checks.shown(features)}; expected a list of columns, or a dict from columns to own names, "
            "such as {'pixels': 'x', 'label': 'y'}."
        )
    pairs = features if isinstance(features, Mapping) else {column: column for column in _hashable(features)}
    for column, name in pairs.items():
        if not isinstance(column, str) or not isinstance(name, str):
            raise TypeError(
                f"`features` maps {column!r} to {name!r}; expected names of columns, and names to give them."
            )
    if not pairs:
        raise ValueError("`features` is empty; expected at least one column, or None for all.")
    own = list(pairs.values())
    twice = next((name for name in own if own.count(name) > 1), None)
    if twice is not None or len(pairs) != len(features):
        raise ValueError(f"`features` gives {own if twice is None else twice!r} twice; expected one column a name.")
    return dict(pairs)


def _hashable(features: Sequence[Any]) -> Sequence[Any]:
    for column in features:
        if not isinstance(column, str):
            raise TypeError(f"`features` holds {checks.shown(column)}; expected names of columns.")
    return features


def _mapping(name: str, given: Any, example: str) -> dict[str, Any]:
    if not isinstance(given, Mapping) or not all(isinstance(column, str) for column in given):
        raise TypeError(f"`{name}` is {checks.shown(given)}; expected a dict by column, such as {example}.")
    return dict(given)


def _shape(column: str, shape: Any) -> tuple[int, ...]:
    sizes = shape if isinstance(shape, (tuple, list)) else (shape,)
    if not all(isinstance(s, (int, np.integer)) and not isinstance(s, bool) and s >= 1 for s in sizes):
        raise TypeError(
            f"`shapes` has {checks.shown(shape)} for {column!r}; expected the shape of one row, ints of at least 1, "
            "such as (28, 28, 1), or () for a number."
        )
    return tuple(int(s) for s in sizes)
