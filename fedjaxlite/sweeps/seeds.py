"""What the run of a seed begins with, and several seeds of one run as one vmapped program."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite.data.population import Population
from fedjaxlite.execution.cohort_pass import PassInfo
from fedjaxlite.execution.composition import Rounds
from fedjaxlite.execution.round_state import RoundState

PyTree = Any


def keys(num_seeds: int) -> jax.Array:
    """`[S]`, the keys of seeds 0 to S - 1."""
    return jax.vmap(jax.random.key)(jnp.arange(num_seeds))


def begin_with(
    run: Rounds, init: Callable[[Any], PyTree], population: Population, key: jax.Array, noise_key: Any
) -> RoundState:
    """The state in which the run of a key begins: model, cohorts and what clients draw follow from the key.

    Written out, for the run of seed s:

        first, own, _ = jax.random.split(jax.random.key(s), 3)
        state = rounds.init(init(first), population, key=own)
    """
    first, own, _ = jax.random.split(key, 3)
    return run.init(init(first), population, key=own, noise_key=noise_key)


def begin(run: Rounds, init: Callable[[Any], PyTree], population: Population, key: jax.Array) -> RoundState:
    """The same where nothing is a secret: the noise follows from the key too, and so do the cohorts under noise.

    A table has to come out the same again, and a seed has the same cohorts with noise and without: an epsilon in a
    table is that of a run whose seed nobody knows.
    """
    first, own, noise = jax.random.split(key, 3)
    cohorts = jax.random.split(own, 3)[0]
    return run.init(init(first), population, key=own, noise_key=noise, cohort_key=cohorts)


def player(
    make: Callable[[Any], Rounds],
    init: Callable[[Any], PyTree],
    *,
    num_rounds: int,
    measure: Callable[[PyTree, PassInfo], PyTree] | None = None,
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

    def one(hyper: Any, population: Population, key: Any) -> tuple[Any, PyTree]:
        run = make(hyper)
        state = begin(run, init, population, key)

        def some_rounds(state: Any, _: None) -> tuple[Any, PyTree]:
            state, infos = run.steps(state, population, every)
            if measure is None:
                return state, ()
            return state, measure(run.params(state), jax.tree.map(lambda leaf: leaf[-1], infos))

        return jax.lax.scan(some_rounds, state, None, length=num_rounds // every)

    together = jax.jit(jax.vmap(one, in_axes=(None, None, 0)))

    def play(hyper: Any, population: Population, num_seeds: int) -> tuple[Any, PyTree]:
        people = jax.device_put(population, jax.devices()[0])
        return together(jax.tree.map(jnp.asarray, hyper), people, keys(num_seeds))

    return play


def of_seed(states: Any, seed: int) -> Any:
    """One seed's RoundState of those that `play` returned."""
    return jax.tree.map(lambda leaf: leaf[seed], states)
