"""Training until a test accuracy is reached, for several rates and seeds: one after the other, or side by side."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fedjaxlite as fl
from fedjaxlite.observers import records
from fedjaxlite.reproduce import seeds

PyTree = Any
Curves = dict[float, list[list[float]]]
"""By rate: a list over seeds of the accuracies after each round, as far as they were trained."""


def train_all(
    make: Callable[[Any], fl.Rounds],
    model: fl.models.Model,
    population: fl.Population,
    evaluate: Callable[[PyTree], Any],
    *,
    rates: Sequence[float],
    num_seeds: int,
    target: float,
    most: int,
    folder: Path | None = None,
) -> Curves:
    """Trains every rate with every seed, evaluated after each round, until the target or for `most` rounds.

    On a CPU one run after the other, by `fl.train` in a folder of its own, so that a run that was cut off goes on from
    its last checkpoint. On an accelerator all runs are one vmapped program, which starts anew.

    Args:
      make: `make(rate) -> Rounds`; where runs are side by side, `rate` is a tracer.
      model: what is trained.
      population: the clients.
      evaluate: `evaluate(params) -> {"accuracy": ...}`.
      rates: client learning rates.
      num_seeds: S; seed s is that of key s, in both ways.
      target: accuracy in [0, 1].
      most: rounds.
      folder: for what is half done, or None.

    Returns:
      the Curves.
    """
    if jax.default_backend() == "cpu":
        return {
            rate: _one_by_one(make(rate), model, population, evaluate, rate, num_seeds, target, most, folder)
            for rate in rates
        }
    return _side_by_side(make, model, population, evaluate, rates, num_seeds, target, most)


def _one_by_one(
    run: fl.Rounds,
    model: fl.models.Model,
    population: fl.Population,
    evaluate: Callable[[PyTree], Any],
    rate: float,
    num_seeds: int,
    target: float,
    most: int,
    folder: Path | None,
) -> list[list[float]]:
    curves = []
    for seed in range(num_seeds):
        own = None if folder is None else folder / f"rate={rate:g}-seed={seed}"
        curve = _finished(own, target, most)
        if curve:
            curves.append(curve)
            continue
        state = seeds.begin(run, model.init, population, jax.random.key(seed))
        history = fl.train(
            run,
            state,
            population,
            num_rounds=most,
            evaluate=evaluate,
            target={"accuracy": target},
            out_dir=own,
            resume=folder is not None,
            lost_rounds=None,  # a rate that is too high is a result here
            diverged_rounds=None,
            progress=False,
        )
        curves.append(_accuracies(history.records))
    return curves


def _finished(folder: Path | None, target: float, most: int) -> list[float]:
    """The curve of a run that is done, from its records; empty where it is not."""
    path = None if folder is None else folder / "records.jsonl"
    if path is None or not path.exists():
        return []
    curve = _accuracies(records.read(path))
    return curve if len(curve) >= most or any(accuracy >= target for accuracy in curve) else []


def _accuracies(found: Sequence[Mapping[str, Any]]) -> list[float]:
    """The accuracy after every round; NaN where its record was lost."""
    return [float(record.get("test_accuracy", np.nan)) for record in found]


def _side_by_side(
    make: Callable[[Any], fl.Rounds],
    model: fl.models.Model,
    population: fl.Population,
    evaluate: Callable[[PyTree], Any],
    rates: Sequence[float],
    num_seeds: int,
    target: float,
    most: int,
) -> Curves:
    at_once = 5  # rounds a dispatch: the runs are looked at in between

    def begin(rate: jax.Array, key: jax.Array, population: fl.Population) -> Any:
        return seeds.begin(make(rate), model.init, population, key)

    def more(rate: jax.Array, state: Any, population: fl.Population) -> tuple[Any, jax.Array]:
        run = make(rate)

        def one(state: Any, _: None) -> tuple[Any, jax.Array]:
            state = run.step(state, population)[0]
            return state, evaluate(run.params(state))["accuracy"]

        return jax.lax.scan(one, state, None, length=at_once)

    runs = [(rate, seed) for rate in rates for seed in range(num_seeds)]
    rate_of = jnp.asarray([rate for rate, _ in runs], jnp.float32)
    keys = jax.vmap(jax.random.key)(jnp.asarray([seed for _, seed in runs]))
    population = jax.device_put(population, jax.devices()[0])
    states = jax.jit(jax.vmap(begin, in_axes=(0, 0, None)))(rate_of, keys, population)
    step = jax.jit(jax.vmap(more, in_axes=(0, 0, None)), donate_argnums=1)
    found = np.zeros((len(runs), 0))
    while found.shape[1] < most and not np.all((found >= target).any(1)):
        states, new = step(rate_of, states, population)
        found = np.concatenate([found, np.asarray(new)], 1)
    curves: Curves = {}
    for (rate, _), curve in zip(runs, found[:, :most], strict=True):
        reached = np.flatnonzero(curve >= target)
        end = int(reached[0]) + 1 if reached.size else len(curve)
        curves.setdefault(rate, []).append([float(v) for v in curve[:end]])
    return curves


def best_rate(curves: Curves, target: float) -> tuple[float, list[float], str]:
    """The rate that reaches the target in the fewest rounds, of those with which most seeds do.

    Returns:
      `(rate, rounds [S], text)`; the text says so where the rate lies at the edge of a grid: it should be wider.

    Example:
      >>> best_rate({0.1: [[0.2, 0.6]], 0.3: [[0.7]], 1.0: [[0.1, 0.1]]}, 0.5)
      (0.3, [1.0], '0.3 of 3')
    """
    rounds = {rate: [seeds.rounds_to(c, target, interpolate=True) for c in found] for rate, found in curves.items()}
    rank = lambda rate: (int(np.isnan(rounds[rate]).sum()), _mean(rounds[rate]))  # noqa: E731
    best = min(rounds, key=rank)
    if len(rounds) == 1:
        return best, rounds[best], f"{best:g}"
    edge = " (at the edge)" if best in (min(rounds), max(rounds)) else ""
    return best, rounds[best], f"{best:g} of {len(rounds)}{edge}"


def _mean(values: list[float]) -> float:
    finite = [v for v in values if np.isfinite(v)]
    return float(np.mean(finite)) if finite else float("inf")
