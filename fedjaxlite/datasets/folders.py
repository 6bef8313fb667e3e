"""Where data are looked for, and where what was read from them is kept."""

import os
from pathlib import Path

DATA_VARIABLES = ("FEDJAXLITE_DATA", "TFDS_DATA_DIR")


def data_folders(data_dir: str | os.PathLike[str] | None) -> list[Path]:
    """The folder given; else those that the environment names, in order.

    Raises:
      FileNotFoundError: the folder given does not exist.
    """
    if data_dir is not None:
        folder = Path(data_dir).expanduser()
        if not folder.is_dir():
            raise FileNotFoundError(f"`data_dir` is {os.fspath(data_dir)!r}; there is no such folder.")
        return [folder]
    return [Path(os.environ[name]).expanduser() for name in DATA_VARIABLES if os.environ.get(name)]


def looked_in(folders: list[Path]) -> str:
    """The folders as text, for messages."""
    if folders:
        return ", ".join(repr(str(folder)) for folder in folders)
    return f"no folder: neither data_dir= nor the environment ({', '.join(DATA_VARIABLES)}) names one"


def cache_folder() -> Path | None:
    """FEDJAXLITE_CACHE, or `fedjaxlite` below XDG_CACHE_HOME or ~/.cache; None where there is no home."""
    if os.environ.get("FEDJAXLITE_CACHE"):
        return Path(os.environ["FEDJAXLITE_CACHE"]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "fedjaxlite"
    except RuntimeError:
        return None
