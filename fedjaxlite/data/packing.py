"""What the parts of a Population have to be, so that no client can own rows that are not there."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.data import host_arrays
from fedjaxlite.data.on_disk.folder import about

_REMEDY = "Population.from_arrays and Population.from_clients compute offsets and max_size."


def checked(features: Any, offsets: Any, max_size: Any, names: Any) -> tuple[Any, Any, int, Any]:
    """The parts of a Population, or an error about the one that cannot be.

    Values are looked at where there are any: of a tracer, or of a `jax.ShapeDtypeStruct`, the shape and dtype.

    Args:
      features: dict of arrays `[n_total, ...]`.
      offsets: integers `[N + 1]`, ascending from 0 to n_total.
      max_size: int of at least the largest client's size.
      names: `[N]` distinct ids, or None.

    Returns:
      the four; offsets as int32, where they were something else.

    Raises:
      TypeError, ValueError: as above.
    """
    rows = _rows(features)
    offsets = _offsets(offsets)
    max_size = checks.nonnegative_int("It is the number of examples of the largest client.", max_size=max_size)
    if _has_values(offsets):
        _check_values(np.asarray(offsets), rows, max_size)
    if names is not None:
        names = host_arrays.names_of(names, offsets.shape[0] - 1)
    return features, offsets, max_size, names


def _rows(features: Any) -> int | None:
    """The number of rows that all features have; None without a feature."""
    if not isinstance(features, Mapping):
        raise TypeError(f"`features` is {checks.shown(features)}; expected a dict from names to arrays [n, ...].")
    rows = None
    for name, array in features.items():
        if not isinstance(name, str):
            raise TypeError(f"`features` has the name {name!r}; expected a str.")
        shape, dtype = getattr(array, "shape", None), getattr(array, "dtype", None)
        if shape is None or dtype is None:
            raise TypeError(
                f"feature {name!r} is {checks.shown(array)}; expected an array [n, ...]. Population.from_arrays takes "
                "lists too."
            )
        if getattr(dtype, "kind", "O") not in "biufV":
            raise TypeError(f"feature {name!r} has dtype {dtype}; expected numbers. Map texts to ints first.")
        if not shape:
            raise ValueError(f"feature {name!r} is a scalar; expected an array [n, ...] with one row an example.")
        if rows is not None and shape[0] != rows:
            raise ValueError(
                f"feature {name!r} has {shape[0]} rows, and others have {rows}; expected one row an example in every "
                "feature."
            )
        rows = shape[0]
    return rows


def _offsets(offsets: Any) -> Any:
    if not hasattr(offsets, "shape"):
        offsets = checks.as_array("offsets", offsets, "ints [N + 1]", _REMEDY)
    dtype = getattr(offsets, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.integer):
        raise TypeError(f"`offsets` has dtype {dtype}; expected int32 [N + 1]. {_REMEDY}")
    if len(offsets.shape) != 1 or offsets.shape[0] < 2:
        raise ValueError(
            f"`offsets` has shape {list(offsets.shape)}; expected [N + 1] for N clients, at least one. {_REMEDY}"
        )
    if isinstance(offsets, np.ndarray) and dtype != np.int32:
        if int(offsets.max()) > host_arrays.MAX_EXAMPLES or int(offsets.min()) < 0:
            raise ValueError(
                f"`offsets` holds values from {offsets.min()} to {offsets.max()}; expected 0 to 2**31 - 1. {_REMEDY}"
            )
        return offsets.astype(np.int32)
    return offsets


def _has_values(offsets: Any) -> bool:
    if isinstance(offsets, jax.Array) and not checks.is_traced(offsets):
        return offsets.is_fully_addressable and not offsets.is_deleted()
    return isinstance(offsets, np.ndarray)


def _check_values(offsets: np.ndarray, rows: int | None, max_size: int) -> None:
    sizes = np.diff(offsets)
    if offsets[0] != 0:
        raise ValueError(
            f"`offsets` begins with {offsets[0]}; expected 0, where the first client's rows begin. {_REMEDY}"
        )
    if (sizes < 0).any():
        client = int(np.argmax(sizes < 0))
        raise ValueError(
            f"`offsets` goes down from {offsets[client]} to {offsets[client + 1]} at client {client}; expected "
            f"ascending ints from 0 to the number of rows. {_REMEDY}"
        )
    if rows is not None and offsets[-1] != rows:
        raise ValueError(
            f"`offsets` ends at {offsets[-1]}, but the features have {rows} rows; expected {rows}. {_REMEDY}"
        )
    if sizes.max() > max_size:
        raise ValueError(
            f"`max_size` is {max_size}, but client {int(sizes.argmax())} has {sizes.max()} examples; expected at least "
            f"{sizes.max()}. {_REMEDY}"
        )


def described(population: Any) -> str:
    """A Population in one line: counts, sizes, and the features' dtypes and shapes, never values."""
    kinds = []
    for name, array in population.features.items():
        shape = getattr(array, "shape", ())[1:]
        kinds.append(f"{name} {getattr(array, 'dtype', '?')}{list(shape) if shape else ''}")
    offsets = population.offsets
    counts = f"{getattr(offsets, 'shape', (0,))[0] - 1} clients"
    if population.stored is not None:
        header = population.stored.header
        counts += f", {header.num_examples} examples, {header.min_size} to {header.max_size} a client"
        return f"Population({counts}; {', '.join(kinds)}; {about(population.stored)})"
    if isinstance(offsets, (np.ndarray, jax.Array)) and not checks.is_traced(offsets):
        sizes = np.diff(np.asarray(offsets))
        counts += f", {sizes.sum()} examples, {sizes.min()} to {sizes.max()} a client"
    return f"Population({counts}; {', '.join(kinds)})"
