"""What a compiled program does in a round: kernels, and bytes of device memory that these read and write."""

from collections.abc import Sequence
from typing import NamedTuple

from fedjaxlite.rehearsal.hlo import NO_KERNEL, Operation, Text, num_bytes
from fedjaxlite.rehearsal.loops import Loop, computation_of, kernels, loops_of, step_loop

_READ_PART = ("dynamic-slice", "gather", "slice")


class Traffic(NamedTuple):
    """Of a part of a program.

    Attributes:
      kernels: how many are started one after the other.
      num_bytes: read from and written to device memory, what XLA fuses not counted.
    """

    kernels: float = 0.0
    num_bytes: float = 0.0

    def plus(self, other: "Traffic", times: float = 1.0) -> "Traffic":
        """The sum, the other one so many times."""
        return Traffic(*(a + times * b for a, b in zip(self, other, strict=True)))


def traffic_of_step(text: Text) -> Traffic:
    """Of one local step of all lanes, the loops of a recurrent model inside of it included."""
    loop = step_loop(text)
    return Traffic() if loop is None else _of_computation(text, loop.body, {})


def traffic_of_round(text: Text, steps: float | None, waves: float | None) -> Traffic:
    """Of the whole program, with loops as often as they run.

    Args:
      text: the program's.
      steps: local steps one after another; None counts one.
      waves: turns of all lanes; None counts one.
    """
    return _of_computation(text, text.entry, trips_of(text, steps or 1.0, waves or 1.0))


def trips_of(text: Text, steps: float, waves: float) -> dict[str, float]:
    """How often the loops of unknown length run, by the names of their bodies.

    The innermost one around the local steps runs until all steps are done, those around it once a wave. What bears no
    product is not the model's, and is counted once.
    """
    step = step_loop(text)
    if step is None:
        return {}
    loops = {loop.body: loop for loop in loops_of(text)}
    path = _path_to(loops, step.body)
    unknown = [loop for loop in path if loop.trips is None]
    if not unknown:
        return {}
    inner, rest = unknown[-1], unknown[:-1]
    found = {loop.body: waves for loop in rest[-1:]}
    known = 1.0
    for loop in path:
        known *= loop.trips or found.get(loop.body, 1.0)
    found[inner.body] = steps / known
    # A method with several loops of local steps runs each of them.
    others = [loop for loop in loops.values() if loop.of_steps and loop.trips is None and loop.body not in found]
    return found | {loop.body: found[inner.body] for loop in others}


def _path_to(loops: dict[str, Loop], body: str) -> list[Loop]:
    """The loops around a loop and itself, the outermost first."""
    path = [loops[body]]
    while outer := next((loop for loop in loops.values() if path[0].body in loop.inner), None):
        path.insert(0, outer)
    return path


def _of_computation(text: Text, name: str, trips: dict[str, float]) -> Traffic:
    operations = text.computations.get(name, ())
    known = {operation.name: operation for operation in operations}
    total = Traffic()
    for operation in kernels(operations):
        if operation.kind == "while":
            body = computation_of(operation, "body")
            times = trips.get(body, 1.0) if operation.trips is None else operation.trips
            total = total.plus(_of_computation(text, body, trips), times)
        elif operation.kind in ("call", "conditional"):
            inner = [_of_computation(text, called, trips) for called in operation.called]
            total = total.plus(max(inner, default=Traffic()))
        elif not operation.kind.endswith("-done"):
            total = total.plus(Traffic(1.0, float(_bytes_of(text, operation, known))))
    return total


def _bytes_of(text: Text, operation: Operation, known: dict[str, Operation]) -> int:
    """Bytes that a kernel reads and writes; of what it only reads or writes a part of, that part."""
    operands = [known[name] for name in operation.operands if name in known]
    if operation.kind in _READ_PART:
        return 2 * num_bytes(operation.shapes)
    if operation.kind == "dynamic-update-slice":
        return 2 * (num_bytes(operands[1].shapes) if len(operands) > 1 else num_bytes(operation.shapes))
    inside = text.computations.get(operation.called[0], ()) if operation.kind == "fusion" and operation.called else ()
    if not inside:
        return num_bytes(operation.shapes) + sum(num_bytes(operand.shapes) for operand in operands)
    return _read_by(inside, operands) + _written_by(inside, operation)


def _read_by(inside: Sequence[Operation], operands: Sequence[Operation]) -> int:
    total = 0
    parameters = {_place(each): each.name for each in inside if each.kind == "parameter"}
    for place, operand in enumerate(operands):
        whole, name = num_bytes(operand.shapes), parameters.get(place)
        users = [each for each in inside if name in each.operands]
        parts = [_part_read(each, name, inside) for each in users]
        total += whole if not users or None in parts else min(whole, sum(part or 0 for part in parts))
    return total


def _part_read(user: Operation, name: str | None, inside: Sequence[Operation]) -> int | None:
    """Bytes that an operation reads of a value of which it needs a part; None where it needs all of it."""
    first = bool(user.operands) and user.operands[0] == name and name not in user.operands[1:]
    if first and user.kind in _READ_PART:
        return num_bytes(user.shapes)
    if first and user.kind == "dynamic-update-slice":
        return 0
    if user.kind in NO_KERNEL:
        parts = [_part_read(each, user.name, inside) for each in inside if user.name in each.operands]
        return None if not parts or None in parts else sum(part or 0 for part in parts)
    return None


def _written_by(inside: Sequence[Operation], operation: Operation) -> int:
    by_name = {each.name: each for each in inside}
    root = next((each for each in inside if each.root), None)
    if root is None:
        return num_bytes(operation.shapes)
    results = [by_name[name] for name in root.operands if name in by_name] if root.kind == "tuple" else [root]
    total = 0
    for result in results:
        while result.kind == "bitcast" and result.operands and result.operands[0] in by_name:
            result = by_name[result.operands[0]]
        update = result.operands[1] if result.kind == "dynamic-update-slice" and len(result.operands) > 1 else ""
        total += num_bytes(by_name[update].shapes if update in by_name else result.shapes)
    return total


def _place(parameter: Operation) -> int:
    number = parameter.line.partition(" parameter(")[2].partition(")")[0]
    return int(number) if number.isdigit() else -1
