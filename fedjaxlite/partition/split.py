"""Splits of a population: each client's own test examples, or clients that training never sees."""

from typing import Any

import numpy as np

from fedjaxlite import checks
from fedjaxlite.data import host_arrays
from fedjaxlite.data.population import Population, packed


def train_test_split(
    population: Population, *, test_fraction: float = 0.2, by: str = "random", seed: int = 0
) -> tuple[Population, Population]:
    """Splits every client's own examples into a training and a test part.

    A client with n >= 2 examples has round(test_fraction * n) test examples, but at least one, and at least one
    training example. A client with a single example keeps it for training: its test part is empty, and only then.

    Args:
      population: N clients.
      test_fraction: in (0, 1).
      by: "random", or "time" for the last examples in stored order.
      seed: int of at least 0, for "random".

    Returns:
      Two Populations of the same N clients in the same order, examples in stored order.

    Raises:
      ValueError: arguments out of range.

    Guarantees:
      Every example is in exactly one of the two.

    Example:
      >>> import numpy as np
      >>> import fedjaxlite as fl
      >>> population = fl.Population.from_arrays({"y": np.arange(11)}, client_ids=[0] * 10 + [1])
      >>> train, test = fl.partition.train_test_split(population, test_fraction=0.2, by="time")
      >>> test.client(0)["y"].tolist(), train.client(1)["y"].tolist(), test.num_examples.tolist()
      ([8, 9], [10], [2, 0])
    """
    _check_population(population)
    test_fraction = _fraction_of("test_fraction", test_fraction)
    by = checks.one_of(("random", "time"), by=by)
    rng = host_arrays.generator(seed)
    offsets = np.asarray(population.offsets, np.int64)
    sizes = np.diff(offsets)
    held = np.clip(np.floor(sizes * test_fraction + 0.5), 1, sizes - 1).clip(0).astype(np.int64)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    n = len(owner)
    order = np.lexsort((rng.random(n), owner)) if by == "random" else np.arange(n)
    in_test = np.empty(n, bool)
    in_test[order] = np.arange(n) - offsets[owner] >= (sizes - held)[owner]
    return _rows(population, ~in_test, sizes - held), _rows(population, in_test, held)


def holdout_clients(population: Population, *, fraction: float, seed: int = 0) -> tuple[Population, Population]:
    """Sets whole clients aside, to see how a model does for clients that never trained.

    Args:
      population: N clients, at least 2.
      fraction: in (0, 1), how many are set aside: round(fraction * N), but at least one, and not all.
      seed: int of at least 0.

    Returns:
      `(train_clients, unseen_clients)`, two Populations that share no client; each in the order of `population`.

    Raises:
      ValueError: arguments out of range, or a single client.

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
    _check_population(population)
    fraction = _fraction_of("fraction", fraction)
    total = population.num_clients
    if total < 2:
        raise ValueError(f"the population has {total} client; expected at least 2, one of them to be set aside.")
    count = int(np.clip(np.floor(total * fraction + 0.5), 1, total - 1))
    unseen = np.zeros(total, bool)
    unseen[host_arrays.generator(seed).permutation(total)[:count]] = True
    return population.select(np.flatnonzero(~unseen)), population.select(np.flatnonzero(unseen))


def _check_population(population: Any) -> None:
    checks.one_instance(Population, "a Population", population=population)
    if checks.is_traced(population.offsets):
        raise TypeError("`population` is traced; expected a Population on the host. Split outside of jit.")


def _fraction_of(name: str, value: Any) -> float:
    checks.fraction("", **{name: value})
    return float(checks.concrete(**{name: checks.positive("", **{name: value})}))


def _rows(population: Population, chosen: np.ndarray, sizes: np.ndarray) -> Population:
    rows = np.flatnonzero(chosen)
    features = {name: host_arrays.take(array, rows) for name, array in population.features.items()}
    return packed(features, sizes, population.names, allow_empty=True)
