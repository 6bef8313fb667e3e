"""Validators for arguments: each error says what was given, where, what was expected and what to do."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.core import Tracer


def is_traced(value: Any) -> bool:
    """Whether any leaf of `value` is a tracer; build-time checks skip such values."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(value))


def positive_int(remedy: str = "", **named: Any) -> None:
    """Refuses anything but an int of at least 1, by the argument's name."""
    for name, value in named.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise TypeError(_say(name, value, "an int of at least 1", remedy))
        if value < 1:
            raise ValueError(_say(name, value, "an int of at least 1", remedy))


def positive(remedy: str = "", **named: Any) -> None:
    """Refuses a concrete number that is not finite and above zero (infinity is allowed by `nonnegative`)."""
    _number(lambda v: v > 0 and np.isfinite(v), "a finite number above 0", remedy, named)


def nonnegative(remedy: str = "", **named: Any) -> None:
    """Refuses a concrete number below zero or NaN; infinity passes."""
    _number(lambda v: v >= 0, "a number of at least 0", remedy, named)


def probability(remedy: str = "", **named: Any) -> None:
    """Refuses a concrete number outside (0, 1]."""
    _number(lambda v: 0 < v <= 1, "a number in (0, 1]", remedy, named)


def fraction(remedy: str = "", **named: Any) -> None:
    """Refuses a concrete number outside [0, 1)."""
    _number(lambda v: 0 <= v < 1, "a number in [0, 1)", remedy, named)


def one_of(options: tuple[Any, ...] | list[Any], remedy: str = "", **named: Any) -> None:
    """Refuses a value that is not among `options`, and lists them."""
    for name, value in named.items():
        if value not in options:
            raise ValueError(_say(name, value, "one of " + ", ".join(repr(o) for o in options), remedy))


def is_callable(remedy: str = "", **named: Any) -> None:
    """Refuses a value that cannot be called."""
    for name, value in named.items():
        if not callable(value):
            raise TypeError(_say(name, value, "a function", remedy))


def path_str(path: tuple[Any, ...]) -> str:
    """A pytree path as users write it, such as ['dense']['kernel']; the root is 'the root'."""
    return jax.tree_util.keystr(path) or "the root"


def same_structure(given: Any, expected: Any, *, what: str, than: str, remedy: str, any_dtype: bool = False) -> None:
    """Refuses a pytree whose structure, shapes or dtypes differ from `expected`, naming the first path that does."""
    given_leaves = {path_str(p): leaf for p, leaf in jax.tree_util.tree_flatten_with_path(given)[0]}
    expected_leaves = {path_str(p): leaf for p, leaf in jax.tree_util.tree_flatten_with_path(expected)[0]}
    for path, leaf in expected_leaves.items():
        if path not in given_leaves:
            raise ValueError(f"{what} has no leaf at {path}; expected the structure of {than}. {remedy}")
        _same_leaf(given_leaves[path], leaf, path, (what, than, remedy), any_dtype)
    for path in given_leaves:
        if path not in expected_leaves:
            raise ValueError(f"{what} has an extra leaf at {path}; expected the structure of {than}. {remedy}")
    if jax.tree.structure(given) != jax.tree.structure(expected):
        raise ValueError(
            f"{what} has another tree structure than {than}: got {jax.tree.structure(given)}, "
            f"expected {jax.tree.structure(expected)}. {remedy}"
        )


def _same_leaf(given: Any, want: Any, path: str, words: tuple[str, str, str], any_dtype: bool) -> None:
    what, than, remedy = words
    got = given if hasattr(given, "shape") else jax.typeof(given)
    if tuple(got.shape) != tuple(want.shape) or (got.dtype != want.dtype and not any_dtype):
        raise ValueError(
            f"{what} has {got.dtype}{list(got.shape)} at {path}, where {than} has "
            f"{want.dtype}{list(want.shape)}. {remedy}"
        )


def _number(holds: Any, expected: str, remedy: str, named: Mapping[str, Any]) -> None:
    for name, value in named.items():
        if is_traced(value):
            continue
        if isinstance(value, (bool, str)) or value is None or np.ndim(value) != 0:
            raise TypeError(_say(name, value, expected, remedy))
        if not holds(float(value)):
            raise ValueError(_say(name, value, expected, remedy))


def _say(name: str, value: Any, expected: str, remedy: str) -> str:
    return f"`{name}` is {value!r}; expected {expected}." + (f" {remedy}" if remedy else "")
