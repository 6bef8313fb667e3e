"""Accuracy against epsilon: DP-FedAvg with sampling that amplifies, and DP-FTRL with correlated noise and none.

Kairouz, McMahan, Song, Thakkar, Thakurta, Xu (2021), https://arxiv.org/abs/2103.00039: where the sampling of clients
cannot be relied upon, noise that is correlated over rounds trains about as well as independent noise with
amplification, better at large epsilon and worse at small. Choquette-Choo et al. (2023),
https://arxiv.org/abs/2306.08153: banded matrices do better than trees. Their data sets are not at hand; here images
("mnist", or the digits where MNIST is not prepared) and, with --text, the plays of Shakespeare.

Federated privacy wants many clients: rows marked "x 10" are those of a population and cohorts ten times larger, which
is simulated by a tenth of the noise on a tenth of the clients. They are extrapolated.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

import fedjaxlite as fl
from fedjaxlite import algorithms, privacy
from fedjaxlite.evaluate import loss_for
from fedjaxlite.reproduce import seeds

_EPSILONS = {"images": (1.0, 2.0, 4.0, 8.0, 16.0, float("inf")), "text": (1.0, 2.0, 8.0, float("inf"))}
_GAUSSIAN, _TREE, _BANDED = "DP-FedAvg, Poisson", "DP-FTRL, tree", "DP-FTRL, banded"


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


def images(smoke: bool) -> Task:
    """MNIST on 1,000 clients, or the digits on 100."""
    if not smoke:
        try:
            train, test = fl.datasets.load("mnist", partition=fl.partition.dirichlet(1000, alpha=1.0, seed=0))
        except FileNotFoundError:
            print("MNIST is not prepared: the digits of scikit-learn instead")
        else:
            model = fl.models.mlp(features=(32, 10), input_shape=(28, 28, 1))
            return Task("mnist", train, test, model, 100, 100, 0.3, 0.1, 10)
    train, test = fl.datasets.load("digits", partition=fl.partition.dirichlet(100, alpha=1.0, seed=0))
    model = fl.models.mlp(features=(32, 10), input_shape=(8, 8, 1))
    return Task("digits", train, test, model, 20, 4 if smoke else 60, 0.3, 0.1, 10)


def text(smoke: bool) -> Task:
    """The next character of Shakespeare's roles, 300 clients, by a table of pairs: 8,100 parameters that learn fast."""
    train, test = fl.datasets.load("shakespeare", num_clients=20 if smoke else 300, seq_len=40)
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


def main(given: seeds.Arguments = seeds.Arguments(), with_text: bool = False) -> dict[str, list[Any]]:  # noqa: B008
    """Calibrates, trains and prints the table of a task.

    Returns:
      by kind of noise: test accuracy in % at each epsilon.
    """
    task = text(given.smoke) if with_text else images(given.smoke)
    delta = (10 * task.train.num_clients) ** -1.1  # below one over the imagined population too
    epsilons = _EPSILONS["text" if with_text else "images"]
    epsilons = epsilons[-2:] if given.smoke else epsilons
    evaluate = fl.evaluate(task.model, task.test)
    rows: dict[str, list[Any]] = {}
    for kind, times in ((_GAUSSIAN, 1), (_TREE, 1), (_BANDED, 1), (_GAUSSIAN, 10)):
        play = seeds.player(
            lambda noise, kind=kind, times=times: composed(task, kind, noise, times),
            task.model.init,
            num_rounds=task.num_rounds,
            every=task.num_rounds,
            measure=lambda params: evaluate(params)["accuracy"],
        )
        row = []
        for epsilon in epsilons:
            noise = noise_for(task, kind, times, epsilon, delta)
            found = np.asarray(play(noise, task.train, given.num_seeds)[1])[:, -1]
            row.append(seeds.interval(100 * found))
        rows[kind + (f", x {times} (extrapolated)" if times > 1 else "")] = row
    title = (
        f"kairouz2021-{task.name}: test accuracy in %, {task.train.num_clients} clients, {task.cohort} a round, "
        f"{task.num_rounds} rounds, delta {delta:.1e}, {given.num_seeds} seeds"
    )
    seeds.show(title, [f"epsilon {epsilon:g}" for epsilon in epsilons], rows, given.out)
    if given.out is not None:
        fl.plots.accuracy_against_epsilon(
            rows,
            epsilons,
            ylabel="test accuracy [%]",
            title=f"{task.name}, {given.num_seeds} seeds",
            path=given.out / f"kairouz2021-{task.name}.png",
        )
    return rows


if __name__ == "__main__":
    parser = seeds.parser_of(__doc__)
    parser.add_argument("--text", action="store_true", help="the plays of Shakespeare instead of images")
    options = parser.parse_args()
    main(seeds.from_options(options), with_text=options.text)
