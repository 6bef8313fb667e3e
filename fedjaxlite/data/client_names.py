"""Clients by name: which index a name has, and what to say where there is none."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedjaxlite import checks
from fedjaxlite.data import host_arrays
from fedjaxlite.data.on_disk import names as names_on_disk

_LOOKED_THROUGH = 20_000
"""Names among which the nearest one is looked for: comparing texts is slow."""


def are_names(wanted: Any) -> bool:
    """Whether clients are asked for by name: a string, or a list or array that holds one. Ints are indices."""
    if isinstance(wanted, (str, bytes)):
        return True
    if isinstance(wanted, (np.ndarray, np.generic)):
        return wanted.dtype.kind in "US" or (wanted.dtype == object and any(isinstance(w, str) for w in wanted.flat))
    return isinstance(wanted, (list, tuple)) and any(isinstance(w, (str, bytes)) for w in wanted)


def chosen(population: Any, ids: Any) -> np.ndarray:
    """The indices of some clients, which are asked for by index or by name: distinct, int64 `[M]`, M of at least 1."""
    if isinstance(ids, (str, bytes)):
        raise TypeError(f"ids is {ids!r}; expected a list, such as [{ids!r}].")
    if are_names(ids):
        ids = population.index_of(ids)
    found = checks.as_array("ids", ids, "[M] client indices", marked=False)
    if found.size == 0 or found.ndim != 1:
        raise ValueError(f"ids has shape {list(found.shape)}; expected [M] client indices, at least one.")
    if found.dtype.kind not in "iu":
        raise TypeError(f"ids has dtype {found.dtype}; expected ints (for a mask use np.flatnonzero(mask)).")
    for i in (found.min(), found.max()):
        checked_index(i, population.num_clients)
    return host_arrays.distinct("ids", found).astype(np.int64)


def checked_index(index: Any, num_clients: int) -> int:
    """A client's index, refused where there is no such client."""
    if isinstance(index, (bool, np.bool_)) or not isinstance(index, (int, np.integer)):
        raise TypeError(f"a client's index is {index!r}; expected an int in [0, {num_clients}), or a name.")
    if not 0 <= index < num_clients:
        raise IndexError(f"client {index} is out of range; the population has clients 0 to {num_clients - 1}.")
    return int(index)


def index_of(
    known: np.ndarray | None, num_clients: int, wanted: Any, index: names_on_disk.Index | None = None
) -> int | np.ndarray:
    """The index of a client by its name, or int64 `[M]` of several.

    Args:
      known: all names, or None.
      num_clients: N.
      wanted: a name, or several.
      index: what finds a name on a disk; without, all names are gone through.
    """
    if known is None:
        raise ValueError(
            f"the population's {num_clients} clients have no names, so {checks.shown(wanted)} is none of them; ask by "
            f"index, 0 to {num_clients - 1}, or name them by population.renamed(names). Tree transformations, jit and "
            "jax.device_put drop names."
        )
    given = _flat(wanted)
    text = known.dtype.kind in "US"
    for name in given:
        fits = isinstance(name, (str, bytes)) if text else _is_int(name)
        if not fits:
            raise TypeError(
                f"a client's name is {checks.shown(name)}; this population's names are "
                f"{'strings' if text else 'ints'}, such as {known[0].item()!r}. client(i) and select([i]) take indices."
            )
    places = _places(known, given) if index is None else _found(known, given, index)
    return int(places[0]) if _is_single(wanted) else places


def _flat(wanted: Any) -> list[Any]:
    if _is_single(wanted):
        return [wanted]
    if isinstance(wanted, np.ndarray) and wanted.ndim == 1:
        return wanted.tolist()
    if isinstance(wanted, Sequence):
        return list(wanted)
    raise TypeError(f"`names` is {checks.shown(wanted)}; expected a client's name, or a list of names.")


def _is_single(wanted: Any) -> bool:
    return isinstance(wanted, (str, bytes, np.generic)) or _is_int(wanted)


def _is_int(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_))


def _places(known: np.ndarray, given: list[Any]) -> np.ndarray:
    names = known.tolist()
    if len(given) == 1:  # no table of a million names for one of them
        table = {given[0]: names.index(given[0])} if given[0] in names else {}
    else:
        table = dict(zip(names, range(len(names)), strict=True))
    for name in given:
        if name not in table:
            raise ValueError(f"there is no client named {name!r}{_nearest(name, names)}.")
    return np.fromiter((table[name] for name in given), np.int64, len(given))


def _found(known: np.ndarray, given: list[Any], index: names_on_disk.Index) -> np.ndarray:
    places = [names_on_disk.find(index, known, name) for name in given]
    for name, place in zip(given, places, strict=True):
        if place is None:
            near = _nearest(name, known[:_LOOKED_THROUGH].tolist(), len(known))
            raise ValueError(f"there is no client named {name!r}{near}.")
    return np.array(places, np.int64)


def _nearest(name: Any, names: list[Any], count: int | None = None) -> str:
    count = len(names) if count is None else count
    some = ", ".join(repr(n) for n in names[:5]) + (" ..." if count > 5 else "")
    listed = f"; the population's {count} clients are named {some}"
    if not isinstance(name, str):
        return listed
    meant = checks.nearest(name, names[:_LOOKED_THROUGH])
    return listed if meant is None else f"; did you mean {meant!r}{listed.replace('; ', '? ', 1)}"
