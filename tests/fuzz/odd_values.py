"""Odd values: what a user passes by mistake, made anew for each call since iterators are used up."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class Opaque:
    """An object that is nothing in particular."""


def two_arguments(a: Any, b: Any) -> Any:
    """A function of the wrong number of arguments, for most."""
    return a, b


def nothing(*args: Any, **kwargs: Any) -> None:
    """A function that forgot to return."""
    del args, kwargs


ODD: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "True": lambda: True,
    "False": lambda: False,
    "text": lambda: "abc",
    "empty text": lambda: "",
    "bytes": lambda: b"abc",
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "-inf": lambda: float("-inf"),
    "-1": lambda: -1,
    "0": lambda: 0,
    "1": lambda: 1,
    "2.5": lambda: 2.5,
    "0.5": lambda: 0.5,
    "-0.5": lambda: -0.5,
    "1e30": lambda: 1e30,
    "1e300": lambda: 1e300,
    "1e-30": lambda: 1e-30,
    "2**31": lambda: 2**31,
    "2**40": lambda: 2**40,
    "10**12": lambda: 10**12,
    "10**30": lambda: 10**30,
    "10**400": lambda: 10**400,
    "complex": lambda: 1 + 2j,
    "dict": dict,
    "dict of a number": lambda: {"a": 1},
    "dict of an array": lambda: {"x": np.ones(3, np.float32)},
    "empty list": list,
    "list": lambda: [1, 2],
    "list of None": lambda: [None],
    "ragged list": lambda: [[1, 2], [3]],
    "set": lambda: {1, 2},
    "function": lambda: nothing,
    "two arguments": lambda: two_arguments,
    "class": lambda: Opaque,
    "object": Opaque,
    "iterator": lambda: iter([1, 2]),
    "range": lambda: range(3),
    "np.int64": lambda: np.int64(2),
    "np.int8": lambda: np.int8(2),
    "np.uint32": lambda: np.uint32(2),
    "np.float64": lambda: np.float64(0.5),
    "np.float32": lambda: np.float32(0.5),
    "np.float16": lambda: np.float16(0.5),
    "np.bool": lambda: np.bool_(True),
    "np.str": lambda: np.str_("abc"),
    "np.datetime": lambda: np.datetime64("2020-01-01"),
    "jnp.int32": lambda: jnp.int32(2),
    "jnp.float32": lambda: jnp.float32(0.5),
    "jnp.bfloat16": lambda: jnp.bfloat16(0.5),
    "jnp.bool": lambda: jnp.bool_(True),
    "np 0-d": lambda: np.array(0.5),
    "array of one": lambda: np.ones(1),
    "floats": lambda: np.linspace(0.0, 1.0, 4, dtype=np.float32),
    "ints": lambda: np.arange(3),
    "bools": lambda: np.array([True, False, True]),
    "texts": lambda: np.array(["a", "b"]),
    "objects": lambda: np.array([None, 1], object),
    "nans": lambda: np.full(3, np.nan, np.float32),
    "negative": lambda: np.array([-1, 0, 5]),
    "large ints": lambda: np.array([0, 2**40]),
    "empty array": lambda: np.zeros(0, np.float32),
    "matrix": lambda: np.ones((2, 3), np.float32),
    "jax floats": lambda: jnp.ones(3),
    "jax ints": lambda: jnp.arange(3),
    "jax matrix": lambda: jnp.ones((3, 4)),
    "complex array": lambda: np.ones(3, np.complex64),
    "key": lambda: jax.random.key(0),
    "raw key": lambda: jax.random.PRNGKey(0),
    "keys": lambda: jax.random.split(jax.random.key(0), 3),
    "struct": lambda: jax.ShapeDtypeStruct((3,), jnp.float32),
    "nested": lambda: {"a": {"b": [1, (2.0, "c")]}},
    "lambda of three": lambda: lambda params, batch, key: batch["missing"],
    "loss of nothing": lambda: lambda params, batch, key: None,
    "pair": lambda: (1, 2),
    "shape": lambda: (4, 4, 1),
    "negative shape": lambda: (-1, 3),
}
"""Each by its name; a mutation is an argument and such a name."""

TRACED: dict[str, Callable[[], Any]] = {
    "traced float": lambda: jnp.float32(0.5),
    "traced int": lambda: jnp.int32(2),
    "traced array": lambda: jnp.ones(3),
}
"""Values that become tracers: the call runs inside of `jax.make_jaxpr` on them."""
