"""The population: every client's examples, packed one after the other without padding."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, overload

import jax
import numpy as np

from fedjaxlite import checks
from fedjaxlite.data import client_names, host_arrays, packing
from fedjaxlite.data.on_disk import columns, digest, one_file, reading, write_clients
from fedjaxlite.data.on_disk.folder import Opened, Stored, opened
from fedjaxlite.data.on_disk.write_rows import write as write_rows_


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True, eq=False, repr=False)
class Population:
    """N clients' examples in one array per feature.

    Client i owns the rows `offsets[i]:offsets[i + 1]` of every feature. There is no padding: a million small clients
    are a million offsets. A Population is a pytree of its features and offsets, so it goes through `jax.jit` and
    `jax.device_put`; `max_size` is static, and `names` (the clients' own ids) stay on the host and are dropped by
    tree transformations. The constructors below copy what they are given into read-only numpy arrays; `open` maps them
    from a disk. A Population that is made of its parts keeps them as they are, and is checked: shapes and dtypes
    always, the offsets where their values are known (not under `jit`). Tree transformations rebuild without checks.

    Attributes:
      features: dict of arrays `[n_total, ...]`.
      offsets: int32 `[N + 1]`, ascending from 0 to `n_total`; lists and int64 become int32. Of a population on a disk
        with more rows than int32 counts, int64.
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
    stored: ClassVar[Stored | None] = None  # of an opened one, where it lies; tree transformations drop it

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
    def on_disk(self) -> bool:
        """Whether the features are maps of a folder that `open` opened."""
        return self.stored is not None

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
        index = None if self.stored is None else self.stored.name_index
        return client_names.index_of(self.names, self.num_clients, names, index)

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
        chosen = client_names.chosen(self, ids)
        first, after = (np.asarray(self.offsets[at]).astype(np.int64) for at in (chosen, chosen + 1))
        sizes = after - first
        wanted = reading.extents(first, sizes, np.cumsum(sizes) - sizes)
        names = None if self.names is None else self.names[chosen]
        return packed(reading.rows_of(self, wanted, int(sizes.sum())), sizes, names, allow_empty=True)

    def renamed(self, names: Sequence[Any] | np.ndarray) -> "Population":
        """The same clients under other names.

        Args:
          names: `[N]` distinct ints or strings.

        Returns:
          A Population that shares the arrays.

        Raises:
          TypeError: no ids. ValueError: not one a client, or not distinct.
        """
        own = host_arrays.names_of(names, self.num_clients)
        if self.stored is not None:
            return _on_disk(Opened(dict(self.features), self.offsets, own, self.stored._replace(name_index=None)))
        return replace(self, names=own)

    def fingerprint(self) -> str:
        """A hash of what is trained on: features (names, dtypes, values) and which client owns which row.

        The clients' own ids are not part of it. The same data hash alike on every machine and device. A population on
        a disk answers with the hash that was taken when it was written; `open(folder, verify=True)` takes it again.

        Returns:
          64 hex digits (SHA-256).
        """
        if self.stored is not None:
            return self.stored.header.fingerprint
        return digest.of_arrays(self.features, self.offsets)

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
        one_file.save(path, self)

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
        return packed(*one_file.load(path), allow_empty=True)

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, verify: bool = False) -> "Population":
        """Opens a folder that `write` made: a Population whose features stay on the disk.

        Nothing is read but a header and a table of sizes, however large the folder is; features, offsets and names are
        read-only maps. `fl.train`, `fl.evaluate`, `fl.evaluate_clients`, `fl.prepare_cohort`, samplers and
        `fl.heterogeneity` take it and read what they need. What would put all of it on a device (`rounds.step` and
        `steps`) refuses: there, `in_memory()` is meant.

        Args:
          folder: of `Population.write`, `write_rows` or `fl.datasets.from_parquet`.
          verify: read all of it once, and refuse it unless it has the fingerprint that it was written with. Without,
            that the header is what was sealed and that no file is longer or shorter than it says.

        Returns:
          A Population; `on_disk` tells.

        Raises:
          FileNotFoundError: there is no such folder.
          ValueError: it holds no population, half of one, or a damaged one; the text says which.
        """
        return _on_disk(opened(folder, checks.flag(verify=verify)))

    @classmethod
    def write(
        cls,
        folder: str | os.PathLike[str],
        clients: Iterable[Any],
        *,
        num_classes: int | None = None,
        check_finite: bool = True,
        allow_empty: bool = False,
        buffer_bytes: int = 1 << 26,
    ) -> "Population":
        """Writes clients to a folder as they come, holding some of them at a time, and opens it.

        Args:
          folder: to be made, or empty.
          clients: an iterable of what `from_clients` takes, one dict of arrays a client; or of pairs (name, dict), ints
            or strings of at most 256 characters. A generator is gone through once.
          num_classes: as in `from_arrays`.
          check_finite: as in `from_arrays`.
          allow_empty: let a client have no row.
          buffer_bytes: about as much is held at a time, beside 16 bytes a client.

        Returns:
          The Population on the disk, clients in the order given.

        Raises:
          TypeError, ValueError: as `from_clients`, with the client's index and name and its row; a folder that holds
            something; a name that comes twice. What was written is then deleted.

        Guarantees:
          A folder is whole, or `open` refuses it: its header is written last. It has the fingerprint that
          `from_clients` gives the same clients.

        Example:
          >>> import pathlib, tempfile
          >>> import fedjaxlite as fl
          >>> with tempfile.TemporaryDirectory() as place:
          ...     people = fl.Population.write(
          ...         pathlib.Path(place, "people"), ((f"site {i}", {"y": [i] * i}) for i in (3, 1)))
          ...     people.on_disk, people.client("site 1")["y"].tolist(), people.num_examples.tolist()
          (True, [1], [3, 1])
        """
        what = columns.checked(num_classes, check_finite, buffer_bytes)
        return cls.open(write_clients.write(folder, clients, what, allow_empty=allow_empty))

    @classmethod
    def write_rows(
        cls,
        folder: str | os.PathLike[str],
        blocks: Iterable[tuple[Any, Mapping[str, Any]]],
        *,
        num_classes: int | None = None,
        check_finite: bool = True,
        buffer_bytes: int = 1 << 26,
    ) -> "Population":
        """Writes rows whose clients are mixed to a folder, grouped by client, and opens it.

        Args:
          folder: to be made, or empty. For a while it takes twice the room of what it becomes.
          blocks: an iterable of pairs: `[b]` ints or strings, the owner of each row, and a dict of arrays `[b, ...]`.
          num_classes: as in `from_arrays`.
          check_finite: as in `from_arrays`.
          buffer_bytes: about as much is held at a time, or the largest client; beside 40 bytes a client and a block.

        Returns:
          The Population on the disk: clients sorted by id, rows in the order that they came in.

        Raises:
          TypeError, ValueError: as `from_arrays`, for rows counted from the first block on; a folder that holds
            something. What was written is then deleted.

        Guarantees:
          It has the names and the fingerprint that `from_arrays` gives the same rows, however they are cut into blocks.

        Example:
          >>> import pathlib, tempfile
          >>> import fedjaxlite as fl
          >>> blocks = [(["b", "a"], {"y": [1, 2]}), (["b"], {"y": [3]})]
          >>> with tempfile.TemporaryDirectory() as place:
          ...     people = fl.Population.write_rows(pathlib.Path(place, "people"), blocks)
          ...     people.names.tolist(), people.client("b")["y"].tolist()
          (['a', 'b'], [1, 3])
        """
        what = columns.checked(num_classes, check_finite, buffer_bytes)
        return cls.open(write_rows_(folder, blocks, what))

    def in_memory(self) -> "Population":
        """The same population in host memory: what lies on a disk is read whole, what does not is returned as it is.

        Raises:
          ValueError: there are more rows than a Population in memory can hold, 2**31 - 1.
        """
        if self.stored is None:
            return self
        sizes = np.asarray(self.num_examples)
        return packed(
            reading.rows_between(self, 0, int(self.offsets[-1])),
            sizes,
            None if self.names is None else np.asarray(self.names),
            allow_empty=True,
        )

    def __repr__(self) -> str:
        """Short: counts, sizes, and the features' dtypes and shapes, never values."""
        return packing.described(self)

    def _index(self, index: Any) -> int:
        return client_names.checked_index(index, self.num_clients)


def _on_disk(parts: Opened) -> Population:
    """A Population of a folder, whose offsets its seal vouches for: they are not looked through."""
    made = Population.tree_unflatten(parts.stored.header.max_size, (parts.features, parts.offsets))
    object.__setattr__(made, "names", parts.names)
    object.__setattr__(made, "stored", parts.stored)
    return made


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
    offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    host_arrays.check_countable(int(offsets[-1]))
    offsets = offsets.astype(np.int32)
    owned = {name: host_arrays.frozen(array) for name, array in features.items()}
    if names is not None:
        names = names.copy()
        names.flags.writeable = False
    return Population(owned, host_arrays.frozen(offsets), int(sizes.max()), names)
