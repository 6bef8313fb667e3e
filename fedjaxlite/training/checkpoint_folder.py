"""A folder of checkpoints: each is there whole or not at all, with a digest of every file that is looked at before use.

checkpoints/40/state/          the arrays, as Orbax writes them
checkpoints/40/meta/metadata   whose they are, and the SHA-256 of every file; written last
checkpoints/41.tmp/            one that is being written; renamed once all of it is on the disk
checkpoints/damaged/           what was found damaged, moved aside and kept
"""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fedjaxlite import processes
from fedjaxlite.storage import patiently, to_disk

LOG = logging.getLogger("fedjaxlite.training")
META = "meta/metadata"
ASIDE = "damaged"


class Whole(NamedTuple):
    """A checkpoint that was looked at and is what was written.

    Attributes:
      round: its round.
      path: its folder.
      meta: what was written beside the arrays.
    """

    round: int
    path: Path
    meta: Mapping[str, Any]


def prepare(path: Path) -> None:
    """Makes the folder, readable by its owner only, and clears what a killed process left half written."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    for half in path.glob("*tmp"):
        LOG.info("cleared %s, which was half written", half)
        shutil.rmtree(half, ignore_errors=True)


def write(path: Path, number: int, fill: Callable[[Path], None], meta: Mapping[str, Any], *, keep: int) -> None:
    """Writes a checkpoint, all or nothing, and removes the oldest once there are more than `keep`.

    What fails and may pass is tried again, as `fedjaxlite.storage` says: all of it in one process; of several, what the
    first one does alone, since the others stand with it in the writing of the arrays.

    Args:
      path: the folder of checkpoints.
      number: the round.
      fill: writes the arrays into a folder that does not exist yet; called in every process.
      meta: what JSON can hold.
      keep: how many checkpoints stay.

    Raises:
      StorageError: it could not be written; nothing of it is left then.
    """
    half, what = path / f"{number}.tmp", f"the checkpoint of round {number} could not be written to {str(path)!r}"

    def begin() -> None:
        _made_again(path)
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir()

    def finish() -> None:
        _seal(half, meta)
        _put_in_place(half, path / str(number))

    def alone() -> None:
        begin()
        fill(half / "state")
        finish()

    def tried(step: Callable[[], None]) -> None:
        # The storage layer raises errors of many types.
        patiently(step, what, undo=lambda: _remove(half), of=(Exception,))

    if processes.count() == 1:
        tried(alone)
        patiently(lambda: to_disk(path), what)
        _forget(path, keep)
        return

    def conclude() -> None:
        patiently(finish, what)
        patiently(lambda: to_disk(path), what)
        _forget(path, keep)

    processes.by_first(lambda: tried(begin))
    fill(half / "state")
    processes.together("checkpoint filled")
    processes.by_first(conclude)


def oldest(path: Path) -> int:
    """The round of the oldest checkpoint that is kept; there has to be one."""
    return int(_numbered(path)[-1].name)


def _made_again(path: Path) -> None:
    """A folder that was deleted under a run is made again, but for those above it: they may be mounted elsewhere."""
    if not path.exists():
        path.mkdir(mode=0o700)
        LOG.warning("%s was gone, with the checkpoints in it; it was made again", path)


def _put_in_place(half: Path, place: Path) -> None:
    if place.exists():  # of the same round and not whole: or the run would not have come here
        _aside(place)
    half.rename(place)


def _forget(path: Path, keep: int) -> None:
    """Deletes the oldest, and does not fail: what stays is deleted next time."""
    try:
        for old in _numbered(path)[keep:]:
            # Renamed first: a process that is killed while it deletes must leave nothing that looks like a damaged one.
            shutil.rmtree(old.rename(path / f"{old.name}.old.tmp"), ignore_errors=True)
    except OSError as error:
        LOG.warning("old checkpoints in %s could not be deleted: %s", path, error.strerror or error)


def _remove(half: Path) -> None:
    """Deletes what was half written, also while threads of the storage layer still write to it."""
    for _ in range(20):
        shutil.rmtree(half, ignore_errors=True)
        if not os.path.exists(half):  # noqa: PTH110  (Path.exists raises where storage is not to be reached)
            return
        time.sleep(0.1)


def newest(path: Path) -> Whole | None:
    """The newest checkpoint that is whole; those that are not are named in a warning and moved aside.

    Returns:
      None where there is no checkpoint.

    Raises:
      ValueError: there are checkpoints, and none is whole.
    """
    found = processes.by_first(lambda: _newest(path))  # each file is read once, and nobody sees what others do not
    return None if found is None else Whole(found["round"], path / found["folder"], found["meta"])


def _newest(path: Path) -> dict[str, Any] | None:
    looked = {folder: look(folder) for folder in _numbered(path)}
    damaged = {folder: why for folder, (meta, why) in looked.items() if meta is None}
    whole = next(((folder, meta) for folder, (meta, _) in looked.items() if meta is not None), None)
    if whole is None and damaged:
        told = "; ".join(f"that of round {folder.name}: {why}" for folder, why in damaged.items())
        raise ValueError(
            f"no checkpoint in {str(path)!r} is whole ({told}). They were left as they are: put a whole one back, or "
            "begin anew with another out_dir."
        )
    if whole is None:
        return None
    folder, meta = whole
    _move(damaged, int(meta["round"]), path)
    return {"round": meta["round"], "folder": folder.name, "meta": dict(meta)}


def look(folder: Path) -> tuple[Mapping[str, Any] | None, str]:
    """What a checkpoint says of itself where every file of it is what was written; else None, and why."""
    name = META
    try:
        sealed = json.loads((folder / name).read_bytes())
        content = sealed["content"]
        if sealed["sha256"] != _digest_of(content):
            return None, f"{name} is not what was written"
        for name, digest in content["files"].items():
            with (folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    return None, f"{name} is not what was written"
    except PermissionError:  # nothing is damaged
        raise
    except (FileNotFoundError, NotADirectoryError):
        return None, f"{name} is missing"
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        return None, f"{name} cannot be read"
    return content, ""


def _seal(folder: Path, meta: Mapping[str, Any]) -> None:
    """Puts all that lies in a folder on the disk, and then its digests."""
    shutil.rmtree((folder / META).parent, ignore_errors=True)  # of a try that failed
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                files[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
        to_disk(path)
    content = json.loads(json.dumps({**meta, "files": files}))
    target = folder / META
    target.parent.mkdir()
    target.write_text(json.dumps({"sha256": _digest_of(content), "content": content}), encoding="utf-8")
    for path in (target, target.parent, folder):
        to_disk(path)


def _digest_of(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _numbered(path: Path) -> list[Path]:
    """What is named like a round, the newest first."""
    return sorted((p for p in path.iterdir() if p.name.isdecimal()), key=lambda p: int(p.name), reverse=True)


def _move(damaged: Mapping[Path, str], number: int, path: Path) -> None:
    for folder, why in damaged.items():
        place = _aside(folder)
        LOG.warning(
            "the checkpoint of round %s in %s is damaged: %s. It was moved to %s; the run goes on from round %d, whose "
            "checkpoint is whole",
            *(folder.name, path, why, place, number),
        )


def _aside(folder: Path) -> Path:
    """Moves a checkpoint to `damaged/`, under a name that is free."""
    aside = folder.parent / ASIDE
    aside.mkdir(exist_ok=True)
    place, more = aside / folder.name, 2
    while place.exists():
        place, more = aside / f"{folder.name}-{more}", more + 1
    return folder.rename(place)
