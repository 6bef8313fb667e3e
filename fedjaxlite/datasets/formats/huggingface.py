"""A data set of Hugging Face's `datasets` that is already there, as clients."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fedjaxlite import checks
from fedjaxlite.data.incoming import arrow, choice, gather, hf_dataset
from fedjaxlite.data.population import Population
from fedjaxlite.datasets.formats import parts


def from_huggingface(
    dataset: Any,
    *,
    client: str,
    features: Sequence[str] | Mapping[str, str] | None = None,
    encode: Mapping[str, Callable[[Any], Any]] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    clients: Sequence[Any] | None = None,
    channels: int | None = None,
    pixels: str = "float32",
    check_finite: bool = True,
) -> Any:
    """Makes a Population of a `datasets.Dataset`: one client for each value of a column. Nothing is downloaded.

    Args:
      dataset: a `Dataset`, an `IterableDataset` (gone through once), or a `DatasetDict` with train and test. It is read
        in batches; filter, map or cast it before.
      client: the column whose value says whose a row is: ints, strings, or classes, of which the names are taken.
      features: which columns to take, such as {"image": "x", "character": "y"} for names of one's own; None takes all
        but `client`.
      encode: for a column of texts, or of another type that holds no numbers, a function of one value, such as
        {"text": fl.datasets.encode_words(...)}. That of an image is given its pixels, uint8.
      shapes: the shape of one row, by column.
      clients: ids, in the order that the result has; rows of others are left out. None takes all.
      channels: 1 for gray images, 3 for color, 4 with transparency; None keeps what each image has.
      pixels: "float32" for images in [0, 1], or "uint8" for a quarter of the memory.
      check_finite: refuse NaN and infinity.

    Returns:
      A Population, clients sorted by id and rows in the order of the data set; of a `DatasetDict` `(train, test)`, the
      test's clients in the order of the training's where they are the same. Numbers become int32 and float32, classes
      int32, lists of one length and arrays features of that shape, images `[n_i, height, width, channels]`.

    Raises:
      TypeError: it is no data set, or a column holds no numbers. ValueError: there is no such column, rows without a
        value or a client, or of unlike shapes; the text names column and row.

    Example:
      >>> import datasets                                                     # doctest: +SKIP
      >>> import fedjaxlite as fl
      >>> writers = datasets.load_from_disk("femnist")                        # doctest: +SKIP
      >>> people = fl.datasets.from_huggingface(                              # doctest: +SKIP
      ...     writers, client="writer_id", features={"image": "x", "character": "y"})
    """
    wanted = choice.wanted(features, encode, shapes)
    chosen = choice.clients(clients)
    checks.text(client=client)
    checks.flag(check_finite=check_finite)

    def read(part: Any) -> Population:
        return _population(part, client, wanted, chosen, (channels, pixels), check_finite)

    if isinstance(dataset, Mapping):
        if not {"train", "test"} <= set(dataset):
            known = ", ".join(repr(name) for name in dataset) or "none"
            raise ValueError(f"`dataset` has the splits {known}; expected train and test, or pass one of them.")
        return parts.both((dataset["train"], dataset["test"]), read)
    return read(dataset)


def _population(
    dataset: Any,
    client: str,
    wanted: choice.Wanted,
    chosen: choice.Clients,
    images: tuple[Any, Any],
    check_finite: bool,
) -> Population:
    if not hf_dataset.is_dataset(dataset):
        raise TypeError(
            f"`dataset` is {checks.shown(dataset)}; expected a datasets.Dataset, such as datasets.load_from_disk gives "
            '(pip install "fedjaxlite[huggingface]").'
        )
    how = hf_dataset.images_of(dataset, *images)
    batches = _batches(dataset, client, wanted, chosen, how)
    return gather.of_rows(batches, wanted, chosen, source="the data set", check_finite=check_finite)


def _batches(
    dataset: Any, client: str, wanted: choice.Wanted, chosen: choice.Clients, images: arrow.Images
) -> Iterator[tuple[list[Any], dict[str, Any], str]]:
    names_of_classes = hf_dataset.class_names(dataset)
    asked = None if chosen.names is None else set(chosen.names)
    start = 0
    for table in hf_dataset.batches(dataset):
        if client not in table.column_names:
            raise ValueError(f"`client` is {client!r}; {choice.nearest(client, table.column_names, 'the columns are')}")
        spelled = hf_dataset.others(wanted, table.column_names, client)
        part = f"the rows from {start} on"
        arrow.check_labels(
            table, {n: c for n, c in names_of_classes.items() if n == client or n in (spelled.features or ())}, part
        )
        ids = arrow.ids(table, client, names_of_classes, part)
        start += len(ids)
        if asked is not None:
            kept = [row for row, owner in enumerate(ids) if owner in asked]
            if not kept:
                continue
            ids, table = [ids[row] for row in kept], table.take(kept)
        if ids:
            yield ids, arrow.raw_columns(table, spelled, images, part), part
