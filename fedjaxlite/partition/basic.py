"""Partitions that do not look at labels: equal, of skewed sizes, or by what the data say."""

from collections.abc import Sequence

import numpy as np

from fedjaxlite import checks
from fedjaxlite.data import host_arrays
from fedjaxlite.partition import draws
from fedjaxlite.partition.partitioner import Features, Partitioner, check_enough

_QUANTITY_PARAMETERS = {"dirichlet": "alpha", "lognormal": "sigma", "power_law": "exponent"}
_QUANTITY_DEFAULTS = {"alpha": 0.5, "sigma": 1.0, "exponent": 1.0}


def iid(num_clients: int, *, sizes: Sequence[int] | np.ndarray | None = None, seed: int = 0) -> Partitioner:
    """Every client gets a uniformly random part.

    Flower's `IidPartitioner` cuts the data where they lie, into parts of sizes equal to within one: it is IID for data
    that were shuffled before, as its `FederatedDataset` does, and shards of classes for data sorted by class.

    Args:
      num_clients: N.
      sizes: `[N]` examples of each client, which must sum to n; None makes them equal to within one. With the sizes of
        a natural partition (`population.num_examples`) this is its unbalanced IID counterpart.
      seed: int of at least 0.

    Returns:
      A `Partitioner`.

    Raises:
      ValueError: `num_clients` below 1, sizes that do not fit; when applied, more clients than examples.

    Guarantees:
      Every example has exactly one owner. No client is empty, unless `sizes` says so.

    Example:
      >>> import numpy as np
      >>> import fedjaxlite as fl
      >>> np.bincount(fl.partition.iid(4)({"y": np.zeros(10, int)})).tolist()
      [3, 3, 2, 2]
    """
    num_clients = checks.positive_int(num_clients=num_clients)
    host_arrays.generator(seed)
    wanted = None if sizes is None else checks.as_array("sizes", sizes, f"{num_clients} ints of at least 0")
    if wanted is not None and (wanted.shape != (num_clients,) or wanted.dtype.kind not in "iu" or (wanted < 0).any()):
        raise ValueError(f"`sizes` is {wanted.dtype}{list(wanted.shape)}; expected {num_clients} ints of at least 0.")

    def assign(features: Features) -> np.ndarray:
        n = host_arrays.num_rows(features)
        if wanted is None:
            check_enough("iid", num_clients, 1, n)
        elif wanted.sum() != n:
            raise ValueError(f"`sizes` sums to {wanted.sum()}, but there are {n} examples; expected the same number.")
        return _shuffled(host_arrays.generator(seed), draws.even_sizes(n, num_clients) if wanted is None else wanted)

    params = {"num_clients": num_clients, "sizes": None if wanted is None else wanted.tolist(), "seed": seed}
    empty = wanted is not None and bool((wanted == 0).any())
    return Partitioner("iid", params, assign, num_clients, allow_empty=empty)


def quantity(
    num_clients: int,
    *,
    distribution: str = "dirichlet",
    alpha: float | None = None,
    sigma: float | None = None,
    exponent: float | None = None,
    min_size: int = 1,
    seed: int = 0,
) -> Partitioner:
    """Quantity skew: clients have the same label mix and very different amounts of data.

    Each client gets `min_size` examples; the rest is divided in proportion to

    - "dirichlet": a draw of Dirichlet(alpha) over the clients, alpha 0.5 where not given (Li et al. 2022);
    - "lognormal": exp(sigma * z) with z standard normal, sigma 1 where not given;
    - "power_law": (r + 1)^-exponent for the clients r = 0, 1, ... in random order, exponent 1 where not given.

    Args:
      num_clients: N.
      distribution: "dirichlet", "lognormal" or "power_law".
      alpha: concentration, above 0; only with "dirichlet".
      sigma: standard deviation of the logarithm, at least 0; only with "lognormal".
      exponent: at least 0 (0 is equal sizes); only with "power_law".
      min_size: int of at least 0; 0 allows empty clients.
      seed: int of at least 0.

    Returns:
      A `Partitioner`.

    Raises:
      ValueError: arguments out of range, or that belong to another distribution; when applied, too few examples.

    Guarantees:
      Every example has exactly one owner, and no client has fewer than `min_size`.

    Reference:
      Li, Diao, Chen, He (2022), Federated learning on non-IID data silos. https://arxiv.org/abs/2102.02079

    Example:
      >>> import numpy as np
      >>> import fedjaxlite as fl
      >>> partition = fl.partition.quantity(3, distribution="power_law", exponent=1.0)
      >>> sorted(np.bincount(partition({"y": np.zeros(113, int)})).tolist())
      [21, 31, 61]
    """
    num_clients = checks.positive_int(num_clients=num_clients)
    distribution = checks.one_of(tuple(_QUANTITY_PARAMETERS), distribution=distribution)
    check_min_size(min_size)
    host_arrays.generator(seed)
    own = _QUANTITY_PARAMETERS[distribution]
    given = {"alpha": alpha, "sigma": sigma, "exponent": exponent}
    for name, value in given.items():
        if name != own and value is not None:
            raise ValueError(f"`{name}` is {value!r}, but distribution {distribution!r} has only `{own}`; drop it.")
    asked = given[own]
    value = _QUANTITY_DEFAULTS[own] if asked is None else asked
    if own == "alpha":
        value = checks.concrete(alpha=checks.positive(alpha=value))
    else:
        value = checks.concrete(**{own: checks.nonnegative("", **{own: value})})
    if np.isinf(value):
        raise ValueError(f"`{own}` is {value}; expected a finite number.")

    def assign(features: Features) -> np.ndarray:
        n = host_arrays.num_rows(features)
        check_enough("quantity", num_clients, min_size, n)
        rng = host_arrays.generator(seed)
        if own == "alpha":
            shares = draws.dirichlet(rng, value, num_clients)
        elif own == "sigma":
            logs = np.clip(value * rng.standard_normal(num_clients), -1e300, 1e300)
            shares = np.exp(logs - logs.max())
        else:
            shares = rng.permutation((np.arange(num_clients) + 1.0) ** -value)
        return _shuffled(rng, min_size + draws.rounded(shares, n - num_clients * min_size))

    params = {"num_clients": num_clients, "distribution": distribution, own: value, "min_size": min_size, "seed": seed}
    return Partitioner("quantity", params, assign, num_clients, allow_empty=min_size == 0)


def by_key(key: str, *, keep: bool = False) -> Partitioner:
    """Natural clients: the examples that agree in one feature, such as the writer or the hospital.

    Clients are ordered by sorted key, and the Population's `names` are the keys.

    Args:
      key: name of a feature `[n]` of ints or strings.
      keep: keep the key as a feature of the clients (it must be a number then); it is dropped otherwise.

    Returns:
      A `Partitioner`; the data say how many clients there are.

    Raises:
      ValueError: when applied, there is no such feature, or it holds no keys.

    Example:
      >>> import fedjaxlite as fl
      >>> arrays = {"y": [1, 2, 3], "writer": ["bo", "al", "bo"]}
      >>> population = fl.datasets.federate(arrays, fl.partition.by_key("writer"))
      >>> population.names.tolist(), population.client(1)["y"].tolist()
      (['al', 'bo'], [1, 3])
    """
    keep = checks.flag(keep=keep)
    if not isinstance(key, str):
        raise TypeError(f"`key` is {key!r}; expected the name of a feature.")

    def keys(features: Features) -> np.ndarray:
        if key not in features:
            raise ValueError(f"`by_key` groups by feature {key!r}, but the features are {sorted(features)}.")
        return host_arrays.as_ids(f"feature {key!r}", features[key])

    return Partitioner(
        "by_key",
        {"key": key, "keep": keep},
        assign=lambda features: np.unique(keys(features), return_inverse=True)[1],
        client_names=lambda features: np.unique(keys(features)),
        drop=() if keep else (key,),
    )


def check_min_size(min_size: int) -> None:
    """Refuses anything but an int of at least 0."""
    checks.nonnegative_int("0 allows empty clients.", min_size=min_size)


def _shuffled(rng: np.random.Generator, sizes: np.ndarray) -> np.ndarray:
    return rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
