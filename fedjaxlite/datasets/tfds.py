"""Data sets prepared by TensorFlow Datasets, read without TensorFlow: once, in bulk, and cached as plain arrays."""

import difflib
import hashlib
import io
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedjaxlite import storage
from fedjaxlite.datasets import folders

_BULK = 8192
_FORMAT = "fedjaxlite tfds 1"


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    train_split: str = "train",
    test_split: str = "test",
    features: Sequence[str] | None = None,
    cache: bool = True,
    own_names: Iterable[str] = (),
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Reads two splits of a prepared data set.

    The pair that the data set declares as supervised becomes x and y. Images (uint8) become float32 in [0, 1], int64
    becomes int32 and float64 float32; all else passes through under its own name.

    Args:
      name: "mnist", with a version "mnist:3.0.1", with a config "emnist/letters"; the newest prepared version
        where none is given.
      data_dir: the folder that TFDS prepared into, or the one above its `tfds`; None takes the environment's
        (FEDJAXLITE_DATA, TFDS_DATA_DIR), then TFDS's own ~/tensorflow_datasets.
      train_split: a TFDS split, such as "train" or "train[:80%]".
      test_split: likewise.
      features: which of the data set's features to read, by its names for them; None reads the numbers of a fixed shape
        and leaves out text. Text that is asked for comes as bytes, and can be a key for `fl.partition.by_key`.
      cache: keep what was read in FEDJAXLITE_CACHE, else in `fedjaxlite` below XDG_CACHE_HOME or ~/.cache.
      own_names: further names for the suggestions in messages.

    Returns:
      `(train, test)`, dicts of arrays `[n, ...]` in the order of the prepared files.

    Raises:
      FileNotFoundError: the data set is not prepared as ArrayRecord files.
      ValueError: TFDS knows no such name, the split or the feature does not exist, or images differ in size.
      ModuleNotFoundError: tensorflow-datasets or Pillow is not installed.

    Example:
      >>> import fedjaxlite as fl
      >>> train, test = fl.datasets.load("mnist", data_dir="data")      # doctest: +SKIP
      >>> train["x"].shape, test["y"].dtype                             # doctest: +SKIP
      ((60000, 28, 28, 1), dtype('int32'))
    """
    searched = [place for folder in folders.data_folders(data_dir) for place in (folder / "tfds", folder)]
    if data_dir is None:
        searched.append(Path("~/tensorflow_datasets").expanduser())
    folder = _prepared(name, searched, own_names)
    _check_format(folder, name.partition(":")[0])
    train, test = (_split(folder, split, features, cache) for split in (train_split, test_split))
    return train, test


def _prepared(name: str, searched: list[Path], own_names: Iterable[str]) -> Path:
    """The folder of the version asked for, or of the newest."""
    base, _, version = name.partition(":")
    if not base:
        raise ValueError(f"`name` is {name!r}; expected the name of a data set.")
    for place in searched:
        versions = _versions(place / base)
        if version and version in versions:
            return place / base / version
        if versions and not version:
            return place / base / max(versions, key=lambda v: [int(part) for part in v.split(".")])
        configs = sorted(sub.name for sub in _folders(place / base) if _versions(sub))
        if configs:
            names = ", ".join(repr(f"{base}/{config}") for config in configs)
            raise ValueError(f"data set {base!r} is prepared in several configs; say which: {names}.")
        if versions:
            raise FileNotFoundError(
                f"data set {base!r} in {str(place)!r} has version {', '.join(sorted(versions))}, not {version}."
            )
    _refuse_unknown(base, own_names)
    raise FileNotFoundError(
        f"data set {base!r} is not prepared; looked in {folders.looked_in(searched)}. Nothing is downloaded here; "
        f"prepare it once where there is a network and TensorFlow: {_command(base, searched[0])}"
    )


def _check_format(folder: Path, base: str) -> None:
    stored = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8")).get("fileFormat")
    if stored != "array_record":
        raise FileNotFoundError(
            f"{str(folder)!r} is prepared as {stored or 'tfrecord'} files, which need TensorFlow; prepare it again as "
            f"ArrayRecord: {_command(base, folder.parents[base.count('/') + 1])}"
        )


def _refuse_unknown(base: str, own_names: Iterable[str]) -> None:
    known = list(own_names)
    try:
        import tensorflow_datasets as tfds

        known += tfds.list_builders(with_community_datasets=False)
    except ModuleNotFoundError:
        return
    if base.split("/")[0] in known:
        return
    near = difflib.get_close_matches(base.lower(), known, n=3)
    guess = f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else "."
    raise ValueError(
        f"there is no data set {base!r}{guess} Names are {', '.join(repr(n) for n in own_names)} and those of "
        "TensorFlow Datasets (https://www.tensorflow.org/datasets/catalog/overview)."
    )


def _command(base: str, folder: Path) -> str:
    return (
        'python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{base}', data_dir='{folder}', file_format='array_record').download_and_prepare()\""
    )


def _split(folder: Path, split: str, features: Sequence[str] | None, cache: bool) -> dict[str, np.ndarray]:
    place = folders.cache_folder() if cache else None
    file = None if place is None else place / f"tfds-{_fingerprint(folder, split, features)}.npz"
    if file is not None:
        try:
            arrays, header = storage.read_npz(file)
            return _examples(arrays, header["supervised"], header["images"])
        except (OSError, ValueError, KeyError):
            pass  # absent or damaged: read the data set itself
    arrays, header = _read(folder, split, features)
    if file is not None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            storage.write_npz(file, arrays, header)
        except OSError:
            pass  # a cache that cannot be written costs time, nothing else
    return _examples(arrays, header["supervised"], header["images"])


def _read(folder: Path, split: str, features: Sequence[str] | None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The chosen features as stored, and what they are."""
    try:
        import tensorflow_datasets as tfds
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("reading prepared data needs tensorflow-datasets; pip install it.") from error
    builder: Any = tfds.builder_from_directory(str(folder))
    declared: Any = builder.info.features
    images: dict[str, Any] = {
        n: f for n, f in declared.items() if isinstance(f, tfds.features.Image) and f.np_dtype == np.uint8
    }
    chosen = _chosen(builder.name, declared, images, features)
    try:
        source = builder.as_data_source(split=split, decoders={n: tfds.decode.SkipDecoding() for n in images})
    except ValueError as error:
        raise ValueError(
            f"data set {builder.name!r} has no split {split!r}: it has {', '.join(builder.info.splits)}. Pass "
            "train_split= and test_split=, such as 'train[:80%]' and 'train[80%:]'."
        ) from error
    columns: dict[str, list[Any]] = {n: [] for n in chosen}
    for start in range(0, len(source), _BULK):
        for record in source.__getitems__(range(start, min(start + _BULK, len(source)))):
            for n, column in columns.items():
                column.append(_pixels(record[n], images[n].shape) if n in images else record[n])
    pair = builder.info.supervised_keys
    supervised = [*pair] if isinstance(pair, tuple) and len(pair) == 2 and all(p in chosen for p in pair) else []
    header = {"format": _FORMAT, "supervised": supervised, "images": [n for n in chosen if n in images]}
    return {n: _stacked(n, column) for n, column in columns.items()}, header


def _chosen(name: str, declared: Any, images: Iterable[str], features: Sequence[str] | None) -> list[str]:
    if features is not None:
        for feature in features:
            if feature not in declared:
                raise ValueError(f"data set {name!r} has no feature {feature!r}; it has {', '.join(declared)}.")
        return list(features)
    numbers = [n for n, f in declared.items() if n in images or _is_fixed_number(f)]
    if not numbers:
        raise ValueError(
            f"data set {name!r} holds no numbers, only {', '.join(declared)}; name features= to read them as they are "
            "(for text by speaking role there is 'shakespeare', with path=)."
        )
    return numbers


def _is_fixed_number(feature: Any) -> bool:
    shape, dtype = feature.shape, feature.np_dtype
    if not isinstance(shape, tuple) or not isinstance(dtype, (type, np.dtype)):
        return False
    return None not in shape and np.dtype(dtype).kind in "iufb"


def _pixels(encoded: bytes, shape: tuple[int | None, ...]) -> np.ndarray:
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("reading images needs Pillow; pip install pillow.") from error
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[shape[-1] or 3]
    with Image.open(io.BytesIO(encoded)) as image:
        pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    return pixels.reshape(*pixels.shape[:2], -1)


def _stacked(name: str, column: list[Any]) -> np.ndarray:
    shapes = {np.shape(value) for value in column}
    if len(shapes) > 1:
        raise ValueError(
            f"feature {name!r} has rows of unlike shapes, {' and '.join(str(list(s)) for s in sorted(shapes)[:2])}; "
            "an array has one: leave it out with features=, or bring the data to one shape and use "
            "fl.datasets.federate."
        )
    return np.asarray(column)


def _examples(arrays: dict[str, np.ndarray], supervised: list[str], images: list[str]) -> dict[str, np.ndarray]:
    names = dict(zip(supervised, ("x", "y"), strict=False))
    examples = {}
    for name, array in arrays.items():
        if name in images:
            array = array.astype(np.float32) / np.float32(255)
        elif array.dtype == np.int64:
            array = array.astype(np.int32)
        elif array.dtype == np.float64:
            array = array.astype(np.float32)
        examples[names.get(name, name)] = array
    return examples


def _fingerprint(folder: Path, split: str, features: Sequence[str] | None) -> str:
    """Names, version, split and state of the prepared files; a data set prepared anew is read anew."""
    state = [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in sorted(folder.iterdir()) if p.is_file()]
    wanted = None if features is None else list(features)
    key = json.dumps([_FORMAT, str(folder.resolve()), split, wanted, state])
    return f"{folder.parent.name}-{folder.name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _versions(folder: Path) -> list[str]:
    return [
        sub.name
        for sub in _folders(folder)
        if all(part.isdigit() for part in sub.name.split(".")) and (sub / "dataset_info.json").is_file()
    ]


def _folders(folder: Path) -> list[Path]:
    try:
        return [sub for sub in folder.iterdir() if sub.is_dir()]
    except OSError:
        return []
