"""Values as Python's own: numbers of NumPy and JAX made plain, and anything at all as a message shows it."""

import difflib
import math
import numbers
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

LARGEST_INT = 2**31 - 1
LARGEST_FLOAT = float(np.finfo(np.float32).max)
"""Integers are int32 on devices, and numbers float32."""


def is_traced(value: Any) -> bool:
    """Whether any leaf of `value` is a tracer; build-time checks skip such values."""
    if isinstance(value, Iterator):
        return False  # no pytree, and to look into it would use it up
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(value))


def shown(value: Any) -> str:
    """A value as messages write it: arrays by dtype and shape, long texts cut."""
    if isinstance(value, (np.ndarray, jax.Array)) and not isinstance(value, Tracer):
        number = value.ndim == 0 and (is_real(value.dtype) or value.dtype == bool)
        return " ".join(repr(value).split()) if number else f"an array {value.dtype}{list(value.shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 200 else f"{text[:200]}..."


def say(name: str, value: Any, expected: str, remedy: str) -> str:
    """The message of an error: what was given, what was expected, what to do."""
    return f"`{name}` is {shown(value)}; expected {expected}." + (f" {remedy}" if remedy else "")


def in_order(named: Mapping[str, Any]) -> Any:
    """The only value, or a tuple of them in the order they were named."""
    values = tuple(named.values())
    return values[0] if len(values) == 1 else values


def plain_number(value: Any) -> int | float | None:
    """The real number that a scalar of Python, NumPy or JAX is; None for everything else."""
    if isinstance(value, (np.ndarray, jax.Array)) and not isinstance(value, Tracer):
        value = value.item() if value.ndim == 0 and is_real(value.dtype) else None
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        return None
    if isinstance(value, numbers.Integral) and abs(int(value)) <= LARGEST_INT:
        return int(value)
    try:
        return float(value)  # an int that no device holds is a float too
    except OverflowError:
        return math.inf if value == abs(value) else -math.inf


def is_real(dtype: Any) -> bool:
    """Whether a dtype is of real numbers."""
    return jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.floating)


def narrowed(value: Any) -> Any:
    """float32 of NumPy's float64, without NumPy's warning where that is infinite; anything else as it is."""
    if not (isinstance(value, np.ndarray) and value.dtype == np.float64):
        return value
    with np.errstate(over="ignore"):
        return value.astype(np.float32)


def nearest(word: Any, known: Iterable[Any]) -> Any:
    """The one of some names that a wrong one was probably meant to be, whatever its case; None where none is near."""
    by_word = {str(name).lower(): name for name in known}
    near = difflib.get_close_matches(str(word).strip().lower(), list(by_word), n=1, cutoff=0.5)  # short names too
    return by_word[near[0]] if near else None


def did_you_mean(word: Any, known: Iterable[Any]) -> str:
    """The end of a message about a name that is not there: a question after the one that was probably meant.

    Args:
      word: the name that was given.
      known: those that there are, in any order.

    Returns:
      " Did you mean 'eden'?", or nothing where none is near.

    Example:
      >>> did_you_mean("Edn", ["eden", "sign"]), did_you_mean("x", ["eden"])
      (" Did you mean 'eden'?", '')
    """
    near = nearest(word, known)
    return "" if near is None else f" Did you mean {near!r}?"
