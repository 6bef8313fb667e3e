"""Accuracy against epsilon: DP-FedAvg with sampling that amplifies, and DP-FTRL with correlated noise and none.

Kairouz, McMahan, Song, Thakkar, Thakurta, Xu (2021), https://arxiv.org/abs/2103.00039: where the sampling of clients
cannot be relied upon, noise that is correlated over rounds trains about as well as independent noise with
amplification, better at large epsilon and worse at small. Choquette-Choo et al. (2023),
https://arxiv.org/abs/2306.08153: banded matrices do better than trees. Their data sets are not at hand; here images
(MNIST) and the plays of Shakespeare, which have to be prepared (`fl.datasets.load` says where).

Federated privacy wants many clients: rows marked "x 10" are those of a population and cohorts ten times larger, which
is simulated by a tenth of the noise on a tenth of the clients. They are extrapolated.
"""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

import fedjaxlite as fl
from fedjaxlite import algorithms, privacy
from fedjaxlite.evaluation.central import loss_for
from fedjaxlite.reproduce import seeds
from fedjaxlite.reproduce.seeds import Arguments
from fedjaxlite.reproduce.table import Cells, Expected, Row, Table

_IMAGES, _TEXT = (1.0, 2.0, 4.0, 8.0, 16.0, float("inf")), (1.0, 2.0, 8.0, float("inf"))
_GAUSSIAN, _TREE, _BANDED = "DP-FedAvg, Poisson", "DP-FTRL, tree", "DP-FTRL, banded"
_NOTE = (
    "Delta is (10 N)^-1.1 for N clients. Rows marked x 10 are extrapolated: the noise of a population and cohorts ten "
    "times larger, on a tenth of the clients. DP-FedAvg's epsilon counts sampling, so it holds if the seed is secret: "
    "seeds of tables are not, so that they come out again, and docs/privacy.md has the figures without amplification. "
    "The papers have curves, on data that are not at hand."
)


class Task(NamedTuple):
    """What is trained.

    Attributes:
      name: of the data.
      train: the clients.
      test: the central test set.
      model: a small one: noise grows with the root of its size.
      cohort: m, clients a round.
      num_rounds: T.
      clip_norm: C.
      client_lr: of the local SGD.
      batch_size: B.
    """

    name: str
    train: fl.Population
    test: Any
    model: Any
    cohort: int
    num_rounds: int
    clip_norm: float
    client_lr: float
    batch_size: int


def images(smoke: bool, data_dir: Path | None = None) -> Task:
    """MNIST on 1,000 clients; in a smoke test the digits on 100."""
    if smoke:
        train, test = fl.datasets.load("digits", partition=fl.partition.dirichlet(100, alpha=1.0, seed=0))
        model = fl.models.mlp(features=(4, 10), input_shape=(8, 8, 1))
        return Task("digits", train, test, model, 20, 4, 0.3, 0.1, 10)
    split = fl.partition.dirichlet(1000, alpha=1.0, seed=0)
    train, test = fl.datasets.load("mnist", partition=split, data_dir=data_dir)
    model = fl.models.mlp(features=(32, 10), input_shape=(28, 28, 1))
    return Task("mnist", train, test, model, 100, 100, 0.3, 0.1, 10)


def text(smoke: bool, data_dir: Path | None = None) -> Task:
    """The next character of Shakespeare's roles, 300 clients, by a table of pairs: 8,100 parameters that learn fast."""
    if smoke:
        line = fl.datasets.shakespeare.encode("To be, or not to be, that is the question: ")
        lines = np.resize(line, (20, 9))
        train = test = fl.Population.from_arrays({"x": lines[:, :-1], "y": lines[:, 1:]}, client_ids=np.arange(20))
    else:
        train, test = fl.datasets.load("shakespeare", num_clients=300, seq_len=40, data_dir=data_dir)
    pooled = {name: np.asarray(rows)[:2000] for name, rows in test.features.items()}
    size = fl.datasets.shakespeare.VOCAB_SIZE
    model = fl.models.from_functions(
        lambda key: {"table": jnp.zeros((size, size))}, lambda params, x: params["table"][x], name="pairs"
    )
    return Task("shakespeare", train, pooled, model, 10 if smoke else 30, 2 if smoke else 60, 3.0, 20.0, 10)


def composed(task: Task, kind: str, noise: Any, times: int = 1) -> fl.Rounds:
    """The run of a kind of noise; `noise` may be traced."""
    groups = max(1, task.train.num_clients // task.cohort)
    both: dict[str, Any] = {"clip_norm": task.clip_norm, "noise_multiplier": noise}
    if kind == _GAUSSIAN:
        rate = task.cohort / task.train.num_clients
        sampler = fl.sampling.poisson(rate, fl.sampling.poisson_capacity(task.train.num_clients + 1, rate, 1e-15))
        larger = None if times == 1 else times * task.cohort
        codec = privacy.gaussian(noise_cohort_size=larger, **both)
    else:
        sampler = fl.sampling.cyclic(task.cohort, groups)
        if kind == _TREE:
            codec = privacy.tree_gaussian(num_rounds=task.num_rounds, **both)
        else:
            codec = privacy.banded_gaussian(num_rounds=task.num_rounds, bands=min(groups, task.num_rounds), **both)
    algorithm = algorithms.fed_avg(
        loss_for(task.model, task.train.features),
        client_optimizer=optax.sgd(task.client_lr),
        batch_size=task.batch_size,
        epochs=1,
    )
    chain = fl.chain(fl.mean(over=task.cohort), codec)
    return fl.rounds(algorithm, sampler=sampler, aggregator=chain, execution=seeds.ONE)


def noise_for(task: Task, kind: str, times: int, epsilon: float, delta: float) -> float:
    """The least noise multiplier with which the whole run costs epsilon, in a population that many times as large."""
    if not np.isfinite(epsilon):
        return 0.0
    make = lambda noise: composed(task, kind, noise, times)  # noqa: E731
    people = times * task.train.num_clients
    return float(privacy.calibrate(make, people, epsilon=epsilon, delta=delta, num_rounds=task.num_rounds))


def kairouz2021(given: Arguments) -> Table:
    """Images: MNIST on 1,000 clients."""
    sizes = "the digits, 100 clients, 20 a round" if given.smoke else "MNIST, 1,000 clients, 100 a round"
    return _table("kairouz2021", sizes, cache(lambda: images(given.smoke, given.data_dir)), _IMAGES, given)


def kairouz2021_text(given: Arguments) -> Table:
    """Text: the plays of Shakespeare on 300 clients."""
    sizes = "one line, 20 clients, 10 a round" if given.smoke else "Shakespeare, 300 clients, 30 a round"
    return _table("kairouz2021-text", sizes, cache(lambda: text(given.smoke, given.data_dir)), _TEXT, given)


def _table(name: str, sizes: str, task: Callable[[], Task], epsilons: tuple[float, ...], given: Arguments) -> Table:
    epsilons = epsilons[-2:] if given.smoke else epsilons
    columns = [_column(epsilon) for epsilon in epsilons]

    def row(kind: str, times: int) -> Row:
        def run(folder: Path | None) -> Cells:
            del folder
            return dict(zip(columns, _accuracies(task(), kind, times, epsilons, given.num_seeds), strict=True))

        return Row(run, Expected(160.0 if epsilons == _IMAGES else 60.0, 60.0))

    kinds = [(_GAUSSIAN, 1), (_TREE, 1), (_BANDED, 1), (_GAUSSIAN, 10)]
    rows = {
        kind + (f", x {times} (extrapolated)" if times > 1 else ""): row(kind, times)
        for kind, times in (kinds[1:2] if given.smoke else kinds)
    }
    title = f"{name}: test accuracy in %, {sizes}, {given.num_seeds} seeds"
    source = "Kairouz et al. (2021), https://arxiv.org/abs/2103.00039; Choquette-Choo et al. (2023), arXiv 2306.08153"

    def draw(done: Mapping[str, Cells]) -> Any:
        found = {kind: np.asarray([cells[column] for column in columns]).T for kind, cells in done.items()}
        return fl.plots.accuracy_against_epsilon(found, epsilons, ylabel="test accuracy [%]", title=sizes)

    return Table(name, title, source, columns, rows, _NOTE, draw)


def _column(epsilon: float) -> str:
    return f"epsilon {epsilon:g}" if np.isfinite(epsilon) else "no noise"


def _accuracies(task: Task, kind: str, times: int, epsilons: tuple[float, ...], num_seeds: int) -> list[list[float]]:
    """Test accuracy in % at each epsilon, a number a seed; compiled once for all of them."""
    delta = (10 * task.train.num_clients) ** -1.1  # below one over the imagined population too
    evaluate = fl.evaluate(task.model, task.test)
    play = seeds.player(
        lambda noise: composed(task, kind, noise, times),
        task.model.init,
        num_rounds=task.num_rounds,
        every=task.num_rounds,
        measure=lambda params, info: evaluate(params)["accuracy"],
    )
    found = []
    for epsilon in epsilons:
        noise = noise_for(task, kind, times, epsilon, delta)
        last = np.asarray(play(noise, task.train, num_seeds)[1], np.float64)[:, -1]
        found.append((100 * last).tolist())
    return found
