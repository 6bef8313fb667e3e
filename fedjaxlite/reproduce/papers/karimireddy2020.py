"""SCAFFOLD against FedAvg by how alike the clients are and how many local steps they take.

Karimireddy et al. (2020), https://arxiv.org/abs/1910.06378, table 3: rounds to a test accuracy for logistic regression
on EMNIST, 100 clients of which 20 % take part, batches of a fifth of a client's data, rates tuned for each method; s %
of the data are dealt at random and the rest sorted by label. The claims: with unlike clients FedAvg gets slower with
more local steps and SCAFFOLD does not, and SCAFFOLD is faster throughout. Here on the handwritten digits.
"""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import optax

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.reproduce import figures, seeds
from fedjaxlite.reproduce.seeds import Arguments
from fedjaxlite.reproduce.table import Cells, Expected, Row, Table

_RATES = (0.03, 0.1, 0.3, 1.0)
_TARGET = 0.9
_SIMILARITIES = (0.0, 0.1, 1.0)
_PAPER = {
    ("FedAvg", 1): ("258", "74", "83"),
    ("FedAvg", 5): ("428", "34", "10"),
    ("FedAvg", 20): ("over 1000", "18", "4"),
    ("SCAFFOLD", 1): ("77", "62", "60"),
    ("SCAFFOLD", 5): ("152", "20", "10"),
    ("SCAFFOLD", 20): ("266", "11", "4"),
}
_NOTE = (
    "The paper's data are EMNIST, its target 50 % and its clients 100: rounds can be compared within a "
    "table, not between the two, so that there are no ratios. At each cell the best of the rates."
)


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


def karimireddy2020(given: Arguments) -> Table:
    """Table 3: rounds by method, local epochs and similarity."""
    num_clients, num_rounds = (10, 4) if given.smoke else (50, 150)
    rates = given.rates or (_RATES[-1:] if given.smoke else _RATES)
    similarities = _SIMILARITIES[:1] if given.smoke else _SIMILARITIES
    columns = [f"{share:.0%} similar" for share in similarities]
    people = cache(lambda share: fl.datasets.load("digits", partition=similar(num_clients, share))[0])
    play = cache(lambda method: _player(method, num_clients, num_rounds))

    def row(method: str, epochs: int) -> Row:
        def run(folder: Path | None) -> Cells:
            del folder
            cells: dict[str, Any] = {"best rates": [], "most": num_rounds, "curves": {}}
            for column, share in zip(columns, similarities, strict=True):
                found = {r: np.asarray(play(method)((r, epochs), people(share), given.num_seeds)[1]) for r in rates}
                best, rounds = _best(found)
                cells[column] = rounds
                cells["best rates"].append(best)
                cells["curves"][column] = found[best].astype(float).round(4).tolist()
            return cells

        seconds = 10.0 + 5.0 * epochs
        return Row(run, Expected(seconds, 20.0), dict(zip(columns, _PAPER[method, epochs], strict=False)))

    rows = {
        f"{method}, {epochs} epoch{'s' if epochs > 1 else ''}": row(method, epochs)
        for epochs in ((1,) if given.smoke else (1, 5, 20))
        for method in ("FedAvg", "SCAFFOLD")
    }
    title = f"karimireddy2020: rounds to {_TARGET:.0%} on the digits, {num_clients} clients, {given.num_seeds} seeds"
    source = "Karimireddy et al. (2020), https://arxiv.org/abs/1910.06378, table 3"
    return Table("karimireddy2020", title, source, columns, rows, _NOTE, _draw, takes_rates=True)


def _player(method: str, num_clients: int, num_rounds: int) -> Callable[..., tuple[Any, Any]]:
    """Compiled once for all rates and local epochs, which are its hyperparameters."""
    model = fl.models.logistic(num_classes=10, input_shape=(8, 8, 1))
    loss_fn = fl.losses.cross_entropy(model)
    batch_size = -(-1438 // num_clients // 5) + 1  # a fifth of a client's data

    def make(hyper: Any) -> fl.Rounds:
        rate, epochs = hyper
        local: dict[str, Any] = {"batch_size": batch_size, "epochs": epochs}
        if method == "SCAFFOLD":
            algorithm = algorithms.scaffold(loss_fn, num_clients=num_clients, client_lr=rate, **local)
        else:
            algorithm = algorithms.fed_avg(loss_fn, client_optimizer=optax.sgd(rate), **local)
        sampler = fl.sampling.uniform(max(2, num_clients // 5))
        return fl.rounds(algorithm, sampler=sampler, aggregator=fl.weighted_mean(), execution=seeds.ONE)

    accuracy = seeds.accuracy_of(model, fl.datasets.load("digits")[1])
    measure = lambda params, info: accuracy(params)  # noqa: E731
    return seeds.player(make, model.init, num_rounds=num_rounds, measure=measure)


def _best(curves: Mapping[float, np.ndarray]) -> tuple[float, list[float]]:
    """The rate with which most seeds reach the target, and then soonest; and the rounds of each seed."""
    rounds = {rate: [seeds.rounds_to(curve, _TARGET) for curve in found] for rate, found in curves.items()}

    def rank(rate: float) -> tuple[int, float]:
        reached = [value for value in rounds[rate] if np.isfinite(value)]
        return len(rounds[rate]) - len(reached), float(np.mean(reached)) if reached else float("inf")

    best = min(rounds, key=rank)
    return best, rounds[best]


def _draw(done: Mapping[str, Cells]) -> Any:
    """Test accuracy over rounds, a panel for each similarity."""
    columns = list(next(iter(done.values()))["curves"])
    runs = {column: {name: cells["curves"][column] for name, cells in done.items()} for column in columns}
    return figures.panels(runs, metric="test_accuracy")
