"""Validators of arrays and pytrees: each error names the leaf."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite.plain_values import LARGEST_FLOAT, LARGEST_INT, in_order, is_real, is_traced, narrowed, say, shown


def real_array(
    remedy: str = "", *, shape: str = "[...]", ndim: int | None = None, narrow: bool = False, **named: Any
) -> Any:
    """Refuses what is no rectangular array of real numbers, and gives NumPy's array of it; tracers pass as they are.

    Args:
      remedy: what to do.
      shape: the shape as users write it, for the message.
      ndim: how many axes; None for any number.
      narrow: whether float64 becomes float32, infinite where it has to be.
      **named: the arrays, by the argument's name.
    """
    made = {}
    for name, value in named.items():
        if is_traced(value):
            made[name] = value
            continue
        array = as_array(name, value, f"an array {shape} of real numbers", remedy)
        if array.dtype != bool and not is_real(array.dtype):
            raise TypeError(say(name, value, f"an array {shape} of real numbers", remedy))
        if ndim is not None and array.ndim != ndim:
            raise ValueError(say(name, value, f"an array {shape} of real numbers", remedy))
        made[name] = narrowed(array) if narrow else array
    return in_order(made)


def as_array(name: str, value: Any, expected: str, remedy: str = "", *, marked: bool = True) -> np.ndarray:
    """NumPy's array of a value, where it makes one: a ragged list, an iterator or a tracer makes none."""
    name = f"`{name}`" if marked else name

    def refused(expected: str) -> TypeError:
        return TypeError(f"{name} is {shown(value)}; expected {expected}. {remedy}".rstrip())

    if is_traced(value):
        raise refused(f"{expected}, not one that is traced")
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError):  # ragged, or objects that refuse
        raise refused(expected) from None
    # Of an array of objects its dtype and shape tell more; columns of text are such arrays.
    if array.dtype == object and not isinstance(value, np.ndarray) and not _all_text(array):
        raise refused(expected)
    return array


def _all_text(array: np.ndarray) -> bool:
    return array.ndim > 0 and all(isinstance(entry, str) for entry in array.flat)


def numeric_leaves(name: str, tree: Any, *, remedy: str = "", keys: bool = False, structs: bool = False) -> None:
    """Refuses a pytree with a leaf that is no number: a text, an object, an int beyond int32, an iterator.

    Args:
      name: of the argument.
      tree: the pytree.
      remedy: what to do.
      keys: whether random keys may be among the leaves.
      structs: whether a `jax.ShapeDtypeStruct` may stand for an array.
    """
    if isinstance(tree, Iterator):
        raise TypeError(say(name, tree, "a pytree of arrays", remedy))
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        where = f"{name}{jax.tree_util.keystr(path)}"
        if isinstance(leaf, (np.ndarray, np.generic)):
            fits = leaf.dtype.kind in "biufV"
        elif isinstance(leaf, jax.ShapeDtypeStruct):
            fits = structs
        elif hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
            fits = is_real(leaf.dtype) or leaf.dtype == bool or keys
        else:
            fits = isinstance(leaf, (bool, int, float))
        if not fits:
            raise TypeError(say(where, leaf, "an array or a number", remedy))
        if isinstance(leaf, int) and not -LARGEST_INT <= leaf <= LARGEST_INT:
            raise ValueError(say(where, leaf, "an int within int32", remedy))
        if isinstance(leaf, float) and LARGEST_FLOAT < abs(leaf) < math.inf:
            raise ValueError(say(where, leaf, "a number within 3.4e38, the largest float32", remedy))


def float_leaves(name: str, tree: Any, *, remedy: str = "") -> None:
    """Refuses a pytree without leaves, or with one that has no gradient: ints, bools, and what no device takes."""
    numeric_leaves(name, tree, remedy=remedy)
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    if not leaves:
        raise ValueError(say(name, tree, "a pytree with at least one array of floats", remedy))
    for path, leaf in leaves:
        dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(say(f"{name}{jax.tree_util.keystr(path)}", leaf, f"floats, and not {dtype}", remedy))


def path_str(path: tuple[Any, ...]) -> str:
    """A pytree path as users write it, such as ['dense']['kernel']; the root is 'the root'."""
    return jax.tree_util.keystr(path) or "the root"


def path_names(path: tuple[Any, ...]) -> tuple[Any, ...]:
    """A pytree path as a tuple of the names on the way, such as ("dense", "kernel"), whatever the containers are."""
    return tuple(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k))) for k in path)


def same_structure(given: Any, expected: Any, *, what: str, than: str, remedy: str, any_dtype: bool = False) -> None:
    """Refuses a pytree whose structure, shapes or dtypes differ from `expected`, naming the first path that does."""
    if isinstance(given, Iterator):
        raise TypeError(f"{what} is {shown(given)}; expected the structure of {than}. {remedy}")
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
    want = want if hasattr(want, "shape") else jax.typeof(want)
    if tuple(got.shape) != tuple(want.shape) or (got.dtype != want.dtype and not any_dtype):
        raise ValueError(
            f"{what} has {got.dtype}{list(got.shape)} at {path}, where {than} has "
            f"{want.dtype}{list(want.shape)}. {remedy}"
        )
