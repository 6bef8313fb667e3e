"""Validators for arguments: each error says what was given, where, what was expected and what to do.

Those of numbers, flags and choices return what they passed as a plain Python value: NumPy's and JAX's scalars go no
further, since strict promotion, static arguments and records of a run all want to know what a number is.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from fedjaxlite.plain_values import LARGEST_FLOAT as LARGEST_FLOAT
from fedjaxlite.plain_values import LARGEST_INT as LARGEST_INT
from fedjaxlite.plain_values import did_you_mean as did_you_mean
from fedjaxlite.plain_values import in_order, is_real, plain_number, say
from fedjaxlite.plain_values import is_traced as is_traced
from fedjaxlite.plain_values import nearest as nearest
from fedjaxlite.plain_values import shown as shown
from fedjaxlite.tree_checks import as_array as as_array
from fedjaxlite.tree_checks import float_leaves as float_leaves
from fedjaxlite.tree_checks import numeric_leaves as numeric_leaves
from fedjaxlite.tree_checks import path_names as path_names
from fedjaxlite.tree_checks import path_str as path_str
from fedjaxlite.tree_checks import real_array as real_array
from fedjaxlite.tree_checks import same_structure as same_structure


def positive_int(remedy: str = "", **named: Any) -> Any:
    """Refuses anything but an int from 1 to 2**31 - 1, by the argument's name.

    Returns:
      the plain int, or a tuple of them where several are named; so do the validators below.
    """
    return in_order({name: _int(name, value, 1, remedy) for name, value in named.items()})


def positive_count(remedy: str = "", **named: Any) -> Any:
    """Refuses anything but an int of at least 1, however large: of what is counted on the host, as intervals are."""
    return in_order({name: _int(name, value, 1, remedy, limit=None) for name, value in named.items()})


def nonnegative_int(remedy: str = "", **named: Any) -> Any:
    """Refuses anything but an int from 0 to 2**31 - 1."""
    return in_order({name: _int(name, value, 0, remedy) for name, value in named.items()})


def trip_count(remedy: str = "", **named: Any) -> Any:
    """Refuses all but an int of at least 1, a traced integer, or None: how often a loop runs, where it is given."""
    counts = {}
    for name, value in named.items():
        traced = isinstance(value, Tracer) and value.shape == () and jnp.issubdtype(value.dtype, jnp.integer)
        counts[name] = value.astype(jnp.int32) if traced else value if value is None else _int(name, value, 1, remedy)
    return in_order(counts)


def positive(remedy: str = "", **named: Any) -> Any:
    """Refuses a concrete number that is not finite and above zero (infinity is allowed by `nonnegative`)."""
    return _number(lambda v: 0 < v < math.inf, "a finite number above 0", remedy, named)


def nonnegative(remedy: str = "", **named: Any) -> Any:
    """Refuses a concrete number below zero or NaN; infinity passes."""
    return _number(lambda v: v >= 0, "a number of at least 0", remedy, named)


def probability(remedy: str = "", **named: Any) -> Any:
    """Refuses a concrete number outside (0, 1]."""
    return _number(lambda v: 0 < v <= 1, "a number in (0, 1]", remedy, named)


def fraction(remedy: str = "", **named: Any) -> Any:
    """Refuses a concrete number outside [0, 1)."""
    return _number(lambda v: 0 <= v < 1, "a number in [0, 1)", remedy, named)


def number(remedy: str = "", **named: Any) -> Any:
    """Refuses what is no finite real number, of whatever sign."""
    return _number(math.isfinite, "a finite number", remedy, named)


def concrete(remedy: str = "", **named: Any) -> Any:
    """Refuses a tracer where the value itself is needed: a size, a range, a figure of an accountant."""
    for name, value in named.items():
        if is_traced(value):
            raise TypeError(
                f"`{name}` is traced; expected a concrete number or array, outside of jit. {remedy}".rstrip()
            )
    return in_order(named)


def flag(remedy: str = "", **named: Any) -> Any:
    """Refuses anything but True and False: a number or an array would be taken for one of them without a word."""
    for name, value in named.items():
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(say(name, value, "True or False", remedy))
    return in_order({name: bool(value) for name, value in named.items()})


def text(remedy: str = "", **named: Any) -> Any:
    """Refuses anything but a str."""
    for name, value in named.items():
        if not isinstance(value, str):
            raise TypeError(say(name, value, "a str", remedy))
    return in_order({name: str(value) for name, value in named.items()})


def one_of(options: tuple[Any, ...] | list[Any], remedy: str = "", **named: Any) -> Any:
    """Refuses a value that is not among `options`, and lists them; 1 is not True, nor is an array."""
    found = {}
    for name, value in named.items():
        plain = bool(value) if isinstance(value, np.bool_) else int(value) if isinstance(value, np.integer) else value
        matches = [
            o for o in options if o is plain or (isinstance(plain, type(o)) and not _mixed(o, plain) and o == plain)
        ]
        if not matches:
            raise ValueError(say(name, value, "one of " + ", ".join(repr(o) for o in options), remedy))
        found[name] = matches[0]
    return in_order(found)


def is_callable(remedy: str = "", **named: Any) -> None:
    """Refuses a value that cannot be called."""
    for name, value in named.items():
        if not callable(value):
            raise TypeError(say(name, value, "a function", remedy))


def is_function_of(*arguments: str, remedy: str = "", **named: Any) -> None:
    """Refuses what cannot be called by position with so many arguments, as far as its signature can be read.

    Args:
      *arguments: what the function is given, such as "params", "batch", "key".
      remedy: what to do.
      **named: the functions, by the argument's name.
    """
    for name, value in named.items():
        expected = f"a function of ({', '.join(arguments)})"
        if not callable(value):
            raise TypeError(say(name, value, expected, remedy))
        try:
            signature = inspect.signature(value)
        except (TypeError, ValueError):
            continue
        try:
            signature.bind(*arguments)
        except TypeError as error:
            given = f"{getattr(value, '__name__', 'a function')}{signature}"
            raise TypeError(f"`{name}` is {given}; expected {expected}. {remedy}".rstrip()) from error


def one_instance(kind: type | tuple[type, ...], expected: str, **named: Any) -> None:
    """Refuses what is no `kind`; `expected` says what to pass, such as "a Sampler, such as fl.sampling.uniform(10)"."""
    for name, value in named.items():
        if not isinstance(value, kind):
            raise TypeError(say(name, value, expected, ""))


def is_optimizer(**named: Any) -> None:
    """Refuses what is no optax optimizer."""
    for name, value in named.items():
        if isinstance(value, type) or not (
            callable(getattr(value, "init", None)) and callable(getattr(value, "update", None))
        ):
            raise TypeError(say(name, value, "an optax optimizer, such as optax.sgd(0.1)", ""))


def is_key(**named: Any) -> None:
    """Refuses what is no random key: one of `jax.random.key`, or the raw uint32 data of one."""
    for name, key in named.items():
        dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
        raw = dtype == jnp.uint32 and shape in ((2,), (4,)) and not isinstance(key, jax.ShapeDtypeStruct)
        if raw or (isinstance(key, jax.Array) and shape == () and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
            continue
        given = f"{dtype}{list(shape)}" if dtype is not None and shape is not None else shown(key)
        raise TypeError(f"`{name}` is {given}; expected one random key, such as jax.random.key(0).")


def options_of(
    name: str, options: Mapping[str, Any], allowed: tuple[str, ...], function: Callable[..., Any] | None = None
) -> None:
    """Refuses keywords that a function hands on and that are none of those it documents, by the name of that function.

    Args:
      name: the function that the user called.
      options: its `**options`.
      allowed: the keywords that it takes.
      function: where given, its own keywords are listed too.
    """
    own = (
        []
        if function is None
        else [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    )
    for option in options:
        if option not in allowed:
            raise TypeError(
                f"{name}() got an unexpected keyword argument {option!r}; expected some of "
                f"{', '.join([*own, *allowed])}. Correct the spelling, or leave it out."
            )


def _number(holds: Callable[[Any], bool], expected: str, remedy: str, named: Mapping[str, Any]) -> Any:
    values = {}
    for name, value in named.items():
        values[name] = value
        if isinstance(value, Tracer) and value.shape == () and is_real(value.dtype):
            whole_or_narrow = jnp.issubdtype(value.dtype, jnp.integer) or value.dtype.itemsize < 4
            values[name] = value.astype(jnp.float32) if whole_or_narrow else value
            continue
        plain = plain_number(value)
        if plain is None:
            raise TypeError(say(name, value, expected, remedy))
        if not holds(plain):
            raise ValueError(say(name, value, expected, remedy))
        if LARGEST_FLOAT < abs(plain) < math.inf:
            raise ValueError(say(name, value, f"{expected} and within 3.4e38, the largest float32", remedy))
        values[name] = plain
    return in_order(values)


def _int(name: str, value: Any, least: int, remedy: str, limit: int | None = LARGEST_INT) -> int:
    expected = f"an int of at least {least}"
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(say(name, value, expected, remedy))
    if value < least:
        raise ValueError(say(name, value, expected, remedy))
    if limit is not None and value > limit:
        raise ValueError(say(name, value, f"{expected} and at most 2**31 - 1, the largest int32", remedy))
    return int(value)


def _mixed(option: Any, value: Any) -> bool:
    """Whether one of the two is a bool and the other a number."""
    return isinstance(option, bool) != isinstance(value, bool)
