"""Federated averaging: rounds to a test accuracy, by clients a round, batch size and local epochs.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas (2017), https://arxiv.org/abs/1602.05629, tables 1 and 2. Rounds are
counted as there: the curve is made monotone, and the crossing interpolated linearly. The paper searches the learning
rate of each cell on a grid of multiples of 10^(1/3); here each model has one rate for all cells unless `--rates` gives
others, from which the best is taken; `--rates grid` is such a grid. MNIST and Shakespeare have to be prepared
(`fl.datasets.load` says where).
"""

import math
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.plots import style
from fedjaxlite.reproduce import seeds, to_target
from fedjaxlite.reproduce.papers import mcmahan2017_cells as cells
from fedjaxlite.reproduce.papers.mcmahan2017_cells import Cell
from fedjaxlite.reproduce.seeds import Arguments
from fedjaxlite.reproduce.table import Cells, Row, Table

_SOURCE = "McMahan et al. (2017), https://arxiv.org/abs/1602.05629"
_NOTE = (
    "Rounds to {what}; means over seeds with 95 % intervals. The paper's rates were searched for each cell; ours is "
    "in the column 'rate'. Its figures are single runs."
)


class Task(NamedTuple):
    """What a cell trains.

    Attributes:
      model: the model.
      loss_fn: its loss.
      train: the clients.
      evaluate: `evaluate(params) -> {"accuracy": ...}` on the test set.
      target: test accuracy to reach.
    """

    model: fl.models.Model
    loss_fn: Any
    train: fl.Population
    evaluate: Any
    target: float


def table1(given: Arguments) -> Table:
    """Table 1: how many clients take part in a round."""
    title = f"mcmahan2017-table1: rounds by the fraction C of clients, {given.num_seeds} seeds"
    what = "97 % (2nn, E = 1) and 99 % (CNN, E = 5) on MNIST, 100 clients"
    return _table("mcmahan2017-table1", title, cells.TABLE1, given, what)


def table2(given: Arguments) -> Table:
    """Table 2: how much clients compute, C = 0.1."""
    title = f"mcmahan2017-table2: rounds by local epochs E and batch size B, C = 0.1, {given.num_seeds} seeds"
    what = "99 % (CNN on MNIST), 97 % (2nn, the paper's appendix) and 54 % (LSTM on Shakespeare)"
    return _table("mcmahan2017-table2", title, cells.TABLE2, given, what)


def _table(name: str, title: str, chosen: tuple[Cell, ...], given: Arguments, what: str) -> Table:
    chosen = tuple(cell for cell in chosen if cell in cells.SMOKE) if given.smoke else chosen
    rows = {cells.name_of(cell): _row(cell, given) for cell in chosen}
    papers = {cells.name_of(cell): cell.paper for cell in chosen}
    return Table(
        name,
        title,
        _SOURCE,
        ("rounds", "rate"),
        rows,
        _NOTE.format(what=what),
        partial(_draw, papers),
        takes_rates=True,
    )


def _row(cell: Cell, given: Arguments) -> Row:
    def run(folder: Path | None) -> dict[str, Any]:
        task = task_of(cell.model, cell.iid, given.smoke, given.data_dir)
        most = 2 if given.smoke else cells.most_rounds(cell)
        curves = to_target.train_all(
            lambda rate: rounds_of(cell, task, rate),
            task.model,
            task.train,
            task.evaluate,
            rates=given.rates or (cells.RATES[cell.model],),
            num_seeds=given.num_seeds,
            target=task.target,
            most=most,
            folder=folder,
        )
        rate, rounds, text = to_target.best_rate(curves, task.target)
        rounded = [[round(value, 4) for value in curve] for curve in curves[rate]]
        by_rate = {f"{r:g}": [len(curve) for curve in found] for r, found in curves.items()}
        return {"rounds": rounds, "rate": text, "most": most, "trained": by_rate, "curves": rounded}

    paper: dict[str, float | str] = {} if cell.paper is None else {"rounds": float(cell.paper)}
    return Row(run, cells.expected(cell), paper)


def rounds_of(cell: Cell, task: Task, rate: Any) -> fl.Rounds:
    """The run of a cell; `rate` may be traced."""
    cohort = max(1, round(cell.fraction * task.train.num_clients))
    algorithm = algorithms.fed_avg(
        task.loss_fn, client_optimizer=optax.sgd(rate), batch_size=cell.batch_size, epochs=cell.epochs
    )
    alone = jax.default_backend() == "cpu"  # else the runs of all seeds are one program, on one device
    execution = fl.Execution() if alone else fl.Execution(devices=1, lanes=min(cohort, cells.LANES[cell.model]))
    return fl.rounds(algorithm, sampler=fl.sampling.uniform(cohort), aggregator=fl.weighted_mean(), execution=execution)


@lru_cache(maxsize=8)
def task_of(model: str, iid: bool, smoke: bool, data_dir: Path | None) -> Task:
    """The data and the model of a cell."""
    return _text(iid, smoke, data_dir) if model == "lstm" else _images(model, iid, smoke, data_dir)


def _images(name: str, iid: bool, smoke: bool, data_dir: Path | None) -> Task:
    num_clients = 10 if smoke else 100
    split: Callable[..., Any] = fl.partition.iid if iid else fl.partition.label_shards
    if smoke:
        train, test = fl.datasets.load("digits", partition=split(num_clients, seed=0))
        small: dict[str, Any] = {"input_shape": (8, 8, 1)}
        model = (
            fl.models.mlp(features=(8, 10), **small)
            if name == "2nn"
            else fl.models.cnn(filters=(2, 2), hidden=4, **small)
        )
    else:
        train, test = fl.datasets.load("mnist", partition=split(num_clients, seed=0), data_dir=data_dir)
        model = fl.models.mlp(features=(200, 200, 10), input_shape=(28, 28, 1)) if name == "2nn" else fl.models.cnn()
    return Task(model, fl.losses.cross_entropy(model), train, fl.evaluate(model, test), 0.97 if name == "2nn" else 0.99)


def _text(iid: bool, smoke: bool, data_dir: Path | None) -> Task:
    if smoke:
        line = fl.datasets.shakespeare.encode("To be, or not to be, that is the question: ")
        text = np.resize(line, (12, 9))
        train = test = fl.Population.from_arrays(
            {"x": text[:, :-1], "y": text[:, 1:]}, client_ids=np.repeat(np.arange(4), 3)
        )
        model = fl.models.char_lstm(hidden=4, layers=2)
    else:
        train, test = fl.datasets.load("shakespeare", data_dir=data_dir)
        model = fl.models.char_lstm()
    if iid:  # the sizes stay as unequal as they are
        owner = np.repeat(np.arange(train.num_clients), np.asarray(train.num_examples))
        owner = np.random.default_rng(0).permutation(owner)
        train = fl.Population.from_arrays(
            {name: np.asarray(array) for name, array in train.features.items()}, client_ids=owner
        )
    return Task(model, fl.losses.sequence_cross_entropy(model), train, fl.evaluate(model, test), 0.54)


def _draw(papers: Mapping[str, int | None], done: Mapping[str, Cells]) -> Any:
    """Rounds to the target, ours as means with intervals and the paper's, one line a cell."""
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = style.new_figure((8, 1.6 + 0.32 * len(done)))
    axes = figure.subplots()
    for place, (name, found) in enumerate(done.items()):
        reached = [rounds for rounds in found["rounds"] if math.isfinite(rounds)]
        paper = papers[name]
        if paper is not None:
            axes.plot([paper], [place], "x", color="black", markersize=7, label="_" * bool(place) + "the paper")
        if reached:
            mean, half = seeds.interval(reached)
            few = "" if len(reached) == len(found["rounds"]) else f"  {len(reached)} of {len(found['rounds'])} seeds"
            bar = None if math.isnan(half) else [[min(half, 0.9 * mean)], [half]]
            axes.errorbar([mean], [place], xerr=bar, fmt="o", color="tab:blue", capsize=3, markersize=5)
            axes.annotate(few, (mean, place), fontsize=8)
        else:
            axes.annotate(f"over {found['most']}", (found["most"], place), fontsize=8, ha="right", va="center")
    axes.plot([], [], "o", color="tab:blue", label="fedjaxlite, mean and 95 % interval over seeds")
    axes.set_yticks(range(len(done)), list(done), fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("rounds to the target accuracy")
    axes.grid(True, axis="x", which="both", color="0.92")
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    return figure
