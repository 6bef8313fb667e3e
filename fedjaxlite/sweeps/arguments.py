"""The arguments of `fl.sweep`, looked at before anything runs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.data.population import Population
from fedjaxlite.evaluation.central import evaluate as evaluate_on
from fedjaxlite.execution.composition import Rounds
from fedjaxlite.keys import NoiseKeys, as_key, noise_keys
from fedjaxlite.models.types import Model
from fedjaxlite.partition.split import holdout_clients
from fedjaxlite.sweeps.grid import Point
from fedjaxlite.sweeps.grid import made as made_of
from fedjaxlite.sweeps.seeds import begin_with

PyTree = Any


def names_of(traced: Any) -> Sequence[str] | None:
    """The names that may be traced; None leaves it to their values."""
    if isinstance(traced, str) or not (traced is None or isinstance(traced, Sequence)):
        raise TypeError(f'`traced` is {checks.shown(traced)}; expected names, such as ["client_lr"], or None.')
    return traced


def seeds_of(seeds: Any) -> tuple[int, ...]:
    """The seeds, of a number of them or of a list."""
    if np.ndim(seeds) == 0 or not isinstance(seeds, (Sequence, np.ndarray)):
        return tuple(range(checks.positive_int("Or give a list of seeds.", seeds=seeds)))
    found = tuple(checks.nonnegative_int(**{f"seeds[{i}]": seed}) for i, seed in enumerate(seeds))
    if not found or len(set(found)) < len(found):
        raise ValueError(f"`seeds` is {checks.shown(seeds)}; expected at least one seed, and none of them twice.")
    return found


def init_of(init: Any) -> Callable[[Any], PyTree]:
    """`init(key) -> params`, of a Model or of a function."""
    if isinstance(init, Model):
        return init.init
    checks.is_function_of("key", remedy="Parameters that are there: init=lambda key: params.", init=init)
    return init


def held_out(
    population: Population, evaluate: Any, validation: float | None, seed: int, loss: Any, init: Any
) -> tuple[Population, Any]:
    """The clients that are trained on, and the evaluations with that of the others."""
    seed = checks.nonnegative_int(validation_seed=seed)
    if validation is None and loss is not None:
        raise ValueError(
            "`loss` says what `validation` measures, and no clients are held out. Give validation=0.2, or leave it out."
        )
    if validation is None:
        return population, evaluate
    loss = init if loss is None else loss
    checks.concrete(validation=validation)
    named = dict(evaluate) if isinstance(evaluate, Mapping) else {} if evaluate is None else {"test": evaluate}
    if "validation" in named:
        raise ValueError('`evaluate` has a "validation" of its own, and `validation` holds clients out; give one.')
    if not isinstance(loss, Model) and not callable(loss):
        raise TypeError(f"`loss` is {checks.shown(loss)}; expected a Model, or a loss function.")
    checks.is_function_of(
        *(() if isinstance(loss, Model) else ("params", "batch", "key")),
        remedy="`validation` needs to know what to measure: give loss=model, or loss=loss_fn.",
        **({} if isinstance(loss, Model) else {"loss": loss}),
    )
    checks.fraction(validation=validation)
    checks.positive(validation=validation)
    trained, held = holdout_clients(population, fraction=validation, seed=seed)
    return trained, {**named, "validation": evaluate_on(loss, held)}


def first_of(
    make: Callable[..., Any], point: Point, init: Callable[[Any], PyTree], population: Population
) -> tuple[Callable[[], PyTree], Callable[[], tuple[Rounds, Any]]]:
    """Two functions that give the first model of a point, and its rounds with their first state: to try evaluations."""

    def params() -> PyTree:
        algorithm = made_of(make, point).algorithm
        return jax.jit(lambda key: algorithm.params(algorithm.init(init(key))))(jax.random.key(0))

    def state() -> tuple[Rounds, Any]:
        rounds = made_of(make, point)
        return rounds, begin_with(rounds, init, population, jax.random.key(0), None)

    return params, state


def check_rounds(run: Rounds, population: Population, num_rounds: int) -> None:
    """What `fl.train` refuses as well: rounds that a sampler or an aggregator does not have."""
    run.sampler.check(population.num_clients)
    for part in (run.sampler, run.aggregator):
        if part.num_rounds is not None and num_rounds > part.num_rounds:
            raise ValueError(
                f"`num_rounds` is {num_rounds}, but {part.name} knows {part.num_rounds} rounds; ask for fewer."
            )


def noise_of(noise_key: Any, num_points: int, seed_list: Sequence[int]) -> Any:
    """Noise keys `[P, S]`: secrets, or those that follow from a key."""
    num_seeds = len(seed_list)
    if noise_key is None:
        return NoiseKeys(noise_keys(num_points * num_seeds).key.reshape((num_points, num_seeds)))
    if isinstance(noise_key, NoiseKeys):
        if jnp.shape(noise_key.key) != (num_points * num_seeds,):
            raise ValueError(
                f"`noise_key` is NoiseKeys of {np.size(noise_key.key)} runs, and there are {num_points} points with "
                f"{num_seeds} seeds; expected fl.noise_keys({num_points * num_seeds}), or None."
            )
        return NoiseKeys(noise_key.key.reshape((num_points, num_seeds)))
    own = jax.vmap(lambda seed: jax.random.fold_in(as_key(noise_key, "noise_key"), seed))(jnp.asarray(seed_list))
    return jnp.stack([own] * num_points)
