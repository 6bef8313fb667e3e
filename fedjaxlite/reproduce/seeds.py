"""Several seeds of one run as one vmapped program, and what is said of them: means with confidence intervals."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fedjaxlite as fl
from fedjaxlite.plots import series

PyTree = Any
ONE = fl.Execution(devices=1)
"""One device: the seeds are what runs side by side."""


class Interval(NamedTuple):
    """A mean over seeds, with the half width of its 95 % confidence interval (Student's t)."""

    mean: float
    half: float

    def __str__(self) -> str:
        return f"{number(self.mean)} ± {number(self.half, 2)}"


def number(value: float, digits: int = 3) -> str:
    """A number for people: so many significant digits, and all of those before the point.

    Example:
      >>> number(0.12345), number(1468.0), number(2.0)
      ('0.123', '1468', '2')
    """
    return f"{value:.0f}" if 10**digits <= abs(value) < 1e9 else f"{value:.{digits}g}"


def interval(values: Sequence[float] | np.ndarray) -> Interval:
    """The Interval of independent values; its half width is NaN for fewer than two.

    Example:
      >>> interval([1.0, 2.0, 3.0])
      Interval(mean=2.0, half=2.48...)
    """
    mean, half = series.interval(np.asarray(values, np.float64).reshape(-1, 1))
    return Interval(float(mean[0]), float("nan") if half is None else float(half[0]))


def begin(run: fl.Rounds, init: Callable[[Any], PyTree], population: fl.Population, key: jax.Array) -> fl.RoundState:
    """The state in which the run of a key begins: the model, the cohorts and the noise all follow from the key.

    A table has to come out the same again, and a seed has the same cohorts with noise and without, so nothing here is
    a secret: an epsilon in a table is that of a run whose seed nobody knows.
    """
    first, own, noise = jax.random.split(key, 3)
    cohorts = jax.random.split(own, 3)[0]
    return run.init(init(first), population, key=own, noise_key=noise, cohort_key=cohorts)


def keys(num_seeds: int) -> jax.Array:
    """`[S]`, the keys of seeds 0 to S - 1."""
    return jax.vmap(jax.random.key)(jnp.arange(num_seeds))


def player(
    make: Callable[[Any], fl.Rounds],
    init: Callable[[Any], PyTree],
    *,
    num_rounds: int,
    measure: Callable[[PyTree, fl.PassInfo], PyTree] | None = None,
    every: int = 1,
) -> Callable[..., tuple[Any, PyTree]]:
    """Trains several models at once, each from its own seed; compiled once for all hyperparameters.

    Args:
      make: `make(hyper) -> Rounds`; `hyper` is a pytree of numbers, which reach it as tracers.
      init: `init(key) -> params`.
      num_rounds: rounds of each seed, a multiple of `every`.
      measure: `measure(params, info)` after every `every` rounds: of the server's model, and of what the last of them
        tells of itself.
      every: rounds between measurements.

    Returns:
      `play(hyper, population, num_seeds) -> (states, measured)`: RoundStates with a leading axis `[S]`, and what
      `measure` gave, `[S, num_rounds / every]`. Seed s is that of key s, whatever the hyperparameters.
    """
    if num_rounds % every:
        raise ValueError(f"`num_rounds` is {num_rounds}; expected a multiple of `every`, {every}.")

    def one(hyper: Any, population: fl.Population, key: Any) -> tuple[Any, PyTree]:
        run = make(hyper)
        state = begin(run, init, population, key)

        def some_rounds(state: Any, _: None) -> tuple[Any, PyTree]:
            state, infos = run.steps(state, population, every)
            if measure is None:
                return state, ()
            return state, measure(run.params(state), jax.tree.map(lambda leaf: leaf[-1], infos))

        return jax.lax.scan(some_rounds, state, None, length=num_rounds // every)

    together = jax.jit(jax.vmap(one, in_axes=(None, None, 0)))

    def play(hyper: Any, population: fl.Population, num_seeds: int) -> tuple[Any, PyTree]:
        people = jax.device_put(population, jax.devices()[0])
        return together(jax.tree.map(jnp.asarray, hyper), people, keys(num_seeds))

    return play


def of_seed(states: Any, seed: int) -> Any:
    """One seed's RoundState of those that `play` returned."""
    return jax.tree.map(lambda leaf: leaf[seed], states)


def rounds_to(
    curve: np.ndarray | Sequence[float], target: float, every: int = 1, *, interpolate: bool = False
) -> float:
    """The round at which a curve reaches a target, or NaN.

    Args:
      curve: `[T]`, measured after every `every` rounds.
      target: what to reach.
      every: rounds between measurements.
      interpolate: as McMahan et al. (2017) count: the curve is made monotone, best so far, and the crossing is
        interpolated linearly between two measurements; else the round of the first measurement at the target.

    Example:
      >>> curve = np.array([0.1, 0.6, 0.5, 0.9])
      >>> rounds_to(curve, 0.7), rounds_to(curve, 0.7, interpolate=True)
      (4.0, 3.33...)
    """
    best = np.fmax.accumulate(np.asarray(curve, np.float64))
    reached = np.flatnonzero(best >= target)
    if not reached.size:
        return float("nan")
    at = int(reached[0])
    if not interpolate or at == 0 or best[at] == best[at - 1]:
        return float((at + 1) * every)
    return float((at + (target - best[at - 1]) / (best[at] - best[at - 1])) * every)


def accuracy_of(model: Any, test: Mapping[str, Any]) -> Callable[..., jax.Array]:
    """`f(params) -> float32 []`, a classifier's accuracy on a plain test set: traceable, and a player's measure."""
    x, y = jnp.asarray(test["x"]), jnp.asarray(test["y"])

    def accuracy(params: PyTree, info: Any = None) -> jax.Array:
        del info  # a player tells of the round, too
        logits = model.apply(params, x, train=False)
        return jnp.mean((jnp.argmax(logits, -1) == y).astype(jnp.float32))

    return accuracy


class Arguments(NamedTuple):
    """What every table takes.

    Attributes:
      num_seeds: S.
      smoke: sizes that run in seconds and show nothing.
      out: a folder for rows, table and figure, or None.
      rows: patterns such as "2nn*B=10*"; none means all but those that take too long.
      rates: client learning rates to search, where the table has such a grid; none means its own.
      again: run rows again that are in `out` already.
      data_dir: the folder of prepared data, or None for the environment's.
    """

    num_seeds: int = 5
    smoke: bool = False
    out: Path | None = None
    rows: tuple[str, ...] = ()
    rates: tuple[float, ...] = ()
    again: bool = False
    data_dir: Path | None = None
