"""What a server keeps on its disk, so that being killed at any moment loses nothing that it has told a client.

    run.json             whose folder it is
    checkpoints/12/      the run after 12 rounds, whole or not at all, with digests
    round.json           the round at hand: its number, attempt, and who was drawn
    uploads/12-0/        whole updates of the round at hand, named in the order of their arrival
    parts/12-0/          those that are not whole
    sums/12-0            the opened sum of a masked round
    evaluations/12/      metrics of an evaluation that goes on
    records.jsonl        as in simulation

The keys of noise are in the checkpoints: the folder is readable by its owner alone.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedjaxlite.deploy.program.leaves import leaves_of
from fedjaxlite.deploy.server import tables
from fedjaxlite.deploy.server.state import Checkpoint, Drop, Effect, Extend, Keep, Record, ServerState
from fedjaxlite.observers import records
from fedjaxlite.storage import patiently, read_npz, to_disk, write_npz
from fedjaxlite.training import checkpoint_folder
from fedjaxlite.transport.whole_file import write_whole

Saved = tuple[Mapping[str, np.ndarray], Mapping[str, Any]]
FORMAT = "fedjaxlite deployed server 1"


class Journal(NamedTuple):
    """Where effects go, and what is read back from there.

    Attributes:
      keep: `keep(path, data)`: a file that is on the disk, whole, once this returns.
      extend: `extend(path, offset, data)`: a file up to `offset`, and `data` behind it.
      drop: `drop(path)`: a file or folder, which may be missing.
      read: `read(path) -> bytes`. FileNotFoundError: there is none.
      names: `names(folder)`: the paths of the files below a folder, sorted.
      save: `save(number, arrays, header)`: a checkpoint.
      newest: `newest()`: the arrays and the header of the last whole one, or None.
      record: `record(dict)`: a line of the records.
      cut: `cut(last_round)`: takes the records behind a round away, and returns the rest.
    """

    keep: Callable[[str, bytes], None]
    extend: Callable[[str, int, bytes], None]
    drop: Callable[[str], None]
    read: Callable[[str], bytes]
    names: Callable[[str], Sequence[str]]
    save: Callable[[int, Mapping[str, np.ndarray], Mapping[str, Any]], None]
    newest: Callable[[], Saved | None]
    record: Callable[[Mapping[str, Any]], None]
    cut: Callable[[int], Sequence[Mapping[str, Any]]]


def carry_out(journal: Journal, effects: Sequence[Effect]) -> None:
    """Carries out what a server asked for, in its order.

    Raises:
      StorageError, OSError: the disk is full or fails; the caller keeps the state that it had before.
    """
    for effect in effects:
        match effect:
            case Keep(path, data):
                journal.keep(path, data)
            case Extend(path, offset, data):
                journal.extend(path, offset, data)
            case Drop(path):
                journal.drop(path)
            case Checkpoint(state):
                journal.save(state.number, *saved(state))
            case Record(record):
                journal.record(record)


def saved(state: ServerState) -> Saved:
    """What a checkpoint holds of a state: arrays, and what JSON can hold."""
    arrays = {f"leaf{i:05d}": np.asarray(leaf) for i, leaf in enumerate(leaves_of(state.rounds))}
    counted = [[client, *tables.get(state.counted, client)] for client in sorted(tables.numbers(state.counted))]
    record = None if state.record is None else {name: _plain(value) for name, value in state.record.items()}
    return arrays, {"number": state.number, "counted": counted, "record": record}


def open_at(folder: str | os.PathLike[str], *, keep: int = 2, more: Callable[[], Mapping[str, Any]] = dict) -> Journal:
    """The journal in a folder.

    Args:
      folder: made where it is missing.
      keep: checkpoints that stay.
      more: what is added to every record: the bytes on the wire since the last one.

    Returns:
      Journal.
    """
    home = Path(folder).expanduser().resolve()
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)
    checkpoints, lines = home / "checkpoints", home / "records.jsonl"
    checkpoint_folder.prepare(checkpoints)

    def read(path: str) -> bytes:
        return (home / path).read_bytes()

    def names(below: str) -> list[str]:
        found = sorted(path for path in (home / below).rglob("*") if path.is_file() and path.suffix != ".tmp")
        return [path.relative_to(home).as_posix() for path in found]

    def save(number: int, arrays: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> None:
        def fill(place: Path) -> None:
            place.mkdir()
            write_npz(place / "run.npz", arrays, header)

        meta = {"format": FORMAT, "round": number}
        checkpoint_folder.write(checkpoints, number, fill, meta, keep=keep)

    def newest() -> Saved | None:
        found = checkpoint_folder.newest(checkpoints)
        return None if found is None else read_npz(found.path / "state" / "run.npz")

    def record(line: Mapping[str, Any]) -> None:
        patiently(lambda: _append(lines, records.to_line({**line, **more()})), f"a record of {str(lines)!r}")

    return Journal(
        keep=lambda path, data: patiently(lambda: write_whole(_place(home, path), data), f"{path} in {str(home)!r}"),
        extend=lambda path, offset, data: _extend(home, path, offset, data),
        drop=lambda path: _drop(home / path),
        read=read,
        names=names,
        save=save,
        newest=newest,
        record=record,
        cut=lambda last: records.cut(lines, last),
    )


def _extend(home: Path, path: str, offset: int, data: bytes) -> None:
    place = _place(home, path)
    with place.open("r+b" if place.exists() else "x+b") as file:
        file.truncate(offset)
        file.seek(offset)
        file.write(data)


def _drop(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)


def _append(lines: Path, line: str) -> None:
    with lines.open("a", encoding="utf-8") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def _place(home: Path, path: str) -> Path:
    """A path in the folder, whose own folder is there and on the disk."""
    place = home / path
    new = [folder for folder in (place.parent, *place.parent.parents) if not folder.exists()]
    for folder in reversed(new):
        folder.mkdir(mode=0o700)
        to_disk(folder.parent)
    return place


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
