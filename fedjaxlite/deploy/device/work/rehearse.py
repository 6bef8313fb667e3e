"""What an owner can try before the device joins: a dry run, and an evaluation. Nothing of its examples leaves.

Where the program is not on the device yet, it is fetched by its pinned hash: the question for it is all that is sent.
"""

import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedjaxlite.deploy.device import data, program
from fedjaxlite.deploy.device.artifact import dtype_of, unpack
from fedjaxlite.deploy.device.home.folder import Home
from fedjaxlite.deploy.device.policy import memory_of
from fedjaxlite.deploy.device.program import Program
from fedjaxlite.deploy.device.terms import size_of
from fedjaxlite.deploy.device.work import needs


class Rehearsed(NamedTuple):
    """What a program promises, and what it did on the device's own examples.

    Attributes:
      program: its sha256, hex.
      algorithm: the method's name.
      platforms: what it runs on.
      masked: whether updates leave in a secure sum only.
      download: bytes of a model.
      upload: bytes of an update, before a secure sum adds its own.
      memory: bytes that it needs on a CPU, by XLA's analysis; None where it is not known.
      steps: local steps of a full client; None where they are not fixed.
      num_examples: how many examples the device has.
      capacity: how many the program takes.
      compiled: seconds of the first run, compilation among them.
      seconds: of the second.
      finite: whether what it computed is.
      info: what stays on the device, such as the training loss, by name.
    """

    program: str
    algorithm: str
    platforms: tuple[str, ...]
    masked: bool
    download: int
    upload: int
    memory: int | None
    steps: int | None
    num_examples: int
    capacity: int
    compiled: float
    seconds: float
    finite: bool
    info: dict[str, float]


def program_of(home: Home, path: str | os.PathLike[str] | None = None) -> Program | None:
    """The program that the device would run, held against the pinned hash.

    Args:
      home: the device.
      path: a file that somebody gave its owner; None looks on the device.

    Returns:
      `Program`; None where the device has none yet.

    Raises:
      ProgramRefused: the file is another program, or none.
    """
    if path is not None:
        return program.load(path, sha256=home.program or None)
    kept = needs.program_path(home, home.program)
    return program.load(kept, sha256=home.program) if home.program and kept.exists() else None


def dry_run(ready: Program, arrays: Mapping[str, np.ndarray], *, seed: int = 0) -> Rehearsed:
    """Runs a program on the device's examples with a made-up model, twice.

    Args:
      ready: from `program_of`, or `program.load`.
      arrays: `{name: array [n, ...]}`.
      seed: of the made-up model: small normal numbers where it has floats, else zeros.

    Returns:
      `Rehearsed`.

    Raises:
      ValueError: the examples do not fit the program.
    """
    manifest = ready.manifest
    n = data.check(arrays, manifest)
    draw = np.random.default_rng(seed)
    model = [_made_up(spec, draw) for spec in manifest["download"]]
    key = np.asarray([0, seed], np.uint32)
    times = [time.perf_counter()]
    program.run(ready, model, None, arrays, n, key)
    times.append(time.perf_counter())
    done = program.run(ready, model, None, arrays, n, key)
    times.append(time.perf_counter())
    return Rehearsed(
        program=ready.sha256,
        algorithm=manifest["algorithm"],
        platforms=tuple(manifest["platforms"]),
        masked=manifest["masked"],
        download=size_of(manifest["download"]),
        upload=size_of(manifest["message"]),
        memory=memory_of(manifest),
        steps=manifest["steps"],
        num_examples=n,
        capacity=manifest["capacity"],
        compiled=times[1] - times[0],
        seconds=times[2] - times[1],
        finite=done.finite,
        info=done.info,
    )


def _made_up(spec: Mapping[str, Any], draw: np.random.Generator) -> np.ndarray:
    dtype = dtype_of(spec["dtype"])
    if dtype.kind in "biu":
        return np.zeros(spec["shape"], dtype)
    return (0.01 * draw.standard_normal(spec["shape"])).astype(dtype)


def text(told: Rehearsed) -> str:
    """A dry run for a person."""
    memory = "not known" if told.memory is None else f"{told.memory:,} bytes"
    leaves = "in a secure sum only" if told.masked else "in the clear"
    rows = [
        f"program    {told.program}",
        f"method     {told.algorithm}, on {', '.join(told.platforms)}",
        f"comes      {told.download:,} bytes a round: the model",
        f"leaves     {told.upload:,} bytes a round, {leaves}: the update",
        f"memory     {memory}",
        f"steps      {'as many as it takes' if told.steps is None else told.steps} of a client of {told.capacity}",
        f"examples   {told.num_examples} of at most {told.capacity}",
        f"time       {told.seconds:.3f} seconds a round, {told.compiled:.1f} the first time",
        f"numbers    {'finite' if told.finite else 'NOT finite, with a made-up model'}",
    ]
    return "\n".join(rows)


def evaluate(
    home: Home, ready: Program, arrays: Mapping[str, np.ndarray], *, model: str | os.PathLike[str] | None = None
) -> dict[str, float]:
    """Metrics of a model on the device's examples, for its owner: the client's own model where it has one.

    Args:
      home: the device.
      ready: from `program_of`.
      arrays: `{name: array [n, ...]}`.
      model: a file of what the server sends, as `pack` writes it; None takes the newest that came to this device.

    Returns:
      `{name: mean over the examples}`.

    Raises:
      ValueError: the program has no evaluation, or the examples do not fit.
      FileNotFoundError: no model has come yet.
    """
    n = data.check(arrays, ready.manifest)
    content = Path(model).read_bytes() if model is not None else _newest(home)
    down = unpack(content, ready.manifest["download"])
    return program.evaluate(ready, down, needs.state_of(home, ready), arrays, n)


def _newest(home: Home) -> bytes:
    for path in sorted((home.folder / "models").iterdir(), key=lambda path: path.stat().st_mtime, reverse=True):
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() == path.name:
            return content
    raise FileNotFoundError(
        f"no model has come to {str(home.folder)!r} yet; give a file with one, or join for a round first."
    )
