"""What a workload is: one federated round and the raw-JAX losses that its limits train on."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.data import population

PyTree = Any


class Written(NamedTuple):
    """The model of a workload as a user writes it, with none of the library's layers.

    Attributes:
      loss_fn: what clients train on.
      params: the model that a run starts from.
      to_limit: as that of the `Problem`, for these params.
    """

    loss_fn: Callable[..., Any]
    params: PyTree
    to_limit: Callable[[PyTree], PyTree]


class Problem(NamedTuple):
    """A workload at one size: federated averaging with plain SGD, one local epoch.

    Attributes:
      loss_fn: what clients train on, a loss of the library.
      params: the model that a run starts from.
      population: the clients.
      sampler: an `fl.Sampler`; every round that it draws must take the same number of local steps.
      rows: int32 `[S, B]`, the S batches of one round as rows of the packed features: what the limits train on.
      to_limit: maps params of ours (or gradients) to the form that the losses of `limits/` take.
      plain_loss: `loss(params, batch, key) -> scalar` as one writes it first, of `limits/`.
      fast_loss: the same function written for speed.
      learning_rate: of the local SGD.
      lanes: what to try for `fl.Execution(lanes=)`, and for the models that the faster limit trains side by side.
      companions: further populations that the same round is timed on, by what they are.
      written: the same model as users write it, by how; the same round is timed on each.
    """

    loss_fn: Callable[..., Any]
    params: PyTree
    population: fl.Population
    sampler: fl.Sampler
    rows: np.ndarray
    to_limit: Callable[[PyTree], PyTree]
    plain_loss: Callable[..., Any]
    fast_loss: Callable[..., Any]
    learning_rate: float
    lanes: Sequence[int] = (1, 2, 4)
    companions: Mapping[str, fl.Population] = {}
    written: Mapping[str, Written] = {}

    @property
    def num_steps(self) -> int:
        """S, the SGD steps of one round, over all of its clients."""
        return self.rows.shape[0]

    @property
    def batch_size(self) -> int:
        """B."""
        return self.rows.shape[1]

    @property
    def algorithm(self) -> fl.Algorithm:
        """Federated averaging as the limits train: plain SGD, one epoch, a new order of the examples in every round."""
        optimizer = optax.sgd(self.learning_rate)
        return algorithms.fed_avg(self.loss_fn, client_optimizer=optimizer, batch_size=self.batch_size, epochs=1)


class Workload(NamedTuple):
    """A workload by name.

    Attributes:
      name: short, "w1".
      title: a few words for tables; how many clients there are depends on the size.
      build: `build(size) -> Problem`, size being "full", "small" or "tiny" (seconds, for tests).
    """

    name: str
    title: str
    build: Callable[[str], Problem]


def packed(features: Mapping[str, np.ndarray], sizes: np.ndarray) -> fl.Population:
    """A Population of clients of the given sizes, whose rows lie in client order."""
    return population.packed(dict(features), np.asarray(sizes), None, allow_empty=False)


def batches(offsets: np.ndarray, clients: Sequence[int] | np.ndarray, batch_size: int, seed: int = 0) -> np.ndarray:
    """The batches of one epoch of every client, as the limits take them.

    Args:
      offsets: int32 `[N + 1]`, of the population.
      clients: who takes part.
      batch_size: B.
      seed: of the order of each client's examples.

    Returns:
      int32 `[S, B]`. A client's last batch is filled up with its first examples, which count: a
      round takes as many steps on as many rows, and masks those.
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


def weights(model: Any, seed: int = 0) -> PyTree:
    """Random parameters for a model, drawn on the host: its own initialization would be one more program to compile.

    Kernels are normal with variance 1 / inputs, so that what a model computes stays of ordinary size; biases are zero.
    """
    rng = np.random.default_rng(seed)

    def draw(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if leaf.ndim < 2:
            return np.zeros(leaf.shape, np.float32)
        return rng.standard_normal(leaf.shape, np.float32) * np.float32(math.prod(leaf.shape[:-1]) ** -0.5)

    return jax.tree.map(draw, jax.eval_shape(model.init, jax.random.key(0)))


def dense_layers(params: Mapping[str, Any], prefix: str = "dense_") -> list[tuple[Any, Any]]:
    """The (kernel, bias) of `dense_0`, `dense_1` ... of one of the library's models, as the limits take them."""
    count = sum(name.startswith(prefix) for name in params)
    return [(params[f"{prefix}{i}"]["kernel"], params[f"{prefix}{i}"]["bias"]) for i in range(count)]
