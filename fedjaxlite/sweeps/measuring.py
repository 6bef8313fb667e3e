"""Evaluations of a sweep: within the program where they can be traced, on the host where not."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.directions import Direction, direction
from fedjaxlite.execution.cohort_pass import PassInfo
from fedjaxlite.execution.composition import Rounds
from fedjaxlite.observers import records

PyTree = Any


class Measures(NamedTuple):
    """The evaluations of a sweep, by how they are made.

    Attributes:
      traced: `(name, f(params))`, which the program holds.
      on_host: `(name, f(params))`, which are called for every run by itself: what makes reports, or needs NumPy.
      of_state: `(name, make(rounds))`, each of which makes an `f(state)` for the rounds of a point.
      names: what the last two measure.
      better: which way metrics are better, as was said.
    """

    traced: tuple[tuple[str, Callable[[Any], Any]], ...]
    on_host: tuple[tuple[str, Callable[[Any], Any]], ...]
    of_state: tuple[tuple[str, Callable[[Rounds], Any]], ...]
    names: tuple[str, ...]
    better: Mapping[str, Direction]


def measures(
    evaluate: Any,
    evaluate_state: Any,
    better: Mapping[str, Direction],
    params: Callable[[], PyTree],
    state: Callable[[], tuple[Rounds, Any]],
) -> Measures:
    """Sorts evaluations by how they can be made; those on the host are made once, so that what is wrong shows now.

    Args:
      evaluate: a function of the parameters, a dict of them by name, or None; a single one is called "test".
      evaluate_state: a function that makes one of the state from the rounds of a point, or a dict; a single one is
        called "clients".
      better: "lower" or "higher" of metrics.
      params: gives the first model of a run.
      state: gives the rounds of a point, and their first state.

    Raises:
      TypeError: for what is no function, or gives no scalars; and whatever an evaluation raises of the first model.
    """
    given = _named(evaluate, "test", "evaluate", "params")
    shapes = jax.eval_shape(params) if given else None
    traced, on_host = [], []
    for name, function in given.items():
        (traced if _is_traceable(function, shapes) else on_host).append((name, function))
    first, names = params() if on_host else None, []
    for name, function in on_host:
        names += [f"{name}_{metric}" for metric in records.scalars_of(function(first), f"the evaluation {name!r}")]
    of_state = _named(evaluate_state, "clients", "evaluate_state", "rounds")
    taken = sorted(set(given) & set(of_state))
    if taken:
        raise ValueError(f"`evaluate` and `evaluate_state` both name {', '.join(taken)}; give one another name.")
    if of_state:
        rounds, begun = state()
        for name, maker in of_state.items():
            function = maker(rounds)
            remedy = "It is a function of the rounds, which returns one of the state."
            checks.is_function_of("state", remedy=remedy, **{f"what `evaluate_state` made for {name!r}": function})
            found = records.scalars_of(function(begun), f"the evaluation {name!r}")
            names += [f"{name}_{metric}" for metric in found]
    return Measures(tuple(traced), tuple(on_host), tuple(of_state.items()), tuple(names), better)


def _named(given: Any, single: str, argument: str, takes: str) -> dict[str, Any]:
    if given is None:
        return {}
    named = given if isinstance(given, Mapping) else {single: given}
    for name, function in named.items():
        own = f"{argument}[{name!r}]" if isinstance(given, Mapping) else argument
        checks.is_function_of(takes, **{own: function})
    return {str(name): function for name, function in named.items()}


def _is_traceable(function: Callable[[Any], Any], shapes: Any) -> bool:
    try:
        found = jax.eval_shape(function, shapes)
    except Exception:  # of the user's own function; where it is wrong, the call on the host says so
        return False
    return isinstance(found, Mapping) and all(getattr(leaf, "shape", None) == () for leaf in found.values())


def in_program(found: Measures, params: PyTree, infos: PassInfo) -> dict[str, jax.Array]:
    """What a program measures after some rounds: their last one's training metrics, and the traced evaluations."""
    last = jax.tree.map(lambda leaf: leaf[-1], infos._replace(clients={}))
    nobody = last.num_reported <= last.num_nonfinite
    own = {
        f"train_{name}" if name in records.OWN else name: jnp.where(nobody, jnp.nan, value.astype(jnp.float32))
        for name, value in last.metrics.items()
    }
    for name, function in found.traced:
        own |= {f"{name}_{metric}": value for metric, value in function(params).items()}
    return own


def of_models(found: Measures, params: PyTree) -> dict[str, float]:
    """What is measured of one run's model outside of its program."""
    return _scalars({name: function(params) for name, function in found.on_host})


def of_states(functions: Mapping[str, Callable[[Any], Any]], state: Any) -> dict[str, float]:
    """What is measured of one run's state; `functions` are those that `of_state` made for its point."""
    return _scalars({name: function(state) for name, function in functions.items()})


def _scalars(results: Mapping[str, Any]) -> dict[str, float]:
    return {
        f"{name}_{metric}": value
        for name, result in results.items()
        for metric, value in records.scalars_of(result, f"the evaluation {name!r}").items()
    }


def direction_of(found: Measures, metric: str) -> Direction | None:
    """Which way a recorded metric is better, or None where nobody has said so."""
    if metric in found.better:
        return found.better[metric]
    for name, function in (*found.traced, *found.on_host, *found.of_state):
        if metric.startswith(f"{name}_"):
            said: dict[str, Direction] = {**getattr(function, "better", {}), **found.better}
            return direction(metric.removeprefix(f"{name}_"), said)
    return direction(metric.removeprefix("train_"), found.better)


def chosen(found: Measures, select: str | None, names: Iterable[str]) -> tuple[str | None, Direction | None]:
    """The metric that the best is chosen by, and which way it is better; None where nothing is chosen.

    Raises:
      ValueError: `select` names no metric, or one of which nobody says which way it is better.
    """
    names = list(names)
    if select is None:
        ways: dict[str, Direction] = {
            name: way for name in names if name.startswith("validation_") and (way := direction_of(found, name))
        }
        name = next((name for name in ("validation_accuracy", "validation_loss", *ways) if name in ways), None)
        return name, None if name is None else ways[name]
    if select not in names:
        meant = checks.did_you_mean(select, names) or " Name one of those."
        raise ValueError(f"`select` is {select!r}, and measured are {', '.join(names)}.{meant}")
    way = direction_of(found, select)
    if way is None:
        raise ValueError(
            f"`select` is {select!r}, and nobody says which way it is better. Say it: better={{{select!r}: "
            '"lower"}, or "higher".'
        )
    return select, way


def as_array(values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What programs measured, float64 on the host."""
    return {name: np.asarray(value, np.float64) for name, value in values.items()}
