"""Host-side arrays, ids and seeds: what a dict of features and a list of clients may hold, and how they are cast."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fedjaxlite import checks

MAX_EXAMPLES = 2**31 - 1
"""Offsets are int32, so that they mean the same on every device."""

ALIGNMENT = 64
"""Bytes; what XLA wants of an array on a CPU that it is not to copy."""

RESERVED = ("mask",)
"""Names that a batch uses itself."""

_KEPT_KINDS = "iufb"
_INT32 = np.iinfo(np.int32)


def generator(seed: int, *stream: int) -> np.random.Generator:
    """A numpy Generator for `seed` and a stream below it.

    Args:
      seed: int of at least 0.
      *stream: further ints; every combination gives independent numbers.

    Raises:
      TypeError: the seed is not an int. ValueError: it is negative.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"`seed` is {checks.shown(seed)}; expected an int of at least 0.")
    if seed < 0:
        raise ValueError(f"`seed` is {seed}; expected an int of at least 0.")
    return np.random.default_rng(np.random.SeedSequence(int(seed), spawn_key=stream))


def aligned(shape: Sequence[int], dtype: Any, *, zeros: bool = False) -> np.ndarray:
    """An array as JAX takes it on a CPU without a copy: a population lies in memory once, not once a device.

    It is empty, or of zeros, which take memory as they are written to.
    """
    num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    room = (np.zeros if zeros else np.empty)(num_bytes + ALIGNMENT, np.uint8)
    begin = -room.ctypes.data % ALIGNMENT
    return room[begin : begin + num_bytes].view(dtype).reshape(shape)


def take(array: Any, rows: np.ndarray) -> np.ndarray:
    """`array[rows]` for rows that are there, in an aligned array."""
    array = np.asarray(array)
    if rows.dtype.kind not in "iu":
        raise TypeError(f"rows are {rows.dtype}; expected ints, such as np.flatnonzero(mask).")
    out = aligned((len(rows), *array.shape[1:]), array.dtype)
    return np.take(array, rows, axis=0, out=out, mode="clip")  # "raise" would go through a buffer


def frozen(array: np.ndarray) -> np.ndarray:
    """The array, aligned and from now on read-only; the caller gives it away."""
    if array.ctypes.data % ALIGNMENT or not array.flags.c_contiguous:
        own = aligned(array.shape, array.dtype)
        own[...] = array
        array = own
    array.flags.writeable = False
    return array


def check_countable(rows: int) -> None:
    """Refuses more rows than a Population in memory can count."""
    if rows > MAX_EXAMPLES:
        raise ValueError(
            f"there are {rows} examples; one Population in memory holds at most 2**31 - 1 = {MAX_EXAMPLES}. On a disk "
            "there may be more: Population.write."
        )


def num_rows(features: Mapping[str, Any]) -> int:
    """The common leading dimension of a dict of arrays.

    Raises:
      TypeError: `features` is no mapping from names to arrays.
      ValueError: it is empty, a feature has no leading dimension, two features differ in it, or there are more rows
        than int32 offsets can count.
    """
    if not isinstance(features, Mapping):
        raise TypeError(f"features are a {type(features).__name__}; expected a dict from names to arrays [n, ...].")
    if not features:
        raise ValueError("features are empty; expected at least one array, such as {'x': x, 'y': y}.")
    first, rows = "", -1
    for name, array in features.items():
        if not isinstance(name, str):
            raise TypeError(f"the feature name {name!r} is of type {type(name).__name__}; expected a str.")
        shape = array.shape if hasattr(array, "shape") else as_rows(name, array).shape
        if not shape:
            raise ValueError(f"feature {name!r} is a scalar; expected an array [n, ...] with one row an example.")
        if rows < 0:
            first, rows = name, shape[0]
        elif shape[0] != rows:
            raise ValueError(
                f"feature {name!r} has {shape[0]} rows, but feature {first!r} has {rows}; expected one row "
                "an example in every feature."
            )
    check_countable(rows)
    return rows


def as_features(
    features: Mapping[str, Any],
    *,
    where: Callable[[int], str],
    check_finite: bool = True,
    num_classes: int | None = None,
) -> dict[str, np.ndarray]:
    """Checks a dict of arrays and casts it to what a device takes.

    float64 becomes float32, (u)int64 becomes int32 where every value fits; all narrower kinds stay as they are.

    Args:
      features: dict of arrays `[n, ...]`.
      where: says whose row an index is, for messages.
      check_finite: refuse NaN and infinity in float features.
      num_classes: the values of feature `y` must lie in `[0, num_classes)`.

    Returns:
      A dict of numpy arrays with the same names, in the same order.

    Raises:
      TypeError: an array of objects, text or another kind that no device takes.
      ValueError: a reserved name, a value that is not finite, out of range, or beyond int32.
    """
    num_rows(features)
    for name in RESERVED:
        if name in features:
            raise ValueError(f"the feature name {name!r} is reserved for the mask of a batch's real rows; rename it.")
    cast = {name: _cast(name, as_rows(name, array), where) for name, array in features.items()}
    if checks.flag(check_finite=check_finite):
        for name, array in cast.items():
            _check_finite(name, array, where)
    if num_classes is not None:
        num_classes = int(checks.positive_int(num_classes=num_classes))
        _check_labels(cast, num_classes, where)
    return cast


def as_rows(name: str, array: Any, whose: str = "") -> np.ndarray:
    """NumPy's array of a feature; a ragged list makes none."""
    expected = "a rectangular array [n, ...]"
    remedy = "Pad rows of different lengths to one length."
    return checks.as_array(f"feature {name!r}{whose}", array, expected, remedy, marked=False)


def as_ids(what: str, ids: Any) -> np.ndarray:
    """A flat array of ints or strings, or an error about `what`."""
    array = checks.as_array(what, ids, "a flat list of ints or strings", marked=False)
    if array.dtype == object and array.ndim == 1 and all(isinstance(i, str) for i in array):
        array = array.astype(np.str_)
    if array.ndim != 1:
        raise ValueError(f"{what} has shape {list(array.shape)}; expected one id each, a flat list.")
    if array.dtype.kind not in "iuUS" and array.size:
        raise TypeError(f"{what} has dtype {array.dtype}; expected ints or strings.")
    return array


def distinct(what: str, ids: np.ndarray) -> np.ndarray:
    """The ids, where none of them comes twice."""
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"{what} holds {values[counts > 1][0].item()!r} more than once; expected distinct clients.")
    return ids


def names_of(names: Any, num_clients: int) -> np.ndarray:
    """`[N]` distinct ids in an array of their own, read-only."""
    given = distinct("names", as_ids("names", names))
    if len(given) != num_clients:
        raise ValueError(f"names has {len(given)} entries for {num_clients} clients; expected one a client.")
    own = given.copy()
    own.flags.writeable = False
    return own


def owners(ids: np.ndarray, order: Any) -> tuple[np.ndarray, np.ndarray]:
    """The clients' names `[N]`, and for each row the position of its client among them."""
    found, owner = np.unique(ids, return_inverse=True)
    if order is None:
        if not found.size:
            raise ValueError("there are no examples, and so no clients; pass order= and allow_empty=True to name them.")
        return found, owner
    names = distinct("order", as_ids("order", order))
    if not names.size:
        raise ValueError("order is empty; expected the id of every client.")
    if not found.size:
        return names, owner
    if (names.dtype.kind in "iu") != (found.dtype.kind in "iu"):
        raise TypeError(f"order has dtype {names.dtype}, but client_ids has {found.dtype}; expected one kind of id.")
    by_name = np.argsort(names, kind="stable")
    place = np.minimum(np.searchsorted(names, found, sorter=by_name), len(names) - 1)
    unknown = found[names[by_name[place]] != found]
    if unknown.size:
        raise ValueError(f"client_ids holds {unknown[0].item()!r}, which is not in order; name every client.")
    return names, by_name[place][owner]


def joined(clients: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The clients' sizes `[N]` and their arrays one after the other."""
    if isinstance(clients, (str, bytes, Mapping)) or not isinstance(clients, Sequence):
        raise TypeError(
            f"`clients` is {checks.shown(clients)}; expected a list with one dict of arrays a client, such as "
            "[{'x': x0, 'y': y0}, ...]."
        )
    if not clients:
        raise ValueError("`clients` is empty; expected a list with one dict of arrays a client.")
    for i, client in enumerate(clients):
        if not isinstance(client, Mapping):
            raise TypeError(
                f"client {i} of `clients` is {checks.shown(client)}; expected a dict from names to arrays [n, ...]."
            )
    names = list(clients[0])
    sizes = []
    for i, client in enumerate(clients):
        if set(client) != set(names):
            raise ValueError(f"client {i} has features {sorted(client)}, but client 0 has {sorted(names)}.")
        try:
            sizes.append(num_rows(client))
        except (TypeError, ValueError) as error:
            raise type(error)(f"client {i}: {error}") from None
    joined = {}
    for name in names:
        parts = [as_rows(name, client[name], f" of client {i}") for i, client in enumerate(clients)]
        for i, part in enumerate(parts):
            if part.shape[1:] != parts[0].shape[1:]:
                raise ValueError(
                    f"feature {name!r} of client {i} has rows of shape {list(part.shape[1:])}, but those of client 0 "
                    f"have {list(parts[0].shape[1:])}; expected one shape a feature."
                )
        joined[name] = np.concatenate(parts)
    return np.asarray(sizes), joined


def _cast(name: str, array: np.ndarray, where: Callable[[int], str]) -> np.ndarray:
    if array.dtype == np.float64:
        with np.errstate(over="ignore"):
            return array.astype(np.float32)
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8:
        beyond = (array > _INT32.max) | (array < _INT32.min) if array.size else np.zeros(0, bool)
        if beyond.any():
            row = int(np.argwhere(beyond)[0][0])
            raise ValueError(
                f"feature {name!r} holds {array[beyond][0]} at {where(row)}, beyond int32; devices hold int32. "
                "Renumber it, or scale it to float32."
            )
        return array.astype(np.int32)
    # ml_dtypes (bfloat16, float8) are of kind "V" to numpy, and have a name all the same
    if array.dtype.kind in _KEPT_KINDS or (array.dtype.kind == "V" and array.dtype.names is None and _is_float(array)):
        return array
    advice = (
        "rows of unequal shape make such an array: pad or cut them to one shape"
        if array.dtype == object
        else "map it to integers or floats first"
    )
    raise TypeError(f"feature {name!r} has dtype {array.dtype}; expected floats, integers or booleans: {advice}.")


def _is_float(array: np.ndarray) -> bool:
    import jax.numpy as jnp

    return bool(jnp.issubdtype(array.dtype, jnp.floating))


def _check_finite(name: str, array: np.ndarray, where: Callable[[int], str]) -> None:
    if array.dtype.kind not in "fV":
        return
    good = np.isfinite(array)
    if good.all():
        return
    row = int(np.argwhere(~good)[0][0])
    raise ValueError(
        f"feature {name!r} holds {array[~good][0]} at {where(row)}; expected finite values (as float32). Clean the "
        "data, or pass check_finite=False if it is meant."
    )


def _check_labels(features: Mapping[str, np.ndarray], num_classes: int, where: Callable[[int], str]) -> None:
    if "y" not in features:
        raise ValueError(f"num_classes={num_classes} checks feature 'y', but the features are {sorted(features)}.")
    labels = features["y"]
    if labels.dtype.kind not in "iu":
        raise TypeError(f"feature 'y' has dtype {labels.dtype}; num_classes={num_classes} expects integer labels.")
    beyond = (labels < 0) | (labels >= num_classes)
    if beyond.any():
        row = int(np.argwhere(beyond)[0][0])
        raise ValueError(
            f"feature 'y' holds label {labels[beyond][0]} at {where(row)}; expected 0 to {num_classes - 1} "
            f"(num_classes={num_classes})."
        )
