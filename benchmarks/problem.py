"""What a workload is: one federated round and the raw-JAX losses that its limits train on."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import fedjaxlite as fl

PyTree = Any


class Problem(NamedTuple):
    """A workload at one size, as data.

    Attributes:
      algorithm: an `fl.Algorithm`.
      sampler: an `fl.Sampler`; every round it draws must take the same number of local steps.
      params: the model that ours starts from.
      population: the clients.
      rows: int32 `[S, B]`, the S batches of one round as rows of the packed features: what the limits train on.
      limit_params: `params` in the form that the limits' losses take.
      plain_loss: `loss(params, batch, key) -> scalar` as one writes it first, of `limits/`.
      fast_loss: the same function written for speed.
      learning_rate: of the local SGD.
      lanes: what to try for `fl.Execution(lanes=)`, and for the models that the faster limit trains side by side.
      companions: further populations that the same round is timed on, by what they show.
    """

    algorithm: Any
    sampler: Any
    params: PyTree
    population: Any
    rows: np.ndarray
    limit_params: PyTree
    plain_loss: Callable[..., Any]
    fast_loss: Callable[..., Any]
    learning_rate: float
    lanes: Sequence[int]
    companions: Mapping[str, Any] = {}

    @property
    def num_steps(self) -> int:
        """S, the SGD steps of one round, over all of its clients."""
        return self.rows.shape[0]


class Workload(NamedTuple):
    """A workload by name.

    Attributes:
      name: short, "w1".
      title: a line for tables.
      build: `build(size) -> Problem`, size being "full", "small" or "tiny" (seconds, for tests).
    """

    name: str
    title: str
    build: Callable[[str], Problem]


def packed(features: Mapping[str, np.ndarray], sizes: np.ndarray) -> Any:
    """A Population of clients of the given sizes over arrays that are not copied."""
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    return fl.Population(dict(features), offsets, int(np.max(sizes)))


def batches(offsets: np.ndarray, clients: Sequence[int] | np.ndarray, batch_size: int, seed: int = 0) -> np.ndarray:
    """The batches of one epoch of every client, as the limits take them.

    Args:
      offsets: int32 `[N + 1]`, of the population.
      clients: who takes part.
      batch_size: B.
      seed: of the order of each client's examples.

    Returns:
      int32 `[S, B]`. A client's last batch is filled up with its first examples, as it is in a round.
    """
    rng = np.random.default_rng(seed)
    parts = []
    for client in clients:
        first, size = int(offsets[client]), int(offsets[client + 1] - offsets[client])
        order = rng.permutation(size)
        parts.append(first + np.resize(order, (-(-size // batch_size), batch_size)))
    return np.concatenate(parts).astype(np.int32)


def images(count: int, shape: tuple[int, ...], num_classes: int = 10, seed: int = 0) -> dict[str, np.ndarray]:
    """Random images in [0, 1) and random labels: `x` float32 `[count, *shape]`, `y` int32 `[count]`."""
    rng = np.random.default_rng(seed)
    return {
        "x": rng.random((count, *shape), np.float32),
        "y": rng.integers(0, num_classes, count, np.int32),
    }


def dense_layers(params: Mapping[str, Any], prefix: str = "dense_") -> list[tuple[Any, Any]]:
    """The (kernel, bias) of `dense_0`, `dense_1` ... of one of the library's models, as the limits take them."""
    count = sum(name.startswith(prefix) for name in params)
    return [(params[f"{prefix}{i}"]["kernel"], params[f"{prefix}{i}"]["bias"]) for i in range(count)]
