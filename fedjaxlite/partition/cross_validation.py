"""k-fold cross-validation: of each client's own examples, or of clients."""

import numpy as np

from fedjaxlite import checks
from fedjaxlite.data import host_arrays
from fedjaxlite.data.population import Population
from fedjaxlite.partition import split, within


def folds(
    population: Population,
    k: int,
    *,
    by: str = "random",
    label: str = "y",
    group: str | None = None,
    seed: int = 0,
) -> list[tuple[Population, Population]]:
    """Splits k times, so that every example, or every client, is in the test part once.

    Args:
      population: N clients.
      k: the number of folds, at least 2.
      by: "random" or "stratified" splits each client's own examples, as `train_test_split` does; "clients" sets whole
        clients aside, as `holdout_clients` does.
      label: for "stratified", name of a feature of whole numbers `[n]`.
      group: name of a feature of whole numbers `[n]` whose examples stay together at each client, or None.
      seed: int of at least 0.

    Returns:
      k pairs `(train, test)`. Within clients, all of them have the same N clients, of which one with fewer than k
      examples (or groups) has no test examples in some folds; one with a single example trains in k - 1 folds and is
      tested in the other.

    Raises:
      TypeError, ValueError: arguments out of range; a feature that is not there, or no whole numbers; fewer than k
        clients to set aside.

    Guarantees:
      Test parts share no example, and together are all; no group is cut. Without groups, a client's test parts differ
      in size by at most one, by "stratified" also in each of its labels. With groups, the largest come first, each to
      the fold that has least of what it holds. By "clients", folds differ by at most one client.

    Example:
      >>> import fedjaxlite as fl
      >>> population = fl.Population.from_arrays({"y": range(7)}, client_ids=[0, 0, 0, 0, 1, 1, 1])
      >>> [test.num_examples.sum() for train, test in fl.partition.folds(population, 3, by="clients")]
      Traceback (most recent call last):
        ...
      ValueError: `k` is 3, and the population has 2 clients; expected at most as many folds as clients.
      >>> sorted(sum((test.features["y"].tolist() for train, test in fl.partition.folds(population, 3)), []))
      [0, 1, 2, 3, 4, 5, 6]
    """
    split.check_population(population)
    k = checks.positive_int(k=k)
    if k < 2:
        raise ValueError(f"`k` is {k}; expected at least 2 folds.")
    by = checks.one_of(("random", "stratified", "clients"), by=by)
    rng = host_arrays.generator(seed)
    total = population.num_clients
    if by == "clients":
        if group is not None:
            raise ValueError(f"`group` is {group!r}, and by='clients' cuts no client; leave `group` out.")
        if total < k:
            raise ValueError(
                f"`k` is {k}, and the population has {total} clients; expected at most as many folds as clients."
            )
        fold = rng.permutation(total) % k
        return [
            (population.select(np.flatnonzero(fold != i)), population.select(np.flatnonzero(fold == i)))
            for i in range(k)
        ]
    owner = np.repeat(np.arange(total), np.diff(np.asarray(population.offsets, np.int64)))
    labels = within.feature_of(population, "label", label) if by == "stratified" else None
    if group is None:
        fold = within.dealt(owner, labels, k, rng)
    else:
        pieces = within.pieces_of(owner, within.feature_of(population, "group", group), labels)
        fold = within.dealt_groups(pieces, total, k, rng)[pieces.of_row]
    rows = lambda chosen: split.rows_of(population, np.flatnonzero(chosen), owner)  # noqa: E731
    return [(rows(fold != i), rows(fold == i)) for i in range(k)]
