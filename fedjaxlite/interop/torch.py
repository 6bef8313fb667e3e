"""Data sets of PyTorch."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fedjaxlite import checks
from fedjaxlite.data import host_arrays
from fedjaxlite.data.incoming import choice, columns, gather, pictures
from fedjaxlite.data.population import Population

_ITEMS = "expected (x, y), a dict from names to values, or as many values as `names` has"


def from_torch(
    dataset: Any,
    client_ids: Any = None,
    *,
    names: Sequence[str] = ("x", "y"),
    client_names: Sequence[Any] | None = None,
    check_finite: bool = True,
) -> Population:
    """Makes a Population of a `torch.utils.data.Dataset` and the client of each item, or of a data set a client.

    Each item is asked for once, in order; a transform that draws at random has then drawn once for all. It goes by the
    protocol alone (`len`, `[i]`), and takes the tensors of a `TensorDataset` whole.

    Args:
      dataset: a map-style data set; or a list of them, one a client, such as the `Subset`s of `random_split`.
      client_ids: `[n]` ints or strings, the client of each item; None for a list of data sets.
      names: what the values of an item are called, where items are tuples.
      client_names: for a list of data sets `[N]` ids, or None for 0 to N - 1.
      check_finite: refuse NaN and infinity.

    Returns:
      A Population: clients sorted by id, or in the order of the list. Features are what the items hold, in the layout
      of the data set: torch's images are mostly `[channels, height, width]`, and models here take channels last.

    Raises:
      TypeError: no map-style data set, or items of another form. ValueError: lengths that disagree, or items of unlike
        shapes; the text says which.

    Example:
      >>> import fedjaxlite as fl
      >>> items = [([0.0, 1.0], 0), ([2.0, 3.0], 1), ([4.0, 5.0], 0)]     # stands for a torch Dataset
      >>> people = fl.interop.from_torch(items, ["b", "a", "b"])
      >>> people.names.tolist(), people.client(1)["x"].tolist()
      (['a', 'b'], [[0.0, 1.0], [4.0, 5.0]])
    """
    if isinstance(names, str) or not isinstance(names, (list, tuple)) or not names:
        raise TypeError(f"`names` is {checks.shown(names)}; expected a name for each value of an item, as ('x', 'y').")
    given = tuple(checks.text(names=name) for name in names)
    checks.flag(check_finite=check_finite)
    if client_ids is None:
        return _of_clients(dataset, given, client_names, check_finite)
    if client_names is not None:
        raise ValueError("`client_names` is for a list of data sets; with `client_ids` the ids are the names.")
    _check_map_style(dataset, "dataset")
    ids = host_arrays.as_ids("client_ids", client_ids)
    if len(ids) != len(dataset):
        raise ValueError(
            f"client_ids has {len(ids)} entries, but `dataset` has {len(dataset)} items; expected one each."
        )
    owners = ids.tolist()

    def batches() -> Iterator[tuple[list[Any], Mapping[str, Any], str]]:
        for start, raw in _batches(dataset, given, "dataset"):
            some = owners[start : start + gather.CHUNK_ROWS] if start is not None else owners
            yield some, raw, "`dataset`" if not start else f"`dataset` from item {start} on"

    wanted, chosen = choice.wanted(), choice.clients()
    return gather.of_rows(batches(), wanted, chosen, source="`dataset`", check_finite=check_finite)


def _of_clients(datasets: Any, names: tuple[str, ...], client_names: Any, check_finite: bool) -> Population:
    if not isinstance(datasets, (list, tuple)) or not datasets or not all(map(_is_map_style, datasets)):
        raise TypeError(
            f"`client_ids` is None and `dataset` is {checks.shown(datasets)}; expected the client of each item, or a "
            "list with one data set a client."
        )
    ids = list(range(len(datasets)))
    if client_names is not None:
        ids = host_arrays.names_of(client_names, len(datasets)).tolist()

    def chunks() -> Iterator[gather.Chunk]:
        for name, dataset in zip(ids, datasets, strict=True):
            what = f"the data set of client {name!r} (no `client_ids`)"
            made = [
                columns.arrays(raw, choice.wanted(), lambda row, what=what: f"item {row} of {what}")
                for _, raw in _batches(dataset, names, what)
            ]
            one = {key: np.concatenate([part[key] for part in made]) for key in made[0]} if made else {}
            yield gather.Chunk([name], [len(dataset)], one, what)

    return gather.of_clients(chunks(), choice.wanted(), choice.clients(), source="`dataset`", check_finite=check_finite)


def _batches(dataset: Any, names: tuple[str, ...], what: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The first item's number, and the columns, of some items after the other."""
    whole = _tensors(dataset)
    if whole is not None:
        _check_count(len(whole), names, f"an item of {what}")
        rows = [_plain(tensor) for tensor in whole]
        for start in range(0, len(dataset), gather.CHUNK_ROWS):
            part = slice(start, start + gather.CHUNK_ROWS)
            yield start, {name: tensor[part] for name, tensor in zip(names, rows, strict=True)}
        return
    for start in range(0, len(dataset), gather.CHUNK_ROWS):
        raw: dict[str, list[Any]] = {}
        for i in range(start, min(start + gather.CHUNK_ROWS, len(dataset))):
            item = _item(dataset[i], names, f"item {i} of {what}")
            if i > start and item.keys() != raw.keys():
                raise ValueError(f"item {i} of {what} has {sorted(item)}, and those before it {sorted(raw)}.")
            for name, value in item.items():
                raw.setdefault(name, []).append(value)
        yield start, raw


def _tensors(dataset: Any) -> Any:
    """The tensors of a `TensorDataset`, or of a `Subset` of one; None where items have to be asked for."""
    tensors = getattr(dataset, "tensors", None)
    if type(dataset).__name__ == "TensorDataset" and isinstance(tensors, tuple) and tensors:
        return tensors
    if type(dataset).__name__ == "Subset" and hasattr(dataset, "indices"):
        whole = _tensors(dataset.dataset)
        return None if whole is None else tuple(tensor[list(dataset.indices)] for tensor in whole)
    return None


def _item(item: Any, names: tuple[str, ...], what: str) -> dict[str, Any]:
    if isinstance(item, Mapping):
        return {str(name): _plain(value) for name, value in item.items()}
    values = item if isinstance(item, (tuple, list)) else (item,)
    _check_count(len(values), names, what)
    return {name: _plain(value) for name, value in zip(names, values, strict=True)}


def _check_count(count: int, names: tuple[str, ...], what: str) -> None:
    if count != len(names):
        raise ValueError(f"{what} has {count} values, and `names` is {names}; {_ITEMS}.")


def _plain(value: Any) -> Any:
    """A tensor as NumPy's array, of wherever it lies; an image of Pillow's as pixels."""
    if callable(getattr(value, "detach", None)) and callable(getattr(value, "cpu", None)):
        value = value.detach().cpu()
        dense = value.float() if str(value.dtype) == "torch.bfloat16" else value
        return np.asarray(dense.numpy())
    if type(value).__module__.startswith("PIL."):
        return pictures.pixels(value, None, "an image of `dataset`")
    return value


def _is_map_style(dataset: Any) -> bool:
    if isinstance(dataset, (str, bytes, Mapping)) or not hasattr(dataset, "__getitem__"):
        return False
    try:
        return len(dataset) >= 0
    except TypeError:  # a number, or a stream that does not know
        return False


def _check_map_style(dataset: Any, argument: str) -> None:
    if not _is_map_style(dataset):
        raise TypeError(
            f"`{argument}` is {checks.shown(dataset)}; expected a map-style data set, with len() and [i]. Of one that "
            "is gone through once, make a list of its items first."
        )
