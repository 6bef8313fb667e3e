"""The points of a grid, and which of their values may share a program."""

import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.execution.composition import Rounds, rounds

Point = dict[str, Any]


def points_of(grid: Any) -> tuple[Point, ...]:
    """The points of a grid: all combinations of a mapping's values, the last name fastest; or a list of points.

    Raises:
      TypeError, ValueError: for what is neither, for names without values, and for points that are there twice.

    Example:
      >>> points_of({"client_lr": [0.1, 0.3], "epochs": [1, 5]})[:2]
      ({'client_lr': 0.1, 'epochs': 1}, {'client_lr': 0.1, 'epochs': 5})
    """
    expected = 'a dict such as {"client_lr": [0.01, 0.1]}, or a list of dicts, one a point'
    if isinstance(grid, Mapping):
        axes = {str(name): _values(name, values) for name, values in grid.items()}
        points = [dict(zip(axes, chosen, strict=True)) for chosen in itertools.product(*axes.values())]
    elif isinstance(grid, Sequence) and grid and all(isinstance(point, Mapping) for point in grid):
        points = [{str(name): _plain(value) for name, value in point.items()} for point in grid]
        for index, point in enumerate(points):
            if set(point) != set(points[0]):
                raise ValueError(
                    f"`grid[{index}]` has {', '.join(point) or 'nothing'}, and `grid[0]` {', '.join(points[0])}; "
                    "expected the same names in every point."
                )
    else:
        raise TypeError(f"`grid` is {checks.shown(grid)}; expected {expected}.")
    for index, point in enumerate(points):
        if any(_same(point, other) for other in points[:index]):
            raise ValueError(f"`grid` has the point {told(point)} twice; leave one out. Seeds are what repeats a run.")
    return tuple(points)


def _values(name: Any, values: Any) -> list[Any]:
    if not isinstance(name, str):
        raise TypeError(f"`grid` has the key {name!r}; expected the name of a parameter of `make`.")
    array = isinstance(values, (np.ndarray, jax.Array)) and np.ndim(values) == 1
    if isinstance(values, (str, bytes, Mapping)) or not (array or isinstance(values, Iterable)):
        raise TypeError(f"`grid[{name!r}]` is {checks.shown(values)}; expected a list of values, such as [0.01, 0.1].")
    found = [_plain(value) for value in (np.asarray(values) if array else values)]
    if not found:
        raise ValueError(f"`grid[{name!r}]` is empty; expected at least one value.")
    return found


def _plain(value: Any) -> Any:
    """NumPy's and JAX's scalars as Python's own, so that points read and compare as they were written."""
    if isinstance(value, np.floating):
        return float(str(value))  # a float32 of 0.1 is 0.1, and not 0.10000000149
    return value.item() if isinstance(value, (np.generic, jax.Array)) and np.ndim(value) == 0 else value


def _same(one: Point, other: Point) -> bool:
    # By what is written: 1 and True, or 1 and 1.0, are other values, and what cannot be compared is no error.
    return all(type(one[n]) is type(other[n]) and repr(one[n]) == repr(other[n]) for n in one)


def told(point: Mapping[str, Any]) -> str:
    """A point for people.

    Example:
      >>> told({"client_lr": 0.1, "epochs": 5})
      'client_lr=0.1, epochs=5'
    """
    return ", ".join(f"{name}={shown(value)}" for name, value in point.items()) or "the only point"


def shown(value: Any) -> str:
    """A value of a point for people: numbers as short as they are, functions by their names."""
    if isinstance(value, float):
        return f"{value:g}"
    name = getattr(value, "__qualname__", None)
    return name.rsplit(".", 1)[-1] if isinstance(name, str) else str(value)


def check_make(make: Callable[..., Any], points: Sequence[Point]) -> None:
    """Refuses a `make` that does not take the names of the points, and names the nearest that it takes."""
    checks.is_callable(make=make)
    try:
        signature = inspect.signature(make)
    except (TypeError, ValueError):
        return
    parameters = signature.parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    known = [name for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for name in points[0]:
        if name not in known:
            meant = checks.did_you_mean(name, known) or " Name one of those."
            raise ValueError(f"`grid` names {name!r}, and `make` takes {', '.join(known) or 'nothing'}.{meant}")
    try:
        signature.bind(**points[0])
    except TypeError as error:
        raise TypeError(
            f"`make` is a function{signature}, and `grid` gives it {', '.join(points[0]) or 'nothing'}: {error}. Give "
            "the others defaults, or values in `grid`."
        ) from None


def made(make: Callable[..., Any], point: Point) -> Rounds:
    """What `make` gives for a point, on a single device: the runs are what is spread over devices."""
    run = make(**point)
    if not isinstance(run, Rounds):
        raise TypeError(f"`make({told(point)})` returned a {type(run).__name__}; expected what fl.rounds(...) returns.")
    execution = run.execution
    if execution.devices == 1 and not execution.donate and execution.jit:
        return run
    if execution.mesh is not None:
        raise ValueError(
            f"`make({told(point)})` returned rounds with `Execution(mesh=...)`, and each run of a sweep has one "
            "device, since runs are what is spread over them. Leave the mesh out, or run such points by fl.train."
        )
    alone = execution._replace(devices=1, donate=False, jit=True, mapping="shard_map")
    return rounds(run.algorithm, sampler=run.sampler, aggregator=run.aggregator, execution=alone)


def may_be_traced(points: Sequence[Point], traced: Sequence[str] | None) -> tuple[str, ...]:
    """The names whose values are numbers that differ, and that may therefore reach `make` as tracers.

    Args:
      points: all points.
      traced: the names that may be; None for all of which some value is a float. Ints count something as a rule,
        and then decide about shapes.
    """
    names = tuple(points[0])
    if traced is not None:
        for name in traced:
            if name not in names:
                raise ValueError(f"`traced` names {name!r}; `grid` has {', '.join(names) or 'nothing'}.")
            if not all(_is_number(point[name]) for point in points):
                raise ValueError(f"`traced` names {name!r}, whose values are not all numbers. Leave it out.")
    chosen = names if traced is None else tuple(traced)
    return tuple(
        name
        for name in names
        if name in chosen
        and all(_is_number(point[name]) for point in points)
        and (traced is not None or any(isinstance(point[name], float) for point in points))
        and len({point[name] for point in points}) > 1
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def together(points: Sequence[Point], indices: Sequence[int], traced: Sequence[str]) -> list[list[int]]:
    """The points that differ in traced names alone, group by group, in their order."""
    groups: dict[str, list[int]] = {}
    for index in indices:
        fixed = {name: value for name, value in points[index].items() if name not in traced}
        groups.setdefault(repr([(name, type(value), value) for name, value in fixed.items()]), []).append(index)
    return list(groups.values())


def numbers_of(points: Sequence[Point], traced: Sequence[str], runs: Sequence[int]) -> dict[str, jax.Array]:
    """For every traced name the values `[R]` of some runs, each that of its point.

    They promote as Python's numbers do (weakly typed), so that `make` gives what it would give for those.
    """
    return {name: jnp.stack([jnp.asarray(_as_kind(points, name, index)) for index in runs]) for name in traced}


def _as_kind(points: Sequence[Point], name: str, index: int) -> int | float:
    whole = all(isinstance(point[name], int) for point in points)
    return points[index][name] if whole else float(points[index][name])
