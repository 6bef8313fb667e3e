"""The folder of a run: what lies where in it, and when it may be used."""

import os
import uuid
from pathlib import Path
from typing import NamedTuple


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
