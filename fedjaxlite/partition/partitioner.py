"""The type of a partition, and its application to plain arrays."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fedjaxlite import checks
from fedjaxlite.data import host_arrays
from fedjaxlite.data.population import Population

Features = Mapping[str, Any]
LEFT_OUT = -1
"""The owner of an example that belongs to no client; only `dirichlet_fixed_size` leaves examples out."""


class Partitioner(NamedTuple):
    """Who owns which example: a pure function of the arrays, with what a record of the run needs to repeat it.

    Calling it gives int32 `[n]`, the owning client in `[0, N)` of each example (-1: left out). One's own partition is
    such an object, or just a function that returns owners.

    Attributes:
      name: the function that made it.
      params: its arguments; plain values, so they can be written down.
      assign: `assign(features) -> [n]` owners, from a dict of arrays `[n, ...]`.
      num_clients: N, or None where the data say it.
      transform: `transform(features, client, num_clients) -> features`, what a client's own arrays `[n_i, ...]`
        become (feature skew); None leaves them.
      client_names: `client_names(features) -> [N]` ids, or None for 0 to N - 1.
      drop: features that are only needed to assign, and that no client gets.
      allow_empty: whether a client may be left without examples.

    Example:
      >>> import fedjaxlite as fl
      >>> partition = fl.partition.iid(3, seed=0)
      >>> partition
      iid(num_clients=3, sizes=None, seed=0)
      >>> sorted(partition({"y": [5, 6, 7]}).tolist())
      [0, 1, 2]
    """

    name: str
    params: Mapping[str, Any]
    assign: Callable[[Features], np.ndarray]
    num_clients: int | None = None
    transform: Callable[[dict[str, Any], int, int], Mapping[str, Any]] | None = None
    client_names: Callable[[Features], np.ndarray] | None = None
    drop: tuple[str, ...] = ()
    allow_empty: bool = False

    def __call__(self, features: Features) -> np.ndarray:
        """The owner of every example.

        Args:
          features: dict of arrays `[n, ...]`.

        Returns:
          int32 `[n]`.
        """
        host_arrays.num_rows(features)
        return np.asarray(self.assign(features)).astype(np.int32)

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{k}={v!r}' for k, v in self.params.items())})"


def federate(
    arrays: Features,
    partition: Partitioner | Callable[[Features], Any],
    *,
    num_classes: int | None = None,
    check_finite: bool = True,
) -> Population:
    """Gives plain arrays to clients.

    Args:
      arrays: dict of arrays `[n, ...]`.
      partition: one of `fl.partition`, or a function from the arrays to `[n]` owners in `[0, N)`.
      num_classes: as in `Population.from_arrays`.
      check_finite: as in `Population.from_arrays`.

    Returns:
      A Population of N clients; client i is the partition's client i.

    Raises:
      TypeError: the partition cannot be called.
      ValueError: the partition does not fit the arrays, or gave owners that make no sense.

    Example:
      >>> import fedjaxlite as fl
      >>> fl.datasets.federate({"y": [0, 1, 2, 3]}, fl.partition.iid(2)).num_examples.tolist()
      [2, 2]
      >>> fl.datasets.federate({"y": [0, 1, 2, 3]}, lambda features: [0, 0, 0, 1]).num_examples.tolist()
      [3, 1]
    """
    if not callable(partition):
        raise TypeError(f"`partition` is {partition!r}; expected one of fl.partition, such as fl.partition.iid(100).")
    if not isinstance(partition, Partitioner):
        partition = Partitioner(getattr(partition, "__name__", "partition"), {}, partition)
    n = host_arrays.num_rows(arrays)
    owner = _checked(partition, _owners(partition, arrays), n)
    names = None if partition.client_names is None else np.asarray(partition.client_names(arrays))
    count = partition.num_clients or (len(names) if names is not None else int(owner.max(initial=-1)) + 1)
    kept = {name: array for name, array in arrays.items() if name not in partition.drop}
    if not kept:
        raise ValueError(f"{partition} uses up {sorted(arrays)}, and no feature is left; keep the key with keep=True.")
    if (owner == LEFT_OUT).any():
        chosen = owner != LEFT_OUT
        kept, owner = {name: np.asarray(array)[chosen] for name, array in kept.items()}, owner[chosen]
    population = Population.from_arrays(
        kept,
        owner,
        order=np.arange(max(count, 1)),
        num_classes=num_classes,
        check_finite=check_finite,
        allow_empty=partition.allow_empty,
    )
    if partition.transform is not None:
        population = _transformed(population, partition.transform, check_finite, partition.allow_empty)
    return population if names is None else population.renamed(names)


def class_codes(features: Features, label: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The classes `[C]` of a label feature, and each example's index among them `[n]`."""
    if not isinstance(label, str):
        raise TypeError(f"`label` is {checks.shown(label)}; expected the name of a feature.")
    if label not in features:
        raise ValueError(f"`{name}` splits by feature {label!r}, but the features are {sorted(features)}; pass label=.")
    labels = host_arrays.as_rows(label, features[label])
    if labels.ndim != 1:
        raise ValueError(f"`{name}` splits by feature {label!r} of shape {list(labels.shape)}; expected labels [n].")
    if labels.dtype.kind not in "iubUS":
        raise TypeError(f"`{name}` splits by feature {label!r} of dtype {labels.dtype}; expected classes, not numbers.")
    return np.unique(labels, return_inverse=True)


def check_enough(name: str, num_clients: int, min_size: int, n: int) -> None:
    """Refuses more clients than there are examples for."""
    if num_clients * min_size > n:
        each = "" if min_size == 1 else f" with at least {min_size} examples each"
        raise ValueError(
            f"`{name}` is asked for num_clients={num_clients}{each}, but there are {n} examples; ask for fewer clients."
        )


def _owners(partition: Partitioner, arrays: Features) -> np.ndarray:
    checks.is_function_of("features", partition=partition.assign)
    return checks.as_array(f"what `partition` {partition} gave", partition.assign(arrays), "ints [n]", marked=False)


def _checked(partition: Partitioner, owner: np.ndarray, n: int) -> np.ndarray:
    if owner.shape != (n,) or owner.dtype.kind not in "iu":
        raise ValueError(
            f"`partition` {partition} gave {owner.dtype}{list(owner.shape)} for {n} examples; expected ints [n]."
        )
    low, high = int(owner.min(initial=0)), int(owner.max(initial=0))
    if low < LEFT_OUT or (partition.num_clients is not None and high >= partition.num_clients):
        raise ValueError(f"{partition} gave owners from {low} to {high}; expected clients from 0 to N - 1, or -1.")
    if (owner == LEFT_OUT).all():
        raise ValueError(f"{partition} left out every example.")
    return owner


def _transformed(
    population: Population, transform: Callable[..., Mapping[str, Any]], check_finite: bool, allow_empty: bool
) -> Population:
    count = population.num_clients
    clients = []
    for i in range(count):
        before = population.client(i)
        after = transform(before, i, count)
        if host_arrays.num_rows(after) != host_arrays.num_rows(before):
            raise ValueError(
                f"the transform made {host_arrays.num_rows(after)} examples of client {i}'s "
                f"{host_arrays.num_rows(before)}; expected as many."
            )
        clients.append(after)
    return Population.from_clients(clients, names=population.names, check_finite=check_finite, allow_empty=allow_empty)
