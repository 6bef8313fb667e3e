"""Folders of arrays and of images: a file, or a folder, a client."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedjaxlite import checks
from fedjaxlite.data.incoming import choice, gather, pictures
from fedjaxlite.datasets.formats import leaf, parts

_FORMS = "client.npz, client/x.npy and client/y.npy, or client/CLASS/image.png"
_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")


class Images(NamedTuple):
    """How images are read.

    Attributes:
      classes: names of the classes; the place of one among them is its label.
      channels: 1, 3 or 4.
      raw: whether pixels stay uint8.
    """

    classes: tuple[str, ...] | None
    channels: int | None
    raw: bool


def from_folder(
    path: str | os.PathLike[str],
    *,
    features: Sequence[str] | Mapping[str, str] | None = None,
    encode: Mapping[str, Callable[[Any], Any]] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    clients: Sequence[str] | None = None,
    num_clients: int | None = None,
    classes: Sequence[str] | None = None,
    channels: int | None = None,
    pixels: str = "float32",
    check_finite: bool = True,
    allow_empty: bool = False,
) -> Any:
    """Reads a folder that holds a file or a folder for each client.

    One of three forms, the same for all clients:

    - `client.npz`, whose arrays `[n_i, ...]` are the features;
    - `client/x.npy`, `client/y.npy` and so on, a file a feature;
    - `client/CLASS/image.png`, a folder a class: x are the images, y the class.

    Names that begin with `.` or `__` are nobody's.

    Args:
      path: the folder. One that holds the folders `train` and `test` gives both.
      features: which to take, or names of one's own for them, as {"images": "x"}; None takes all.
      encode: for a feature of texts a function of one value, by the feature's name in the folder.
      shapes: the shape of one row, by the feature's name in the folder.
      clients: ids (names of files without .npz, or of folders), in the order that the result has; None takes all.
      num_clients: take the first so many; None takes all.
      classes: names of the folders of classes, of which number i has the label i; None takes those of all clients, of
        training and test, sorted (2 before 10).
      channels: 1 for gray, 3 for color, 4 with transparency; None keeps what each image has.
      pixels: "float32" for values in [0, 1], or "uint8" for a quarter of the memory.
      check_finite: refuse NaN and infinity.
      allow_empty: let a client have no example.

    Returns:
      A Population, clients sorted by name (client_2 before client_10), as are the images of a class; or
      `(train, test)`, the test's clients in the order of the training's where they are the same. Images are
      `[n_i, height, width, channels]`, labels int32.

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError, TypeError: clients that differ in form, features or shapes, or a file that holds something else; the
        text names it.
      ModuleNotFoundError: there are images, and Pillow is not installed.

    Example:
      >>> import pathlib, tempfile
      >>> import numpy as np
      >>> import fedjaxlite as fl
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     for i in (10, 2):
      ...         np.savez(pathlib.Path(folder, f"site_{i}.npz"), x=np.ones((i, 3)), y=np.arange(i))
      ...     fl.datasets.from_folder(folder).names.tolist()
      ['site_2', 'site_10']
    """
    wanted = choice.wanted(features, encode, shapes)
    chosen = choice.clients(clients, num_clients)
    options = leaf.checks_of(check_finite, allow_empty)
    raw = checks.one_of(("float32", "uint8"), pixels=pixels) == "uint8"
    images = Images(_classes(classes), pictures.channels_of(channels), raw)
    folder = parts.existing(path)
    if not folder.is_dir():
        raise ValueError(f"`path` is {str(folder)!r}, which is a file; expected a folder of {_FORMS}.")
    halves = parts.train_and_test(folder)
    found = [_clients(half, chosen) for half in halves or (folder,)]
    if images.classes is None:
        images = images._replace(classes=_all_classes(found))

    def read(one: tuple[Path, dict[str, tuple[str, Path]]]) -> Any:
        source = repr(str(one[0]))
        chunks = gather.chunks_of(_read_clients(one[1], images), source)
        return gather.of_clients(chunks, wanted, chosen, source=source, **options)

    return read(found[0]) if halves is None else parts.both((found[0], found[1]), read)


def _classes(classes: Any) -> tuple[str, ...] | None:
    if classes is None:
        return None
    if isinstance(classes, str) or not isinstance(classes, (list, tuple)) or not classes:
        raise TypeError(f"`classes` is {checks.shown(classes)}; expected a list of names of folders.")
    names = tuple(checks.text(classes=name) for name in classes)
    if len(set(names)) < len(names):
        raise ValueError(f"`classes` is {checks.shown(classes)}, which holds a name twice.")
    return names


def _clients(folder: Path, chosen: choice.Clients) -> tuple[Path, dict[str, tuple[str, Path]]]:
    """The clients of a folder by name, with the form of each: "npz", "npy" or "images"."""
    found: dict[str, tuple[str, Path]] = {}
    for place in parts.sorted_naturally(folder.iterdir()):
        form = _form(place)
        name = place.stem if form == "npz" else place.name
        if name in found:
            raise ValueError(f"client {name!r} of {str(folder)!r} is both a file and a folder; expected one of them.")
        other = next(iter(found.values()), (form,))[0]
        if form != other:
            raise ValueError(
                f"{str(place)!r} has the form {form}, and others in that folder {other}; expected one form."
            )
        found[name] = form, place
    if not found:
        raise ValueError(f"{str(folder)!r} is empty; expected {_FORMS}.")
    choice.check_found(chosen, list(found), repr(str(folder)))
    names = list(found)[: chosen.most] if chosen.names is None else chosen.names
    return folder, {str(name): found[str(name)] for name in names}


def _form(place: Path) -> str:
    if place.is_file():
        if place.suffix == ".npz":
            return "npz"
        raise ValueError(f"{str(place)!r} is no client's; expected {_FORMS}.")
    inside = list(parts.sorted_naturally(place.iterdir()))
    if any(p.suffix == ".npy" for p in inside):
        return "npy"
    if any(p.is_dir() for p in inside):
        return "images"
    raise ValueError(f"{str(place)!r} holds no .npy file and no folder of a class; expected {_FORMS}.")


def _all_classes(found: Sequence[tuple[Path, Mapping[str, tuple[str, Path]]]]) -> tuple[str, ...]:
    names = {
        sub.name
        for _, clients in found
        for form, place in clients.values()
        if form == "images"
        for sub in parts.sorted_naturally(place.iterdir())
        if sub.is_dir()
    }
    return tuple(sorted(names, key=choice.natural))


def _read_clients(clients: Mapping[str, tuple[str, Path]], images: Images) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, (form, place) in clients.items():
        if form == "images":
            yield name, _images(place, images)
        elif form == "npz":
            with _loaded(place) as arrays:
                yield name, {key: _entry(arrays, key, place) for key in arrays.files}
        else:
            files = parts.sorted_naturally(place.iterdir())
            other = next((p for p in files if p.suffix != ".npy"), None)
            if other is not None:
                raise ValueError(f"{str(other)!r} lies beside .npy files; expected those alone, one a feature.")
            yield name, {p.stem: _loaded(p) for p in files}


def _loaded(file: Path) -> Any:
    try:
        return np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"{str(file)!r} cannot be read ({error}); expected arrays of numbers that NumPy saved."
        ) from error


def _entry(arrays: Any, key: str, file: Path) -> np.ndarray:
    try:
        return arrays[key]
    except (OSError, ValueError) as error:
        raise ValueError(f"array {key!r} of {str(file)!r} cannot be read ({error}); expected numbers.") from error


def _images(place: Path, how: Images) -> dict[str, np.ndarray]:
    classes = {name: i for i, name in enumerate(how.classes or ())}
    x: list[np.ndarray] = []
    y: list[int] = []
    for folder in parts.sorted_naturally(place.iterdir()):
        if folder.name not in classes or not folder.is_dir():
            raise ValueError(
                f"{str(folder)!r}: {choice.nearest(folder.name, classes, 'expected a folder of a class, of')}"
            )
        for file in parts.sorted_naturally(folder.iterdir()):
            if file.suffix.lower() not in _IMAGES:
                raise ValueError(f"{str(file)!r} is no image; expected one of {', '.join(_IMAGES)}.")
            pixels = pictures.pixels(file, how.channels, repr(str(file)))
            if x and pixels.shape != x[0].shape:
                raise ValueError(
                    f"{str(file)!r} has shape {list(pixels.shape)}, and those before it {list(x[0].shape)}; bring "
                    "images to one size, or pass channels= where only these differ."
                )
            x.append(pixels)
            y.append(classes[folder.name])
    if not x:
        raise ValueError(f"{str(place)!r} holds no image; leave the client out by clients=.")
    stacked = np.stack(x)
    return {"x": stacked if how.raw else pictures.as_floats(stacked), "y": np.array(y, np.int32)}
