"""A table as a population: from parts whose columns have their roles to what the user gets."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedjaxlite.data import host_arrays
from fedjaxlite.data.population import Population
from fedjaxlite.datasets.tables import assembly, csv_files, passes, refusals, sources
from fedjaxlite.datasets.tables.roles import INPUTS, LABEL, MISSING, Roles


class Table(NamedTuple):
    """A table as a population, with what its columns were called.

    Attributes:
      population: all clients, named as in the table; features "x" float32 `[n, d]`, "y", and those that were kept.
      train: of these what is for training; the population itself where no test part was asked for.
      test: the test part, or None.
      columns: the names of x's d columns; those of a one-hot category are "column=word".
      categories: for each column that was coded, its words; the code of a word is its place.
      classes: the words of the label's classes, class 0 first; None for numbers.
      missing: for each input with missing values, how many it has.
      dropped: the number of rows that were left out.
    """

    population: Population
    train: Population
    test: Population | None
    columns: tuple[str, ...]
    categories: Mapping[str, tuple[Any, ...]]
    classes: tuple[Any, ...] | None
    missing: Mapping[str, int]
    dropped: int

    def __repr__(self) -> str:
        """Short: counts and names, never values."""
        shown = ", ".join(self.columns[:8]) + (" ..." if len(self.columns) > 8 else "")
        of = "" if self.classes is None else f"; classes {', '.join(map(str, self.classes[:8]))}"
        gaps = "".join(f", {name} {count}" for name, count in self.missing.items())
        left = f"; {self.dropped} rows left out" if self.dropped else ""
        gaps = f"; missing {gaps.removeprefix(', ')}" if gaps else ""
        return f"Table({self.population!r}; {len(self.columns)} columns {shown}{of}{gaps}{left})"


class Wish(NamedTuple):
    """What is to become of what the columns hold; the arguments of `from_table` of the same names."""

    missing: str
    unlabeled: str
    keep_mask: bool
    categories: str
    max_categories: int
    dates: str
    target: str | None
    classes: Any
    like: Table | None
    missing_words: tuple[str, ...]


def read_until_it_fits(parts: Sequence[sources.Part], roles: Roles, kinds: dict[str, str], wish: Wish) -> Table:
    """Reads by the kinds that the files' first blocks have; once more where a later row shows that one is wider."""
    for column in roles.inputs:
        if kinds[column] == "int":
            kinds = {**kinds, column: "float"}  # what becomes float32 anyway; 2.5 further down is no other kind
    while True:
        refusals.check_kinds(kinds, roles, wish.dates)
        try:
            return _read(parts, roles, kinds, wish)
        except csv_files.UnlikeKind as odd:
            kinds = refusals.widened(kinds, roles, odd)


def _read(parts: Sequence[sources.Part], roles: Roles, kinds: Mapping[str, str], wish: Wish) -> Table:
    keys = _read_keys(parts, roles, kinds, wish)
    told = assembly.told_by(parts, keys)
    owners = assembly.owners_of(keys, roles, kinds, parts, told)
    arrays, coded, gaps = assembly.features_of(keys, roles, kinds, wish.like, told)
    label, unlabeled = None, None
    if roles.label is not None:
        label = assembly.label_of(keys, roles, kinds, wish.target, wish.classes, told)
        unlabeled = _unlabeled(label, roles.label, wish.unlabeled, told)
        arrays[LABEL] = label.values
    layout = assembly.layout_of(keys, roles, kinds, wish.categories, wish.like, told)
    refusals.check_like(layout.columns, wish.like)
    if not layout.columns and not arrays:
        raise ValueError("no column is left for the population; expected an input, a label or a feature.")
    order = assembly.in_order(keys, roles, owners.owner)
    inputs = passes.read_inputs(parts, layout.places, kinds, assembly.rank_of(order), len(layout.columns))
    whose = lambda row: repr(owners.names[owners.owner[row]].item())  # noqa: E731
    refusals.check_finite(inputs.beyond, told, whose)
    if wish.missing == "refuse":
        refusals.check_missing(inputs.missing, len(order), told, whose)
        refusals.check_features(gaps, told)
    keep = _kept(inputs.x, order, gaps, unlabeled, wish)
    population = assembly.gathered(arrays, owners, order, inputs.x if layout.columns else None, keep, told)
    if wish.keep_mask and layout.columns:
        population = _with_mask(population)
    return Table(
        population,
        population,
        None,
        layout.columns,
        {**coded, **layout.categories},
        None if label is None else label.classes,
        {column: count for column, (count, _) in inputs.missing.items()},
        0 if keep is None else int((~keep).sum()),
    )


def _read_keys(parts: Sequence[sources.Part], roles: Roles, kinds: Mapping[str, str], wish: Wish) -> passes.Keys:
    """The first pass, over all columns but the inputs that are numbers."""
    known = {} if wish.like is None else wish.like.categories
    single = [column for column in (roles.client, roles.label, roles.group, roles.time) if column is not None]
    words = [column for column in roles.inputs if kinds[column] == "text" or {column} & {*roles.categorical, *known}]
    columns = list(dict.fromkeys([*single, *roles.kept(), *words]))
    keys = passes.read_keys(parts, columns, kinds, wish.missing_words)
    told = assembly.told_by(parts, keys)
    if not 0 < sum(keys.rows) <= host_arrays.MAX_EXAMPLES:
        raise ValueError(f"the table has {sum(keys.rows) or 'no'} rows; expected at least one, at most 2**31 - 1.")
    refusals.check_words(keys, roles, wish.max_categories, told)
    for argument, column in (("group", roles.group), ("time", roles.time)):
        if column is not None:
            refusals.check_gaps(argument, column, keys.missing(column), told, "Every row needs one.")
    return keys


def _unlabeled(label: assembly.Label, column: str, what: str, told: assembly.Told) -> np.ndarray | None:
    """The rows to leave out, since they have no label; None where none are."""
    if not label.missing.any() or (what == "keep" and label.classes is None):
        return None
    if what == "drop":
        return label.missing
    remedy = "Pass unlabeled='drop' to leave such rows out."
    if what == "keep":
        remedy = f"Classes have no number for that, so unlabeled='keep' is for labels that are numbers. {remedy}"
    refusals.check_gaps("label", column, label.missing, told, remedy)
    return None


def _kept(
    x: np.ndarray, order: np.ndarray, gaps: np.ndarray, unlabeled: np.ndarray | None, wish: Wish
) -> np.ndarray | None:
    """Bool `[n]` in the table's order, the rows that stay; None where all do."""
    left = np.zeros(len(order), bool) if unlabeled is None else unlabeled.copy()
    if wish.missing == "drop":
        left |= gaps
        left[order] |= np.isnan(x).any(axis=1)
    return ~left if left.any() else None


def _with_mask(population: Population) -> Population:
    """The population with bool `[n, d]` of where x has nothing."""
    mask = np.isnan(population.features[INPUTS])
    features = {**population.features, MISSING: host_arrays.frozen(mask)}
    return Population(features, population.offsets, population.max_size, population.names)
