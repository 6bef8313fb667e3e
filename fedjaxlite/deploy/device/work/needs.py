"""What a task is done with: the device, the program, the model, the client's state; fetched where they are missing."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedjaxlite.deploy.device import data, program, terms
from fedjaxlite.deploy.device.artifact import ProgramRefused, unpack
from fedjaxlite.deploy.device.home import folder, states
from fedjaxlite.deploy.device.home.folder import Home
from fedjaxlite.deploy.device.policy import Policy, Status
from fedjaxlite.deploy.device.program import Program
from fedjaxlite.deploy.device.work import moving
from fedjaxlite.deploy.device.work.moving import Ask
from fedjaxlite.transport.whole_file import write_whole


class Refused(Exception):
    """This device does not do what the server asks for; the text says why."""


class Stopped(Exception):
    """The owner wants the device to end."""


class Device(NamedTuple):
    """What a device needs to work.

    Attributes:
      home: its folder.
      policy: its owner's rules.
      arrays: its examples, `{name: array [n, ...]}`.
      status: tells what it is doing.
      clock: seconds since 1970.
      wait: waits so many seconds; raises where its owner wants it to end.
      report: told a line for its owner.
      loaded: {sha256: program} that were compiled already; filled here.
    """

    home: Home
    policy: Policy
    arrays: Mapping[str, np.ndarray]
    status: Callable[[], Status]
    clock: Callable[[], float]
    wait: Callable[[float], Awaitable[None]]
    report: Callable[[str], None]
    loaded: dict[str, Program]

    @property
    def num_examples(self) -> int:
        """How many examples it has."""
        return data.count(self.arrays)

    @property
    def log(self) -> Path:
        """Its ledger."""
        return self.home.folder / folder.LOG


def state_of(home: Home, ready: Program) -> list[np.ndarray]:
    """What the client keeps: the state after its last update that counted, under this program."""
    kept = states.committed(home)
    if kept is None or kept.program != ready.sha256:
        return ready.start
    return unpack(kept.state, ready.manifest["state"])


async def program_of_task(device: Device, ask: Ask, task: Mapping[str, Any]) -> Program:
    """The program of a task: from memory, from the disk, or fetched; pinned where it is the first one."""
    sha256 = folder.checked_hash(task["program"], "program")
    if sha256 not in device.loaded:
        path = program_path(device.home, sha256)
        most = device.policy.most_program_bytes
        content = _cached(path, sha256)
        if content is None:
            asked = moving.told(ask, device.home, device.clock, program=sha256)
            content = await moving.fetch(asked, sha256, task["program_bytes"], most=most)
        try:
            ready = await asyncio.to_thread(program.load, content, sha256=sha256, most_bytes=most)
        except ProgramRefused as error:
            raise Refused(str(error)) from error
        write_whole(path, content)
        device.loaded.clear()
        device.loaded[sha256] = ready
    return device.loaded[sha256]


async def model_of_task(device: Device, ask: Ask, task: Mapping[str, Any], ready: Program) -> list[np.ndarray]:
    """The arrays of a task's model: from the disk, or fetched; one lies on the disk."""
    sha256 = folder.checked_hash(task["model"], "model")
    path = device.home.folder / "models" / sha256
    content = _cached(path, sha256)
    if content is None:
        total = terms.size_of(ready.manifest["download"])
        asked = moving.told(ask, device.home, device.clock, round=task["round"])
        content = await moving.fetch(asked, sha256, total, most=total)
        for other in path.parent.iterdir():
            other.unlink()
        write_whole(path, content)
    return unpack(content, ready.manifest["download"])


def program_path(home: Home, sha256: str) -> Path:
    """Where a program lies on the device."""
    return home.folder / "programs" / f"{sha256}.fjlp"


def _cached(path: Path, sha256: str) -> bytes | None:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    return content if hashlib.sha256(content).hexdigest() == sha256 else None
