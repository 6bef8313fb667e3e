"""Folders that hold a training and a test part."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fedjaxlite.data.incoming.choice import natural
from fedjaxlite.data.population import Population


def existing(path: Any, argument: str = "path") -> Path:
    """A file or folder that is there.

    Raises:
      TypeError: no path. FileNotFoundError: nothing is there.
    """
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise TypeError(f"`{argument}` is {path!r}; expected the path of a file or folder.")
    found = Path(os.fsdecode(path)).expanduser()
    try:
        there = found.exists()
    except (OSError, ValueError):
        there = False
    if not there:
        raise FileNotFoundError(f"`{argument}` is {os.fspath(path)!r}; there is no such file or folder.")
    return found


def train_and_test(folder: Path) -> tuple[Path, Path] | None:
    """The folders train and test of a folder, where it holds both."""
    parts = folder / "train", folder / "test"
    return parts if all(part.is_dir() for part in parts) else None


def both(parts: tuple[Any, Any], read: Callable[[Any], Population]) -> tuple[Population, Population]:
    """What two parts hold, the test's clients in the order of the training's where they are the same."""
    train, test = (read(part) for part in parts)
    return train, in_order_of(train, test)


def in_order_of(train: Population, test: Population) -> Population:
    """`test` with its clients in the order of `train`'s, where they are the same clients: so client i is one client."""
    if train.names is None or test.names is None:
        return test
    wanted, there = train.names.tolist(), test.names.tolist()
    if wanted == there or set(wanted) != set(there):
        return test
    place = {name: i for i, name in enumerate(there)}
    return test.select([place[name] for name in wanted])


def sorted_naturally(paths: Iterable[Path]) -> list[Path]:
    """By name, 2 before 10; hidden files left out."""
    return sorted((p for p in paths if not p.name.startswith((".", "__"))), key=lambda p: natural(p.name))
