"""Partitions of Flower Datasets."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fedjaxlite import checks
from fedjaxlite.data.incoming import arrow, choice, columns, gather, hf_dataset
from fedjaxlite.data.population import Population

_EXPECTED = "expected a partitioner of flwr_datasets with its dataset assigned, or a FederatedDataset"


def from_flower(
    partitions: Any,
    *,
    split: str | None = None,
    features: Sequence[str] | Mapping[str, str] | None = None,
    encode: Mapping[str, Callable[[Any], Any]] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    clients: Sequence[Any] | None = None,
    num_clients: int | None = None,
    channels: int | None = None,
    pixels: str = "float32",
    check_finite: bool = True,
    allow_empty: bool = False,
) -> Population:
    """Makes a Population of the partitions that Flower made: client i is partition i.

    It goes by the protocol alone: `num_partitions`, and `load_partition(i)`, which gives a `datasets.Dataset`.

    Args:
      partitions: a partitioner of `flwr_datasets.partitioner` whose `dataset` is set, or a `FederatedDataset`.
      split: which split of a `FederatedDataset`; None where it has partitioners for one alone.
      features: which columns to take, such as {"img": "x", "label": "y"} for names of one's own; None takes all.
      encode: for a column that holds no numbers a function of one value, such as
        {"text": fl.datasets.encode_words(...)}.
      shapes: the shape of one row, by column.
      clients: ids, in the order that the result has; None takes all.
      num_clients: take the first so many; None takes all.
      channels: 1 for gray images, 3 for color, 4 with transparency; None keeps what each image has.
      pixels: "float32" for images in [0, 1], or "uint8" for a quarter of the memory.
      check_finite: refuse NaN and infinity.
      allow_empty: let a partition have no row.

    Returns:
      A Population; names are 0 to N - 1, or the natural ids of a `NaturalIdPartitioner`. Columns become features as by
      `fl.datasets.from_huggingface`.

    Raises:
      TypeError: it follows another protocol, or a column holds no numbers. ValueError: there is no such split, column
        or client.

    Example:
      >>> import fedjaxlite as fl
      >>> from flwr_datasets.partitioner import DirichletPartitioner                # doctest: +SKIP
      >>> partitioner = DirichletPartitioner(10, partition_by="label", alpha=0.3)   # doctest: +SKIP
      >>> partitioner.dataset = dataset                                             # doctest: +SKIP
      >>> people = fl.interop.from_flower(                                          # doctest: +SKIP
      ...     partitioner, features={"image": "x", "label": "y"})
    """
    wanted = choice.wanted(features, encode, shapes)
    chosen = choice.clients(clients, num_clients)
    checks.flag(check_finite=check_finite, allow_empty=allow_empty)
    partitioner = _partitioner(partitions, split)
    names = _names(partitioner)
    choice.check_found(chosen, names, "the partitions")
    taken = names[: chosen.most] if chosen.names is None else chosen.names
    place = {name: i for i, name in enumerate(names)}
    chunks = _chunks(partitioner, {name: place[name] for name in taken}, wanted, (channels, pixels))
    return gather.of_clients(
        chunks, wanted, chosen, source="the partitions", check_finite=check_finite, allow_empty=allow_empty
    )


def _partitioner(partitions: Any, split: Any) -> Any:
    """The one partitioner that is meant."""
    several = getattr(partitions, "partitioners", None)
    if isinstance(several, Mapping):
        known = list(several)
        chosen = known[0] if split is None and len(known) == 1 else split
        if chosen is None:
            raise ValueError(
                f"`split` is None; expected one of {', '.join(map(repr, known))}, which have partitioners."
            )
        if chosen not in known:
            raise ValueError(f"`split` is {split!r}; {choice.nearest(split, known, 'there are partitioners for')}")
        if not callable(getattr(partitions, "load_partition", None)):
            raise TypeError(f"`partitions` is {checks.shown(partitions)}; {_EXPECTED}.")
        partitions.load_partition(
            0, chosen
        )  # the data set is prepared, and given to the partitioner, by the first load
        return several[chosen]
    if split is not None:
        raise ValueError(f"`split` is {split!r}, but `partitions` is one partitioner; expected None.")
    if not callable(getattr(partitions, "load_partition", None)) or not hasattr(type(partitions), "num_partitions"):
        raise TypeError(f"`partitions` is {checks.shown(partitions)}; {_EXPECTED}.")
    assigned = getattr(partitions, "is_dataset_assigned", None)
    if callable(assigned) and not assigned():
        raise ValueError("`partitions` has no data set yet; assign it first: partitioner.dataset = dataset.")
    return partitions


def _names(partitioner: Any) -> list[Any]:
    """Natural ids where all partitions have one, else numbers."""
    count = int(partitioner.num_partitions)
    natural = getattr(partitioner, "partition_id_to_natural_id", None)
    if isinstance(natural, Mapping) and len(natural) == count and all(i in natural for i in range(count)):
        ids = [natural[i] for i in range(count)]
        if all(isinstance(i, str) for i in ids) or all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
            return ids
    return list(range(count))


def _chunks(
    partitioner: Any, places: Mapping[Any, int], wanted: choice.Wanted, images: tuple[Any, Any]
) -> Iterator[gather.Chunk]:
    for name, i in places.items():
        dataset = partitioner.load_partition(i)
        if not hf_dataset.is_dataset(dataset):
            raise TypeError(
                f"`partitions` gives {checks.shown(dataset)} for partition {i}; expected a datasets.Dataset."
            )
        how = hf_dataset.images_of(dataset, *images)
        columns.check_columns(wanted, dataset.column_names)
        classes = {n: c for n, c in hf_dataset.class_names(dataset).items() if n in (wanted.features or (n,))}
        source = f"partition {i}"
        sizes: list[int] = []
        parts: list[dict[str, Any]] = []
        for table in hf_dataset.batches(dataset):
            arrow.check_labels(table, classes, source)
            sizes.append(table.num_rows)
            parts.append(arrow.raw_columns(table, hf_dataset.others(wanted, table.column_names, None), how, source))
        raw = {column: _joined([part[column] for part in parts]) for column in parts[0]} if parts else {}
        yield gather.Chunk([name], [sum(sizes)], raw, source)


def _joined(parts: list[Any]) -> Any:
    import numpy as np

    if all(isinstance(part, np.ndarray) for part in parts) and len({part.shape[1:] for part in parts}) == 1:
        return np.concatenate(parts)
    return [value for part in parts for value in part]
