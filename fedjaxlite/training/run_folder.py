"""The folder of a run: what lies where in it, when it may be used, and by whom."""

import contextlib
import logging
import os
import uuid
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

from fedjaxlite import processes, storage

LOG = logging.getLogger("fedjaxlite.training")


class RunFolder(NamedTuple):
    """The files of a run.

    Attributes:
      path: the folder.
      records: one line of JSON a round.
      config: what reproduces the run.
      curves: loss and accuracy over rounds and over bytes.
      checkpoints: a folder with one folder a checkpoint. It holds the noise key of a private run and is therefore
        readable by its owner only.
      tensorboard: a folder of event files.
      lock: what a process holds while it runs; the file stays, the lock does not.
    """

    path: Path

    @property
    def records(self) -> Path:
        """`records.jsonl`."""
        return self.path / "records.jsonl"

    @property
    def config(self) -> Path:
        """`config.toml`."""
        return self.path / "config.toml"

    @property
    def curves(self) -> Path:
        """`curves.png`."""
        return self.path / "curves.png"

    @property
    def checkpoints(self) -> Path:
        """`checkpoints/`."""
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        """`tensorboard/`."""
        return self.path / "tensorboard"

    @property
    def lock(self) -> Path:
        """`.lock`."""
        return self.path / ".lock"


def prepare(out_dir: str | os.PathLike[str], *, resume: bool) -> RunFolder:
    """Makes the folder of a run, and refuses one that cannot be written to or holds another run.

    Args:
      out_dir: the folder; it and those above it are made where they are missing.
      resume: whether a run in it is to go on.

    Returns:
      a RunFolder.

    Raises:
      OSError: the folder cannot be made or written to.
      FileExistsError: it holds a run already, and `resume` is False.
    """
    folder = RunFolder(Path(out_dir).expanduser())
    found = _traces(folder)
    if found and not resume:
        raise FileExistsError(
            f"{str(folder.path)!r} holds a run already ({', '.join(found)}). Go on with it by resume=True (--resume on "
            "the command line), or give another out_dir."
        )
    probe = folder.path / f".{uuid.uuid4().hex}"
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        probe.write_text("fedjaxlite")
        probe.unlink()
    except OSError as error:
        raise type(error)(
            error.errno,
            f"`out_dir` is {str(folder.path)!r}, which cannot be written to: {error.strerror or error}. Give a folder "
            "that can",
        ) from error
    return folder


@contextlib.contextmanager
def held(out_dir: str | os.PathLike[str], *, resume: bool) -> Generator[RunFolder]:
    """Makes the folder of a run, as `prepare` does, and holds its lock: the first process for all.

    The lock is the operating system's own and gone with the process, however that ends. A second process is refused,
    and so is a second run in the same process. On systems without `flock` (Windows) nothing is locked. On a network's
    file system the lock holds as far as that passes it on (NFS does from version 4 on, Lustre where it is mounted so);
    where it refuses to lock, a warning says so and the run goes on without. A child that the process forked, and that
    outlives it, keeps the lock.

    Args:
      out_dir: the folder.
      resume: whether a run in it is to go on.

    Raises:
      OSError: as `prepare`.
      RuntimeError: another run holds it.
    """
    folder = RunFolder(Path(out_dir).expanduser())
    with contextlib.ExitStack() as stack:

        def take() -> None:
            prepare(out_dir, resume=resume)
            stack.enter_context(_lock(folder))
            prepare(out_dir, resume=resume)  # the run that held it until now may have left something

        processes.by_first(take)
        yield folder


@contextlib.contextmanager
def _lock(folder: RunFolder) -> Generator[None]:
    def refusal(who: str) -> str:
        return (
            f"`out_dir` is {str(folder.path)!r}, where another run is going on ({who}). Two would lose each other's "
            "records: wait for it, end it, or give another out_dir."
        )

    with storage.locked(folder.lock, refusal) as why:
        if why == storage.NO_FLOCK:
            LOG.info("%s: nothing keeps a second run out of %s", why, folder.path)
        elif why:
            LOG.warning(
                "%s cannot be locked (%s): see to it yourself that one run alone writes to it", folder.path, why
            )
        yield


def _traces(folder: RunFolder) -> list[str]:
    """The files that only a run which did some rounds leaves, or that are not of this library's making."""
    found = []
    if folder.records.exists() and folder.records.stat().st_size:
        found.append(folder.records.name)
    if folder.config.exists() and not folder.records.exists():
        found.append(folder.config.name)
    if folder.checkpoints.exists() and any(folder.checkpoints.iterdir()):
        found.append(folder.checkpoints.name)
    return found
