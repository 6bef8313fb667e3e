"""The collectives of a compiled program by the axes of its mesh: which devices exchange, how often in the text, and what."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedjaxlite.rehearsal import hlo, loops

_GROUPS = re.compile(r"replica_groups=(\{\{.*?\}\}|\{\}|\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?)")
# As JAX 0.12 writes them: the mesh, and the axes along which devices exchange.
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")
_PAIRS = re.compile(r"source_target_pairs=(\{\{.*?\}\})")


class Exchange(NamedTuple):
    """One collective in the text.

    Attributes:
      kind: "all-reduce" ...
      axes: the axes of the mesh along which devices of one group differ.
      num_bytes: of its result on each device.
      in_loop: whether a loop repeats it.
    """

    kind: str
    axes: tuple[str, ...]
    num_bytes: int
    in_loop: bool


def exchanges(text: str, axes: dict[str, int]) -> list[Exchange]:
    """Every collective of a compiled program's text.

    Args:
      text: of `compiled.as_text()`.
      axes: the mesh, sizes by name.
    """
    program = hlo.read(text)
    looped = _in_loops(program)
    found = []
    for name, operations in program.computations.items():
        for operation in operations:
            kind = operation.kind.removesuffix("-start")
            if kind not in hlo.COLLECTIVES:
                continue
            groups = _groups(operation.line, math.prod(axes.values()))
            size = hlo.num_bytes(operation.shapes, on_chip=True)
            halves = operation.kind.endswith("-start") and operation.shapes.startswith("((")
            found.append(Exchange(kind, _varying(groups, axes), size // (2 if halves else 1), name in looped))
    return found


def _in_loops(program: hlo.Text) -> set[str]:
    """The computations that a loop repeats, and all that these call."""
    ahead = [body for operations in program.computations.values() for body in _bodies(operations)]
    found: set[str] = set()
    while ahead:
        name = ahead.pop()
        if name not in found:
            found.add(name)
            ahead += [called for operation in program.computations.get(name, ()) for called in operation.called]
    return found


def _bodies(operations: Sequence[hlo.Operation]) -> list[str]:
    whiles = [operation for operation in operations if operation.kind == "while"]
    return [loops.computation_of(operation, role) for operation in whiles for role in ("body", "condition")]


def _groups(line: str, num_devices: int) -> list[list[int]]:
    if pairs := _PAIRS.search(line):
        return [list(map(int, pair.split(","))) for pair in re.findall(r"\{([\d,]+)\}", pairs[1])]
    if mesh := _MESH.search(line):
        return _along(dict(re.findall(r"'(\w+)'=(\d+)", mesh[1])), re.findall(r"'(\w+)'", mesh[2]))
    match = _GROUPS.search(line)
    assert match, f"no groups of devices in {line}"
    text = match[1]
    if text.startswith("{"):
        listed = [list(map(int, group.split(","))) for group in re.findall(r"\{([\d,]+)\}", text)]
        return listed or [list(range(num_devices))]
    shape, sizes, order = re.findall(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text)[0]
    numbers = lambda part: tuple(map(int, part.split(",")))  # noqa: E731
    devices = np.arange(num_devices).reshape(numbers(sizes))
    devices = devices.transpose(numbers(order)) if order else devices
    return devices.reshape(numbers(shape)).tolist()


def _along(mesh: dict[str, str], axes: Sequence[str]) -> list[list[int]]:
    sizes = {name: int(size) for name, size in mesh.items()}
    devices = np.arange(math.prod(sizes.values())).reshape(tuple(sizes.values()))
    order = [*(name for name in sizes if name not in axes), *axes]
    devices = devices.transpose([list(sizes).index(name) for name in order])
    return devices.reshape(-1, math.prod(sizes[name] for name in axes)).tolist()


def _varying(groups: list[list[int]], axes: dict[str, int]) -> tuple[str, ...]:
    varying: set[str] = set()
    for group in groups:
        places = np.array(np.unravel_index(group, tuple(axes.values())))
        varying |= {name for name, along in zip(axes, places, strict=True) if len(set(along.tolist())) > 1}
    return tuple(name for name in axes if name in varying)
