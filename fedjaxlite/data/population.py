"""The population: every client's examples, packed one after the other without padding."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import jax
import numpy as np

from fedjaxlite import checks, files
from fedjaxlite.data import client_names, host_arrays, packing

_FORMAT = "fedjaxlite population 1"


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True, eq=False, repr=False)
class Population:
    """N clients' examples in one array per feature.

    Client i owns the rows `offsets[i]:offsets[i + 1]` of every feature. There is no padding: a million small clients
    are a million offsets. A Population is a pytree of its features and offsets, so it goes through `jax.jit` and
    `jax.device_put`; `max_size` is static, and `names` (the clients' own ids) stay on the host and are dropped by
    tree transformations. The constructors below copy what they are given into read-only numpy arrays. A Population
    that is made of its parts keeps them as they are, and is checked: shapes and dtypes always, the offsets where their
    values are known (not under `jit`). Tree transformations rebuild without checks.

    Attributes:
      features: dict of arrays `[n_total, ...]`.
      offsets: int32 `[N + 1]`, ascending from 0 to `n_total`; lists and int64 become int32.
      max_size: int, the number of examples of the largest client, or a bound on it.
      names: host array `[N]` of the ids that the clients came with, or None.

    Raises:
      TypeError, ValueError: parts that do not fit together; the text says which.

    Example:
      >>> import numpy as np
      >>> import fedjaxlite as fl
      >>> population = fl.Population.from_arrays({"x": np.eye(3), "y": [0, 1, 0]}, client_ids=["b", "a", "b"])
      >>> population
      Population(2 clients, 3 examples, 1 to 2 a client; x float32[3], y int32)
      >>> population.names.tolist(), population.client(1)["y"].tolist()
      (['a', 'b'], [0, 0])
    """

    features: Mapping[str, Any]
    offsets: Any
    max_size: int
    names: np.ndarray | None = None

    def __post_init__(self) -> None:
        parts = packing.checked(self.features, self.offsets, self.max_size, self.names)
        for name, value in zip(("features", "offsets", "max_size", "names"), parts, strict=True):
            object.__setattr__(self, name, value)

    def tree_flatten_with_keys(self) -> tuple[Any, Any]:
        """The features and the offsets are the leaves; the largest size is static."""
        key = jax.tree_util.GetAttrKey
        return ((key("features"), self.features), (key("offsets"), self.offsets)), self.max_size

    @classmethod
    def tree_unflatten(cls, max_size: int, children: Any) -> "Population":
        """Rebuilds a Population of whatever the leaves have become; the clients' names are not restored."""
        made = object.__new__(cls)
        for name, value in (
            ("features", children[0]),
            ("offsets", children[1]),
            ("max_size", max_size),
            ("names", None),
        ):
            object.__setattr__(made, name, value)
        return made

    @property
    def num_clients(self) -> int:
        """N, the number of clients: an int, static."""
        return self.offsets.shape[0] - 1

    @property
    def num_examples(self) -> Any:
        """`[N]`, the number of examples of each client."""
        return self.offsets[1:] - self.offsets[:-1]

    @classmethod
    def from_arrays(
        cls,
        features: Mapping[str, Any],
        client_ids: Any,
        *,
        order: Sequence[Any] | np.ndarray | None = None,
        num_classes: int | None = None,
        check_finite: bool = True,
        allow_empty: bool = False,
    ) -> "Population":
        """Groups plain arrays by the client that owns each row.

        The rows of a client keep their order. float64 becomes float32 and int64 becomes int32; narrower dtypes, such
        as uint8, are kept.

        Args:
          features: dict of arrays `[n, ...]`.
          client_ids: `[n]` ints or strings, the owner of each row.
          order: the clients' ids in the order wanted; sorted ids where not given.
          num_classes: where given, feature `y` must hold labels in `[0, num_classes)`.
          check_finite: refuse NaN and infinity, naming feature, row and client.
          allow_empty: let ids of `order` own no row.

        Returns:
          A Population on the host, with `names` holding the ids.

        Raises:
          TypeError: ids or features of a dtype that is not understood.
          ValueError: lengths that disagree, clients without examples, values out of range; the text says where.

        Example:
          >>> import fedjaxlite as fl
          >>> owners = [7, 3, 7]
          >>> fl.Population.from_arrays({"y": [10, 20, 30]}, owners, order=[7, 3]).client(0)["y"].tolist()
          [10, 30]
        """
        n = host_arrays.num_rows(features)
        ids = host_arrays.as_ids("client_ids", client_ids)
        if ids.shape[0] != n:
            raise ValueError(
                f"client_ids has {ids.shape[0]} entries, but feature {next(iter(features))!r} has {n} rows; expected "
                "one owner a row."
            )
        names, owner = host_arrays.owners(ids, order)
        cast = host_arrays.as_features(
            features,
            where=lambda row: f"row {row} (client {ids[row].item()!r})",
            check_finite=check_finite,
            num_classes=num_classes,
        )
        sizes = np.bincount(owner, minlength=len(names))
        rows = np.argsort(owner, kind="stable")
        return packed({k: host_arrays.take(v, rows) for k, v in cast.items()}, sizes, names, allow_empty)

    @classmethod
    def from_clients(
        cls,
        clients: Sequence[Mapping[str, Any]],
        *,
        names: Sequence[Any] | np.ndarray | None = None,
        num_classes: int | None = None,
        check_finite: bool = True,
        allow_empty: bool = False,
    ) -> "Population":
        """Packs one dict of arrays a client, in the order given.

        Args:
          clients: N dicts with the same feature names; the arrays of client i are `[n_i, ...]`.
          names: `[N]` distinct ids, or None.
          num_classes: as in `from_arrays`.
          check_finite: as in `from_arrays`.
          allow_empty: let a client have no row.

        Returns:
          A Population on the host.

        Raises:
          TypeError: features of a dtype that is not understood.
          ValueError: as `from_arrays`, and clients whose features or shapes differ.

        Example:
          >>> import fedjaxlite as fl
          >>> fl.Population.from_clients([{"y": [1]}, {"y": [2, 3]}]).num_examples.tolist()
          [1, 2]
        """
        sizes, joined = host_arrays.joined(clients)
        ends = np.cumsum(sizes)

        def where(row: int) -> str:
            client = int(np.searchsorted(ends, row, side="right"))
            return f"row {row - (ends[client] - sizes[client])} of client {client}"

        cast = host_arrays.as_features(joined, where=where, check_finite=check_finite, num_classes=num_classes)
        given = None if names is None else host_arrays.names_of(names, len(sizes))
        return packed(cast, sizes, given, allow_empty)

    def client(self, index: int | str) -> dict[str, Any]:
        """The arrays of one client, `[n_i, ...]` each.

        Args:
          index: int in `[0, N)`, or the client's name where names are strings. An int is always an index, also where
            names are ints: `population.client(population.index_of(7))`. Negative indices are refused: a client id of
            -1 is a mistake more often than a wish.

        Raises:
          TypeError: the index is neither. IndexError: it is out of range. ValueError: nobody has this name.
        """
        i = self._index(self.index_of(index) if client_names.are_names(index) else index)
        start, stop = int(self.offsets[i]), int(self.offsets[i + 1])
        return {name: array[start:stop] for name, array in self.features.items()}

    @overload
    def index_of(self, names: str | int) -> int: ...
    @overload
    def index_of(self, names: Sequence[str] | Sequence[int] | np.ndarray) -> np.ndarray: ...
    def index_of(self, names: Any) -> Any:
        """The indices of clients by their names.

        Args:
          names: a name, or `[M]` names, of the kind that `population.names` are: strings or ints.

        Returns:
          an int; or int64 `[M]`, in the order of `names`.

        Raises:
          ValueError: nobody has this name (the text says which is nearest), or the population has no names.
          TypeError: names of another kind.

        Example:
          >>> import fedjaxlite as fl
          >>> population = fl.Population.from_arrays({"y": [10, 20, 30]}, client_ids=[7, 9, 12])
          >>> population.index_of(9), population.index_of([12, 7]).tolist()
          (1, [2, 0])
        """
        return client_names.index_of(self.names, self.num_clients, names)

    def select(self, ids: Sequence[int] | Sequence[str] | np.ndarray) -> "Population":
        """The Population of some of the clients.

        Args:
          ids: `[M]` distinct client indices in `[0, N)`, or names where these are strings (ints are always indices;
            see `index_of`); the result holds them in this order, renumbered from 0.

        Returns:
          A Population of M clients on the host, names kept.

        Raises:
          TypeError: no ints or names. IndexError: out of range. ValueError: none at all, one of them twice, or a name
            that nobody has.

        Example:
          >>> import fedjaxlite as fl
          >>> population = fl.Population.from_arrays({"y": [10, 20, 30]}, client_ids=["a", "b", "c"])
          >>> population.select([2, 0]).names.tolist(), population.select(["b"]).client("b")["y"].tolist()
          (['c', 'a'], [20])
        """
        if isinstance(ids, (str, bytes)):
            raise TypeError(f"ids is {ids!r}; expected a list, such as [{ids!r}].")
        if client_names.are_names(ids):
            ids = self.index_of(ids)
        chosen = checks.as_array("ids", ids, "[M] client indices", marked=False)
        if chosen.size == 0 or chosen.ndim != 1:
            raise ValueError(f"ids has shape {list(chosen.shape)}; expected [M] client indices, at least one.")
        if chosen.dtype.kind not in "iu":
            raise TypeError(f"ids has dtype {chosen.dtype}; expected ints (for a mask use np.flatnonzero(mask)).")
        for i in (chosen.min(), chosen.max()):
            self._index(i)
        host_arrays.distinct("ids", chosen)
        offsets = np.asarray(self.offsets, np.int64)
        sizes = (offsets[1:] - offsets[:-1])[chosen]
        shift = offsets[chosen] - (np.cumsum(sizes) - sizes)
        rows = np.repeat(shift, sizes) + np.arange(sizes.sum())
        names = None if self.names is None else self.names[chosen]
        return packed({k: host_arrays.take(v, rows) for k, v in self.features.items()}, sizes, names, allow_empty=True)

    def renamed(self, names: Sequence[Any] | np.ndarray) -> "Population":
        """The same clients under other names.

        Args:
          names: `[N]` distinct ints or strings.

        Returns:
          A Population that shares the arrays.

        Raises:
          TypeError: no ids. ValueError: not one a client, or not distinct.
        """
        return replace(self, names=host_arrays.names_of(names, self.num_clients))

    def fingerprint(self) -> str:
        """A hash of what is trained on: features (names, dtypes, values) and which client owns which row.

        The clients' own ids are not part of it. The same data hash alike on every machine and device.

        Returns:
          64 hex digits (SHA-256).
        """
        digest = hashlib.sha256(_FORMAT.encode())
        for name in sorted(self.features):
            array = np.ascontiguousarray(self.features[name])
            digest.update(f"\n{name!r} {array.dtype} {array.shape}\n".encode())
            digest.update(array.reshape(-1).view(np.uint8).data)
        digest.update(np.ascontiguousarray(self.offsets, dtype=np.int32).data)
        return digest.hexdigest()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the population, names and fingerprint included, to one .npz file, all or nothing.

        Args:
          path: the file, such as "clients.npz"; its folder must exist, an older file is replaced.

        Example:
          >>> import pathlib, tempfile
          >>> import fedjaxlite as fl
          >>> population = fl.Population.from_arrays({"y": [10, 20]}, client_ids=["a", "b"])
          >>> with tempfile.TemporaryDirectory() as folder:
          ...     population.save(pathlib.Path(folder, "clients.npz"))
          ...     fl.Population.load(pathlib.Path(folder, "clients.npz")).names.tolist()
          ['a', 'b']
        """
        arrays = {f"feature {name}": np.asarray(array) for name, array in self.features.items()}
        arrays["offsets"] = np.asarray(self.offsets, np.int32)
        if self.names is not None:
            arrays["names"] = self.names
        files.write_npz(path, arrays, {"format": _FORMAT, "fingerprint": self.fingerprint()})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Population":
        """Reads what `save` wrote, and checks its fingerprint.

        Args:
          path: the file.

        Returns:
          The Population, on the host.

        Raises:
          FileNotFoundError: there is no such file.
          ValueError: the file holds something else, or its content is not what was saved.
        """
        arrays, header = files.read_npz(path)
        if header.get("format") != _FORMAT:
            raise ValueError(f"{os.fspath(path)!r} holds {header.get('format')!r}; expected {_FORMAT!r}.")
        prefix = "feature "
        features = {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
        sizes = np.diff(arrays["offsets"])
        population = packed(features, sizes, arrays.get("names"), allow_empty=True)
        if population.fingerprint() != header["fingerprint"]:
            raise ValueError(f"{os.fspath(path)!r} is damaged: its content has not the fingerprint it was saved with.")
        return population

    def __repr__(self) -> str:
        """Short: counts, sizes, and the features' dtypes and shapes, never values."""
        kinds = []
        for name, array in self.features.items():
            shape = getattr(array, "shape", ())[1:]
            kinds.append(f"{name} {getattr(array, 'dtype', '?')}{list(shape) if shape else ''}")
        counts = f"{getattr(self.offsets, 'shape', (0,))[0] - 1} clients"
        if isinstance(self.offsets, (np.ndarray, jax.Array)) and not checks.is_traced(self.offsets):
            sizes = np.diff(np.asarray(self.offsets))
            counts += f", {sizes.sum()} examples, {sizes.min()} to {sizes.max()} a client"
        return f"Population({counts}; {', '.join(kinds)})"

    def _index(self, index: Any) -> int:
        if isinstance(index, (bool, np.bool_)) or not isinstance(index, (int, np.integer)):
            raise TypeError(f"a client's index is {index!r}; expected an int in [0, {self.num_clients}), or a name.")
        if not 0 <= index < self.num_clients:
            raise IndexError(f"client {index} is out of range; the population has clients 0 to {self.num_clients - 1}.")
        return int(index)


def packed(
    features: dict[str, np.ndarray], sizes: np.ndarray, names: np.ndarray | None, allow_empty: bool
) -> Population:
    """A Population of rows that already lie in client order; for modules of this library."""
    if not checks.flag(allow_empty=allow_empty) and (sizes == 0).any():
        i = int(np.argmin(sizes))
        name = "" if names is None else f" ({names[i].item()!r})"
        raise ValueError(
            f"client {i}{name} has no examples, and so have {int((sizes == 0).sum())} of {len(sizes)} clients; leave "
            "them out, or pass allow_empty=True (an empty client that is sampled contributes nothing)."
        )
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    owned = {name: host_arrays.frozen(array) for name, array in features.items()}
    if names is not None:
        names = names.copy()
        names.flags.writeable = False
    return Population(owned, host_arrays.frozen(offsets), int(sizes.max()), names)
