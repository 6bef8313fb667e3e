"""What a `datasets.Dataset` of Hugging Face holds, told by its protocol: the package itself is not imported."""

from collections.abc import Iterator
from typing import Any

from fedjaxlite import checks
from fedjaxlite.data.incoming import arrow, choice, columns, pictures

BATCH = 1024


def images_of(dataset: Any, channels: Any, pixels: Any) -> arrow.Images:
    """Which columns are images, and how they are read: the arguments `channels` and `pixels` of a reader, checked."""
    raw = checks.one_of(("float32", "uint8"), pixels=pixels) == "uint8"
    kinds = {name: type(feature).__name__ for name, feature in features_of(dataset).items()}
    return arrow.Images(frozenset(n for n, k in kinds.items() if k == "Image"), pictures.channels_of(channels), raw)


def features_of(dataset: Any) -> dict[str, Any]:
    """The declared features; none where a stream does not know them."""
    return dict(getattr(dataset, "features", None) or {})


def class_names(dataset: Any) -> dict[str, list[str]]:
    """The names of the classes of each column of classes."""
    features = features_of(dataset)
    return {name: list(f.names) for name, f in features.items() if type(f).__name__ == "ClassLabel"}


def is_dataset(value: Any) -> bool:
    """Whether it is read as a `datasets.Dataset` or `IterableDataset`."""
    return all(callable(getattr(value, method, None)) for method in ("with_format", "iter")) and hasattr(
        value, "column_names"
    )


def batches(dataset: Any) -> Iterator[Any]:
    """Its rows as Arrow tables, images still encoded; a stream is gone through once."""
    yield from dataset.with_format("arrow").iter(batch_size=BATCH)


def others(wanted: choice.Wanted, names: list[str], left_out: str | None) -> choice.Wanted:
    """`wanted` with its columns spelled out: all but the one that names the client, where none were chosen.

    Raises:
      ValueError: a column that is not there.
    """
    rest = [name for name in names if name != left_out]
    if wanted.features is None:
        if not rest:
            raise ValueError(f"the data set has no column beside {left_out!r}; expected features.")
        columns.check_columns(wanted, rest)
        return wanted._replace(features={name: name for name in rest})
    columns.check_columns(wanted, names)
    return wanted
