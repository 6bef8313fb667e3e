"""What the servers of `reddi2021` train: invented questions with tags, images, and text."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fedjaxlite as fl
from fedjaxlite.reproduce.papers import reddi2021_tags as tags


class Task(NamedTuple):
    """A task, and the grids that rates are searched on.

    Attributes:
      model: what is trained.
      loss_fn: its loss.
      train: the clients, ten of which take part in a round with one local epoch.
      scores: `scores(params) -> {"validation", "test"}`, float32 scalars in [0, 1]; rates are chosen by the first.
      batch_size: B.
      num_rounds: T.
      client_lrs: to search, in steps of the root of 10 as in the paper.
      server_lrs: likewise, by kind of server.
    """

    model: fl.models.Model
    loss_fn: Callable[..., Any]
    train: fl.Population
    scores: Callable[[Any], dict[str, jax.Array]]
    batch_size: int
    num_rounds: int
    client_lrs: tuple[float, ...]
    server_lrs: Mapping[str, tuple[float, ...]]


def powers(*exponents: float) -> tuple[float, ...]:
    """Powers of ten, to three digits."""
    return tuple(float(f"{10.0**exponent:.3g}") for exponent in exponents)


def questions(smoke: bool, data_dir: Path | None = None) -> Task:
    """Logistic regression on words: the twin of Stack Overflow tag prediction, scored by recall at 5."""
    del data_dir
    sizes = tags.Sizes(60, 8, 12, 6, 10, 3) if smoke else tags.Sizes()
    train = tags.questions(sizes, sizes.num_clients, 0)
    held = {name: tags.questions(sizes, 25, seed).features for seed, name in ((1, "validation"), (2, "test"))}
    model = tags.model(sizes)
    mean_loss = fl.losses.binary_cross_entropy(model)

    def loss_fn(params: Any, batch: Any, key: Any) -> Any:
        # The sum over tags, as in the paper's code: rates are as large as there.
        losses, aux = mean_loss(params, {**batch, "y": batch["y"].astype(jnp.float32)}, key)
        return losses * sizes.num_tags, aux

    def scores(params: Any) -> dict[str, jax.Array]:
        of = lambda data: tags.recall_at_5(model.apply(params, jnp.asarray(data["x"])), jnp.asarray(data["y"]))  # noqa: E731
        return {name: of(data) for name, data in held.items()}

    servers = {"sgd": powers(-0.5, 0, 0.5), "momentum": powers(-0.5, 0, 0.5), "adaptive": powers(0, 0.5, 1)}
    return Task(model, loss_fn, train, scores, 20, 200, powers(0, 0.5, 1, 1.5), servers)


def images(smoke: bool, data_dir: Path | None = None) -> Task:
    """One hidden layer on unlike clients: the twin of EMNIST character recognition, scored by accuracy."""
    if smoke:
        train, test = fl.datasets.load("digits", partition=fl.partition.dirichlet(20, alpha=0.3, seed=0))
        model = fl.models.mlp(features=(4, 10), input_shape=(8, 8, 1))
    else:
        split = fl.partition.dirichlet(1000, alpha=0.3, seed=0)
        train, test = fl.datasets.load("mnist", partition=split, data_dir=data_dir)
        model = fl.models.mlp(features=(100, 10), input_shape=(28, 28, 1))
    of = _halves({name: np.asarray(rows) for name, rows in test.items()})
    metrics = {name: fl.evaluate(model, data) for name, data in of.items()}
    scores = lambda params: {name: run(params)["accuracy"] for name, run in metrics.items()}  # noqa: E731
    servers = {"sgd": powers(-0.5, 0, 0.5), "momentum": powers(-1, -0.5, 0), "adaptive": powers(-2.5, -2, -1.5, -1)}
    loss_fn = fl.losses.cross_entropy(model)
    return Task(model, loss_fn, train, scores, 20, 150, powers(-1, -0.5, 0), servers)


def text(smoke: bool, data_dir: Path | None = None) -> Task:
    """The next character of Shakespeare's roles by a table of pairs, 8,100 parameters, scored by accuracy."""
    if smoke:
        line = fl.datasets.shakespeare.encode("To be, or not to be, that is the question: ")
        lines = np.resize(line, (20, 9))
        train = test = fl.Population.from_arrays({"x": lines[:, :-1], "y": lines[:, 1:]}, client_ids=np.arange(20))
    else:
        train, test = fl.datasets.load("shakespeare", num_clients=300, seq_len=80, data_dir=data_dir)
    size = fl.datasets.shakespeare.VOCAB_SIZE
    model = fl.models.from_functions(
        lambda key: {"table": jnp.zeros((size, size))}, lambda params, x: params["table"][x], name="pairs"
    )
    order = np.random.default_rng(0).permutation(len(test.features["y"]))[:2000]
    of = _halves({name: np.asarray(rows)[order] for name, rows in test.features.items()})
    loss_fn = fl.losses.sequence_cross_entropy(model)
    metrics = {name: fl.evaluate(loss_fn, data) for name, data in of.items()}
    scores = lambda params: {name: run(params)["accuracy"] for name, run in metrics.items()}  # noqa: E731
    servers = {"sgd": powers(-1, -0.5, 0), "momentum": powers(-1.5, -1, -0.5), "adaptive": powers(-1.5, -1, -0.5)}
    return Task(model, loss_fn, train, scores, 4, 150, powers(0, 0.5, 1), servers)


def _halves(data: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Every other example to choose rates by, the rest to report."""
    return {name: {k: v[start::2] for k, v in data.items()} for start, name in enumerate(("validation", "test"))}
