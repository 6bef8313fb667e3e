"""Splits of a population: each client's own test examples, or clients that training never sees."""

from typing import Any

import numpy as np

from fedjaxlite import checks
from fedjaxlite.data import host_arrays
from fedjaxlite.data.population import Population, packed
from fedjaxlite.partition import within


def train_test_split(
    population: Population,
    *,
    test_fraction: float = 0.2,
    by: str = "random",
    label: str = "y",
    group: str | None = None,
    seed: int = 0,
) -> tuple[Population, Population]:
    """Splits every client's own examples into a training and a test part.

    A client with n >= 2 examples has round(test_fraction * n) test examples, but at least one, and at least one
    training example. A client with a single example keeps it for training: its test part is empty, and only then.

    With `group`, such as the recording that windows were cut from, all examples of one group at a client are on one
    side: a model is not tested on what lies beside its training examples. A client with two groups or more has at least
    one on each side; one with a single group keeps it for training.

    Args:
      population: N clients.
      test_fraction: in (0, 1).
      by: "random"; "stratified", so that each client's share of each label stays; or "time" for the last examples in
        stored order.
      label: for "stratified", name of a feature of whole numbers `[n]`.
      group: name of a feature of whole numbers `[n]`, or None. Numbers are a client's own: the group 3 of two clients
        is two groups.
      seed: int of at least 0, for "random" and "stratified".

    Returns:
      Two Populations of the same N clients in the same order, examples in stored order.

    Raises:
      TypeError, ValueError: arguments out of range; a feature that is not there, or no whole numbers; "time" where a
        client's groups lie in one another.

    Guarantees:
      Every example is in exactly one of the two, and no group in both. Without groups, "stratified" has of each of a
      client's labels the number of test examples that is its share, rounded up or down: what is left over goes to the
      largest remainders, of equal ones to the more frequent label, of those too to chance. With groups and by "random",
      a client's test part is off its size by at most half of its largest group, unless it has one group only there; by
      "stratified", of eight orders of its groups the one that comes nearest to the labels' shares is taken.

    Example:
      >>> import numpy as np
      >>> import fedjaxlite as fl
      >>> population = fl.Population.from_arrays({"y": np.arange(11)}, client_ids=[0] * 10 + [1])
      >>> train, test = fl.partition.train_test_split(population, test_fraction=0.2, by="time")
      >>> test.client(0)["y"].tolist(), train.client(1)["y"].tolist(), test.num_examples.tolist()
      ([8, 9], [10], [2, 0])
    """
    check_population(population)
    test_fraction = _fraction_of("test_fraction", test_fraction)
    by = checks.one_of(("random", "stratified", "time"), by=by)
    rng = host_arrays.generator(seed)
    offsets = np.asarray(population.offsets, np.int64)
    sizes = np.diff(offsets)
    held = np.clip(np.floor(sizes * test_fraction + 0.5), 1, sizes - 1).clip(0).astype(np.int64)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    labels = within.feature_of(population, "label", label) if by == "stratified" else None
    if group is not None:
        pieces = within.pieces_of(owner, within.feature_of(population, "group", group), labels)
        if by == "time":
            _check_in_a_row(population, group, pieces, owner)
        in_test = within.grouped(pieces, held, rng, last=by == "time")[pieces.of_row]
    elif labels is not None:
        in_test = within.stratified(owner, labels, held, rng)
    else:
        n = len(owner)
        order = np.lexsort((rng.random(n), owner)) if by == "random" else np.arange(n)
        in_test = np.empty(n, bool)
        in_test[order] = np.arange(n) - offsets[owner] >= (sizes - held)[owner]
    return rows_of(population, np.flatnonzero(~in_test), owner), rows_of(population, np.flatnonzero(in_test), owner)


def holdout_clients(
    population: Population, *, fraction: float, stratify: str | None = None, label: str = "y", seed: int = 0
) -> tuple[Population, Population]:
    """Sets whole clients aside, to see how a model does for clients that never trained.

    Args:
      population: N clients, at least 2.
      fraction: in (0, 1), how many are set aside: round(fraction * N), but at least one, and not all.
      stratify: None; "size" to set aside small and large clients alike; or "label", clients with all kinds of labels.
      label: for the latter, name of a feature `[n]`.
      seed: int of at least 0.

    Returns:
      `(train_clients, unseen_clients)`, two Populations that share no client; each in the order of `population`.

    Raises:
      TypeError, ValueError: arguments out of range, a single client, or no such feature.

    Guarantees:
      With `stratify`, clients stand in a row by their number of examples, or by their most frequent label and its share
      (numbers that are not whole: by their mean); the row is cut into as many runs as clients are set aside, of equal
      length to within one, and one of each run is.

    Reference:
      Yuan, Morningstar, Ning, Singhal (2022), What do we mean by generalization in federated learning?
      https://arxiv.org/abs/2110.14216

    Example:
      >>> import fedjaxlite as fl
      >>> population = fl.Population.from_arrays({"y": range(10)}, client_ids=range(10))
      >>> train, unseen = fl.partition.holdout_clients(population, fraction=0.3)
      >>> train.num_clients, unseen.num_clients
      (7, 3)
    """
    check_population(population)
    fraction = _fraction_of("fraction", fraction)
    stratify = checks.one_of((None, "size", "label"), stratify=stratify)
    total = population.num_clients
    if total < 2:
        raise ValueError(f"the population has {total} client; expected at least 2, one of them to be set aside.")
    count = int(np.clip(np.floor(total * fraction + 0.5), 1, total - 1))
    rng = host_arrays.generator(seed)
    unseen = np.zeros(total, bool)
    if stratify is None:
        unseen[rng.permutation(total)[:count]] = True
    else:
        row = in_a_row(population, stratify, label, rng)
        starts = np.arange(count + 1) * total // count
        unseen[row[starts[:-1] + (rng.random(count) * np.diff(starts)).astype(np.int64)]] = True
    return population.select(np.flatnonzero(~unseen)), population.select(np.flatnonzero(unseen))


def in_a_row(population: Population, stratify: str, label: str, rng: np.random.Generator) -> np.ndarray:
    """The clients so that neighbors are alike in size or in labels; ties by chance. For modules of this library."""
    sizes = np.diff(np.asarray(population.offsets, np.int64))
    chance = rng.random(len(sizes))
    if stratify == "size":
        return np.lexsort((chance, sizes))
    owner = np.repeat(np.arange(len(sizes)), sizes)
    given = population.features.get(label) if isinstance(label, str) else None
    if getattr(given, "ndim", 0) == 1 and np.asarray(given).dtype.kind == "f":
        sums = np.bincount(owner, weights=np.asarray(given, np.float64), minlength=len(sizes))
        return np.lexsort((chance, sums / np.maximum(sizes, 1)))
    codes = within.feature_of(population, "label", label)
    num_labels = int(codes.max(initial=0)) + 1
    pairs, counts = np.unique(owner * num_labels + codes, return_counts=True)
    order = np.lexsort((pairs, counts, pairs // num_labels))  # a client's most frequent label comes last
    most, share = np.full(len(sizes), -1), np.zeros(len(sizes))
    clients = pairs[order] // num_labels
    most[clients], share[clients] = pairs[order] % num_labels, counts[order] / sizes[clients]
    return np.lexsort((chance, share, most))


def check_population(population: Any) -> None:
    """Refuses what is no population on the host; for modules of this library."""
    checks.one_instance(Population, "a Population", population=population)
    if checks.is_traced(population.offsets):
        raise TypeError("`population` is traced; expected a Population on the host. Split outside of jit.")


def _check_in_a_row(population: Population, group: str, pieces: within.Pieces, owner: np.ndarray) -> None:
    change = np.flatnonzero(np.diff(pieces.of_row) != 0) + 1
    runs = pieces.of_row[np.r_[0, change]] if len(owner) else np.zeros(0, np.int64)
    found, counts = np.unique(runs, return_counts=True)
    if (counts > 1).any():
        client = int(pieces.owner[found[counts > 1][0]])
        name = "" if population.names is None else f" ({population.names[client].item()!r})"
        raise ValueError(
            f"by='time' takes the last groups, and of client {client}{name} the groups of {group!r} lie in one "
            "another; expected each group's examples in a row. Sort them, or split by='random'."
        )


def _fraction_of(name: str, value: Any) -> float:
    checks.fraction("", **{name: value})
    return float(checks.concrete(**{name: checks.positive("", **{name: value})}))


def rows_of(population: Population, rows: np.ndarray, owner: np.ndarray) -> Population:
    """The population of some examples, in stored order; for modules of this library."""
    features = {name: host_arrays.take(array, rows) for name, array in population.features.items()}
    sizes = np.bincount(owner[rows], minlength=population.num_clients)
    return packed(features, sizes, population.names, allow_empty=True)
