"""SCAFFOLD against FedAvg by how alike the clients are and how many local steps they take.

Karimireddy et al. (2020), https://arxiv.org/abs/1910.06378, table 3: rounds to a test accuracy for logistic regression
on EMNIST, 100 clients of which 20 % take part, batches of a fifth of a client's data, rates tuned for each method; s %
of the data are dealt at random and the rest sorted by label. The claims: with unlike clients FedAvg gets slower with
more local steps and SCAFFOLD does not, and SCAFFOLD is faster throughout. Here on the handwritten digits.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import optax

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.reproduce import seeds

_RATES = (0.03, 0.1, 0.3, 1.0)
_TARGET = 0.9


def similar(num_clients: int, share: float, seed: int = 0) -> Callable[[Any], np.ndarray]:
    """A partition: a share of the examples dealt at random, the others sorted by label and cut into equal pieces."""

    def assign(features: Any) -> np.ndarray:
        labels = np.asarray(features["y"])
        order = np.random.default_rng(seed).permutation(len(labels))
        free, rest = np.split(order, [round(share * len(labels))])
        rest = rest[np.argsort(labels[rest], kind="stable")]
        owner = np.empty(len(labels), np.int64)
        owner[free] = np.arange(len(free)) % num_clients
        owner[rest] = np.arange(len(rest)) * num_clients // max(len(rest), 1)
        return owner

    return assign


def main(given: seeds.Arguments = seeds.Arguments()) -> dict[str, list[Any]]:  # noqa: B008  (a NamedTuple, immutable)
    """Runs all rows and prints the table.

    Returns:
      by method and local epochs: rounds to the target at each similarity, at the best rate of the grid.
    """
    num_clients, num_rounds, rates = (10, 4, _RATES[:1]) if given.smoke else (50, 150, _RATES)
    model = fl.models.logistic(num_classes=10, input_shape=(8, 8, 1))
    loss_fn = fl.losses.cross_entropy(model)
    _, test = fl.datasets.load("digits")
    batch_size = -(-1438 // num_clients // 5) + 1  # a fifth of a client's data

    def make(name: str) -> Callable[[Any], fl.Rounds]:
        def rounds(hyper: Any) -> fl.Rounds:
            rate, epochs = hyper
            local: dict[str, Any] = {"batch_size": batch_size, "epochs": epochs}
            if name == "SCAFFOLD":
                algorithm = algorithms.scaffold(loss_fn, num_clients=num_clients, client_lr=rate, **local)
            else:
                algorithm = algorithms.fed_avg(loss_fn, client_optimizer=optax.sgd(rate), **local)
            sampler = fl.sampling.uniform(max(2, num_clients // 5))
            return fl.rounds(algorithm, sampler=sampler, aggregator=fl.weighted_mean(), execution=seeds.ONE)

        return rounds

    measure = seeds.accuracy_of(model, test)
    play = {
        name: seeds.player(make(name), model.init, num_rounds=num_rounds, measure=measure)
        for name in ("FedAvg", "SCAFFOLD")
    }
    rows: dict[str, list[Any]] = {}
    similarities = (0.0,) if given.smoke else (0.0, 0.1, 1.0)
    for share in similarities:
        train, _ = fl.datasets.load("digits", partition=similar(num_clients, share))
        for epochs in (1,) if given.smoke else (1, 5, 20):
            for name, run in play.items():
                curves = [np.asarray(run((rate, epochs), train, given.num_seeds)[1]) for rate in rates]
                rows.setdefault(f"{name}, {epochs} epochs", []).append(_best(curves, num_rounds))
    title = f"karimireddy2020: rounds to {_TARGET:.0%} on the digits, {num_clients} clients, {given.num_seeds} seeds"
    seeds.show(title, [f"{share:.0%} similar" for share in similarities], rows, given.out)
    return rows


def _best(curves: list[np.ndarray], num_rounds: int) -> str:
    """Rounds to the target at the rate that needs fewest; every seed has to reach it."""
    found = [seeds.interval([seeds.rounds_to(seed, _TARGET) for seed in curve]) for curve in curves]
    reached = [interval for interval in found if not np.isnan(interval.mean)]
    return str(min(reached, key=lambda interval: interval.mean)) if reached else f"over {num_rounds}"


if __name__ == "__main__":
    main(seeds.arguments(__doc__))
