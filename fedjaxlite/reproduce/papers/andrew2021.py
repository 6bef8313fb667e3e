"""Adaptive clipping: a clip norm that follows a quantile of the clients' norms, against clip norms fixed beforehand.

Andrew, Thakkar, McMahan, Ramaswamy (2021), https://arxiv.org/abs/1905.03871: with the same noise multiplier of the
whole, a clip norm that is adapted to the median does about as well as the best that was fixed, on all of their six
tasks, and nobody has to find that one. The paper has curves; here MNIST (it has to be prepared, `fl.datasets.load` says
where) on 1,000 clients, a hundred of them a round by Poisson sampling. Also asked: is the quantile found, from a
start that is a hundred times too low or too high?
"""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fedjaxlite as fl
from fedjaxlite import algorithms, privacy
from fedjaxlite.plots import style
from fedjaxlite.reproduce import seeds
from fedjaxlite.reproduce.seeds import Arguments
from fedjaxlite.reproduce.table import Cells, Expected, Row, Table

_NOISE, _DELTA = 1.0, 1e-4
_FIXED = (0.03, 0.1, 0.3, 1.0, 3.0)
_QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)
_FIRST = 0.1
"""The clip norm of the first round, as in the paper."""
_NONE = 1e6
"""A clip norm that clips nothing."""

_COLUMNS = ("accuracy, %", "clip norm at the end", "clients below it, %", "epsilon")
_NOTE = (
    "All rows but the first have the same noise multiplier of the whole, and so the same epsilon. It holds if the seed "
    "is secret (seeds of tables are known; without amplification by sampling it is 86.3 on MNIST). Clients below the "
    "clip norm are counted among all clients, on the last model. The first clip norm is 0.1 where no other is named; "
    "it grows by at most exp(0.2 q) a round for the quantile q. The paper has curves on other data and no table."
)


class Setting(NamedTuple):
    """How updates are clipped.

    Attributes:
      adaptive: whether the clip norm moves.
      clip_norm: the clip norm, or that of the first round.
      quantile: the share of clients to leave unclipped, where it moves.
      noise: the noise multiplier z of the whole.
    """

    adaptive: bool
    clip_norm: float
    quantile: float = 0.5
    noise: float = _NOISE


class Task(NamedTuple):
    """What is trained.

    Attributes:
      train: the clients.
      test: the central test set.
      model: a small one: noise grows with the root of its size.
      cohort: m, clients a round in expectation.
      num_rounds: T.
    """

    train: fl.Population
    test: Mapping[str, Any]
    model: fl.models.Model
    cohort: int
    num_rounds: int


def andrew2021(given: Arguments) -> Table:
    """Fixed clip norms against adaptive ones."""
    task = cache(lambda: _task(given))
    play = cache(lambda adaptive: _player(task(), adaptive))

    def row(setting: Setting) -> Row:
        def run(folder: Path | None) -> Cells:
            del folder
            return _cells(task(), setting, play(setting.adaptive), given.num_seeds)

        return Row(run, Expected(25.0, 20.0))

    settings = {"no clipping, no noise": Setting(False, _NONE, noise=0.0)}
    settings |= {f"fixed at {clip:g}": Setting(False, clip) for clip in _FIXED}
    settings |= {f"adapted to {quantile:.0%}": Setting(True, _FIRST, quantile) for quantile in _QUANTILES}
    settings |= {f"adapted to 50%, from {first:g}": Setting(True, first) for first in (0.003, 30.0)}
    chosen = ("fixed at 0.3", "adapted to 50%") if given.smoke else tuple(settings)
    sizes = "the digits" if given.smoke else "MNIST, 1,000 clients, 100 a round, 100 rounds"
    title = f"andrew2021: {sizes}, noise multiplier {_NOISE:g}, delta {_DELTA:g}, {given.num_seeds} seeds"
    source = "Andrew et al. (2021), https://arxiv.org/abs/1905.03871"
    rows = {name: row(settings[name]) for name in chosen}
    return Table("andrew2021", title, source, _COLUMNS, rows, _NOTE, _draw)


def _task(given: Arguments) -> Task:
    if given.smoke:
        train, test = fl.datasets.load("digits", partition=fl.partition.dirichlet(50, alpha=1.0, seed=0))
        return Task(train, test, fl.models.mlp(features=(4, 10), input_shape=(8, 8, 1)), 30, 4)
    split = fl.partition.dirichlet(1000, alpha=1.0, seed=0)
    train, test = fl.datasets.load("mnist", partition=split, data_dir=given.data_dir)
    return Task(train, test, fl.models.mlp(features=(32, 10), input_shape=(28, 28, 1)), 100, 100)


def rounds_of(task: Task, adaptive: bool, hyper: Any) -> fl.Rounds:
    """The run of a setting; `hyper` is (clip norm, quantile, noise multiplier), which may be traced."""
    clip_norm, quantile, noise = hyper
    num_clients = task.train.num_clients
    rate = task.cohort / num_clients
    if adaptive:
        codec = privacy.adaptive_gaussian(noise_multiplier=noise, initial_clip_norm=clip_norm, target_quantile=quantile)
    else:
        codec = privacy.gaussian(clip_norm=clip_norm, noise_multiplier=noise)
    local: dict[str, Any] = {"client_optimizer": optax.sgd(0.1), "batch_size": 10, "epochs": 1}
    return fl.rounds(
        algorithms.fed_avg(fl.losses.cross_entropy(task.model), **local),
        sampler=fl.sampling.poisson(rate, fl.sampling.poisson_capacity(num_clients + 1, rate, 1e-15)),
        aggregator=fl.chain(fl.mean(over=task.cohort), codec),
        execution=seeds.ONE,
    )


def _player(task: Task, adaptive: bool) -> Callable[..., tuple[Any, Any]]:
    """`play(hyper, population, num_seeds) -> (states, {"accuracy" [S, T], and "clip_norm" [S, T] where it moves})`."""
    accuracy = seeds.accuracy_of(task.model, task.test)

    def measure(params: Any, info: fl.PassInfo) -> dict[str, jax.Array]:
        moving = {"clip_norm": info.aggregator["adaptive_gaussian_clip_norm"]} if adaptive else {}
        return {"accuracy": accuracy(params), **moving}

    make = lambda hyper: rounds_of(task, adaptive, hyper)  # noqa: E731
    return seeds.player(make, task.model.init, num_rounds=task.num_rounds, measure=measure)


def _cells(task: Task, setting: Setting, play: Callable[..., tuple[Any, Any]], num_seeds: int) -> Cells:
    hyper = (setting.clip_norm, setting.quantile, setting.noise)
    states, curves = play(hyper, task.train, num_seeds)
    run = rounds_of(task, setting.adaptive, hyper)
    accuracy = np.asarray(curves["accuracy"], np.float64)
    fixed = np.full_like(accuracy, np.float32(setting.clip_norm))
    clip_norms = np.asarray(curves["clip_norm"], np.float64) if setting.adaptive else fixed
    norms = _norms(task, run)
    last = [norms(run.params(seeds.of_seed(states, s))) for s in range(num_seeds)]
    below = [100 * float((own <= clip).mean()) for own, clip in zip(last, clip_norms[:, -1], strict=True)]
    epsilon = privacy.epsilon(run, task.train, num_rounds=task.num_rounds, delta=_DELTA) if setting.noise else np.inf
    values = ((100 * accuracy[:, -1]).tolist(), clip_norms[:, -1].tolist(), below)
    cells = dict(zip(_COLUMNS, (*values, float(epsilon) if np.isfinite(epsilon) else "infinite"), strict=True))
    if setting.clip_norm == _NONE:
        cells["clip norm at the end"] = cells["clients below it, %"] = ""
    median = [float(np.median(own)) for own in last]
    curves = {"clip norms": clip_norms.round(5).tolist(), "accuracies": accuracy.round(4).tolist()}
    return {**cells, "median norm": median, **curves}


def _norms(task: Task, run: fl.Rounds) -> Callable[[Any], np.ndarray]:
    """`f(params) -> [N]`, the norms of all clients' updates, as they are before anything is clipped."""
    key = jax.random.key(0)
    everyone = fl.sampling.full(task.train.num_clients).sample(key, 0, task.train)

    def client(shared: Any, data: fl.ClientData) -> fl.ClientOutput:
        update = run.algorithm.client_update(shared, (), data, data.key).update
        return fl.ClientOutput(jnp.float32(0), info={"norm": fl.global_norm(update)})

    call = fl.federated_sum(client, aggregator=fl.mean(), execution=seeds.ONE)
    return lambda params: np.asarray(call(params, task.train, everyone, key=key)[1].clients["norm"])


def _draw(done: Mapping[str, Cells]) -> Any:
    """Left, accuracy over clip norms that are fixed, with the adaptive ones where they end; right, clip norms."""
    figure = style.new_figure((13.0, 4.0))
    left, right = figure.subplots(1, 2)
    points = {name: cells for name, cells in done.items() if cells["clip norm at the end"]}
    for look, kind in ((style.look(0), "fixed"), (style.look(1), "adapted")):
        own = [cells for name, cells in points.items() if name.startswith(kind)]
        at = [float(np.mean(cells["clip norm at the end"])) for cells in own]
        found = [seeds.interval(cells["accuracy, %"]) for cells in own]
        line = look.linestyle if kind == "fixed" else "none"
        means, halves = [value.mean for value in found], np.nan_to_num([value.half for value in found])
        left.errorbar(at, means, halves, fmt=look.marker, linestyle=line, color=look.color, capsize=3, label=kind)
    if "no clipping, no noise" in done:
        none = float(np.mean(done["no clipping, no noise"]["accuracy, %"]))
        left.axhline(none, color="0.4", linewidth=0.9, linestyle="--", label="no clipping, no noise")
    left.set(xscale="log", xlabel="clip norm at the end", ylabel="test accuracy [%], 95 % intervals")
    left.grid(visible=True, color=style.GRID)
    left.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    moving = {name: cells["clip norms"] for name, cells in points.items() if name.startswith("adapted")}
    if moving:
        fl.plots.curves(moving, metric="clip norm", axes=right)
        right.set_yscale("log")
    return figure
