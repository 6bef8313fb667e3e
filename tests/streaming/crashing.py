"""A disk whose writes end in the middle, and which forgets what was not flushed."""

import os
from pathlib import Path

import numpy as np

from fedjaxlite.streaming.client_store import files


class Crash(BaseException):
    """The process ends here."""


class Disk:
    """Stands between a store and the system: counts steps, ends in the middle of one, loses what was not flushed."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.share = 0.0
        self.unflushed: list[tuple[str, int, bytes, int]] = []
        self.fsync = os.fsync
        self.real = {
            name: getattr(files, name) for name in ("put", "flushed", "folder_flushed", "made", "cut", "deleted")
        }

    def install(self) -> None:
        os.fsync = lambda file: None  # nothing really fails here, and the disk of a busy machine is slow
        files.put = self.put
        files.flushed = self.flushed
        files.folder_flushed = lambda path: self.step()
        for name in ("made", "cut", "deleted"):
            setattr(files, name, lambda *args, name=name: (self.step(), self.real[name](*args)))

    def remove(self) -> None:
        os.fsync = self.fsync
        for name, function in self.real.items():
            setattr(files, name, function)

    def crash_after(self, steps: int | None, share: float) -> None:
        self.left, self.share = steps, share

    def step(self) -> bool:
        if self.left is None:
            return False
        if self.left == 0:
            raise Crash
        self.left -= 1
        return True

    def put(self, file: int, data, at: int) -> None:
        whole = bytes(memoryview(data).cast("B")) if len(data) else b""
        part = whole if self.left != 0 else whole[: int(self.share * len(whole))]
        path, length = str(Path(f"/proc/self/fd/{file}").readlink()), os.fstat(file).st_size
        before = bytearray(len(part))
        files.take(file, before, at)
        self.unflushed.append((path, at, bytes(before), length))
        self.real["put"](file, part, at)
        self.step()

    def flushed(self, file: int) -> None:
        self.step()
        path = str(Path(f"/proc/self/fd/{file}").readlink())
        self.unflushed = [entry for entry in self.unflushed if entry[0] != path]

    def lose(self, share: float, rng: np.random.Generator) -> None:
        """Takes back writes that were not flushed: all of them for a share of 1, else some, in part."""
        for path, at, before, length in reversed(self.unflushed):
            if rng.random() < share and Path(path).exists():
                with Path(path).open("rb+") as file:
                    some = 0 if share == 1 else int(rng.integers(0, len(before) + 1))
                    file.seek(at + some)
                    file.write(before[some:])
                    if at + len(before) > length and (share == 1 or rng.random() < 0.5):
                        file.truncate(max(length, at + some))
        self.unflushed = []
