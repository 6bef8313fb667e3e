"""From what the passes found to a population: owners, labels, inputs, further features, and rows that are left out."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedjaxlite.data import host_arrays
from fedjaxlite.data.population import Population, packed
from fedjaxlite.datasets.tables import kinds as kinds_
from fedjaxlite.datasets.tables import passes, refusals
from fedjaxlite.datasets.tables import words as words_
from fedjaxlite.datasets.tables.passes import Keys, Place
from fedjaxlite.datasets.tables.roles import INPUTS, LABEL, Roles
from fedjaxlite.datasets.tables.sources import Part

Told = Callable[[int], str]


class Owners(NamedTuple):
    """Whose each row is.

    Attributes:
      owner: int `[n]`.
      names: `[N]` strings or ints.
    """

    owner: np.ndarray
    names: np.ndarray


def owners_of(keys: Keys, roles: Roles, kinds: Mapping[str, str], parts: Sequence[Part], told: Told) -> Owners:
    """The client of each row, by a column or by its file."""
    if roles.client is None:
        names = np.asarray(_file_names([part.path for part in parts]), np.str_)
        order = np.argsort(names, kind="stable")
        place = np.empty(len(names), np.int64)
        place[order] = np.arange(len(names))
        return Owners(np.repeat(place, keys.rows), names[order])
    column = roles.client
    refusals.check_gaps("client", column, keys.missing(column), told, "Every row has to be somebody's.")
    if column in keys.coded:
        coded = keys.coded[column]
        return Owners(coded.codes, np.asarray(coded.words, np.str_))
    values, kind = keys.values[column], kinds[column]
    if kind == "date" or np.any(values != np.floor(values)):
        raise TypeError(f"client={column!r} holds {kinds_.say(kind)}; expected whole numbers or text.")
    names, owner = np.unique(values.astype(np.int64), return_inverse=True)
    return Owners(owner, names)


def _file_names(paths: Sequence[str]) -> list[str]:
    """Short names that tell files apart: without suffix; else the folders; else the paths."""
    suffixes = (".gz", ".bz2", ".zst", ".lz4", ".csv", ".tsv", ".data", ".txt", ".parquet", ".pq", ".arrow", ".feather")
    short = []
    for path in paths:
        name = Path(path).name
        while name.lower().endswith((*suffixes, ".ipc")):
            name = name.rpartition(".")[0]
        short.append(name)
    for names in (short, [Path(path).parent.name for path in paths]):
        if len(set(names)) == len(names):
            return names
    return list(paths)


class Label(NamedTuple):
    """What is predicted.

    Attributes:
      values: int32 classes or float32 `[n]`.
      missing: bool `[n]`.
      classes: their words; None for numbers.
    """

    values: np.ndarray
    missing: np.ndarray
    classes: tuple[Any, ...] | None


def label_of(keys: Keys, roles: Roles, kinds: Mapping[str, str], target: Any, classes: Any, told: Told) -> Label:
    """The label as classes or as numbers."""
    column = str(roles.label)
    coded, values, kind = keys.coded.get(column), keys.values.get(column), kinds[column]
    gaps = keys.missing(column)
    asked = "classes" if classes is not None else target
    if coded is None and values is not None and not words_.is_of_classes(kind, values, asked):
        numbers = values.astype(np.float32)
        if np.isinf(numbers).any():
            raise ValueError(f"label={column!r} is infinite as float32 at {told(int(np.argmax(np.isinf(numbers))))}.")
        return Label(numbers, gaps, None)
    if coded is None:
        coded = words_.of_numbers(np.asarray(values, np.float64), kind)
    else:
        words_.is_of_classes("text", None, asked)
    coded = words_.classes_of(coded, classes, f"label={column!r}", told)
    return Label(coded.codes, gaps, coded.words)


class Layout(NamedTuple):
    """How inputs lie in `x`.

    Attributes:
      places: by column.
      columns: the names of x's columns.
      categories: of each categorical input, its words.
    """

    places: Mapping[str, Place]
    columns: tuple[str, ...]
    categories: Mapping[str, tuple[Any, ...]]


def layout_of(keys: Keys, roles: Roles, kinds: Mapping[str, str], how: str, like: Any, told: Told) -> Layout:
    """Which columns of `x` each input takes."""
    places, columns, categories = {}, [], {}
    for column in roles.inputs:
        coded = keys.coded.get(column)
        if coded is None and column in keys.values:
            coded = words_.of_numbers(np.asarray(keys.values[column], np.float64), kinds[column])
        if coded is None:
            places[column] = Place(len(columns), 1)
            columns.append(column)
            continue
        coded = _given(coded, column, roles, like, told)
        categories[column] = coded.words
        names = [f"{column}={word}" for word in coded.words] if how == "one-hot" else [column]
        places[column] = Place(len(columns), len(names), coded.codes, one_hot=how == "one-hot")
        columns += names
    return Layout(places, tuple(columns), categories)


def _given(coded: words_.Coded, column: str, roles: Roles, like: Any, told: Told) -> words_.Coded:
    """A column in the codes that the user gives, or that an earlier table has; as it is, where there are none."""
    given = like.categories.get(column) if like is not None else roles.categorical.get(column)
    return coded if given is None else words_.recoded(coded, given, f"column {column!r}", told)


def features_of(
    keys: Keys, roles: Roles, kinds: Mapping[str, str], like: Any, told: Told
) -> tuple[dict[str, np.ndarray], dict[str, tuple[Any, ...]], np.ndarray]:
    """The features that keep a name of their own and the group, their words, and bool `[n]` where one has a gap."""
    arrays, words = {}, {}
    gaps = np.zeros(sum(keys.rows), bool)
    wanted = dict(roles.features)
    if roles.group is not None:
        wanted[roles.group] = roles.group
    for name, columns in wanted.items():
        own = []
        for column in [columns] if isinstance(columns, str) else columns:
            coded = keys.coded.get(column)
            if coded is None and (column in roles.categorical or column == roles.group):
                coded = words_.of_numbers(np.asarray(keys.values[column], np.float64), kinds[column])
            if coded is not None:
                if column != roles.group:  # whose groups are nobody else's
                    coded = _given(coded, column, roles, like, told)
                words[column] = coded.words
            own.append(_narrow(keys.values[column], kinds[column]) if coded is None else coded.codes)
            gaps |= keys.missing(column)
        arrays[name] = own[0] if isinstance(columns, str) else np.stack(own, axis=1)
    return arrays, words, gaps


def _narrow(values: np.ndarray, kind: str) -> np.ndarray:
    """Whole numbers as they are, all others as float32."""
    if kind == "bool" and not np.isnan(values).any():
        return values.astype(bool)
    return values if values.dtype.kind == "i" else values.astype(np.float32)


def in_order(keys: Keys, roles: Roles, owner: np.ndarray) -> np.ndarray:
    """The rows client by client, those of a client by time or as they came."""
    if roles.time is None:
        order = np.argsort(owner, kind="stable")
    else:
        times = keys.coded[roles.time].codes if roles.time in keys.coded else keys.values[roles.time]
        order = np.lexsort((times, owner))  # stable
    return order.astype(np.int32)  # a population holds no more


def gathered(
    features: Mapping[str, np.ndarray],
    owners: Owners,
    order: np.ndarray,
    x: np.ndarray | None,
    keep: np.ndarray | None,
    told: Told,
) -> Population:
    """The population of arrays in the table's order, and of `x` in the clients'; `keep` says which rows stay."""
    sizes = np.bincount(owners.owner, minlength=len(owners.names))
    rows = order
    if keep is not None:
        rows = order[keep[order]]
        sizes = np.bincount(owners.owner[rows], minlength=len(owners.names))
        if x is not None and len(rows) < len(order):
            x = host_arrays.take(x, np.flatnonzero(keep[order]))
    own = {name: array[rows] for name, array in features.items()}
    cast = host_arrays.as_features(own, where=lambda row: told(int(rows[row])), check_finite=False) if own else {}
    arrays = {**({} if x is None else {INPUTS: x}), **cast}
    if LABEL in arrays:  # behind the inputs, as everywhere
        arrays = {k: arrays[k] for k in sorted(arrays, key=lambda k: (k != INPUTS, k != LABEL))}
    if (sizes == 0).any():
        name = owners.names[int(np.argmin(sizes))].item()
        raise ValueError(
            f"client {name!r} has no row left that lacks no input and no label, and so have "
            f"{int((sizes == 0).sum())} of {len(sizes)} clients; leave the columns out that it lacks by "
            "drop=[...], or pass missing='keep'."
        )
    return packed(arrays, sizes, owners.names, allow_empty=False)


def rank_of(order: np.ndarray) -> np.ndarray:
    """Where each row of the table goes."""
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return rank


def told_by(parts: Sequence[Part], keys: Keys) -> Told:
    """What a row is called in messages."""
    return lambda row: passes.where_in(parts, keys.rows, row)
