"""The loops of a compiled program, and what each of their trips starts."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from fedjaxlite.data.local_loop import STEP_SCOPE
from fedjaxlite.rehearsal.hlo import COLLECTIVES, NO_KERNEL, Operation, Text, num_bytes

_PRODUCTS = ("dot", "convolution", "ragged-dot", "scaled-dot")
# Libraries' names for products, and the kinds of fusion that hold one.
_CALLS = ("gemm", "cublas", "cudnn", "matmul", "conv")


class Loop(NamedTuple):
    """One loop of a compiled program.

    Attributes:
      body: name of the computation that it repeats.
      kernels: operations that a trip starts, loops inside not counted.
      inner: bodies of the loops right inside.
      trips: how often it runs; None where XLA does not know: a GPU's host then waits for the condition at every trip.
      products: how many of the kernels hold a matrix product or a convolution.
      of_steps: whether its kernels are those of a local step.
    """

    body: str
    kernels: int
    inner: tuple[str, ...]
    trips: int | None
    products: int
    of_steps: bool


class Collective(NamedTuple):
    """Sums and exchanges over the devices, of one kind.

    Attributes:
      kind: "all-reduce" ...
      number: how many the program's text has.
      num_bytes: of all of them together, on each device.
    """

    kind: str
    number: int
    num_bytes: int


def loops_of(text: Text) -> tuple[Loop, ...]:
    """Every loop of a program, in the order of the text."""
    return tuple(
        _loop(text, operation)
        for operations in text.computations.values()
        for operation in operations
        if operation.kind == "while"
    )


def step_loop(text: Text) -> Loop | None:
    """The loop of local steps: what is right inside of it, in no loop of the model's own, is named after them.

    Of several, and where nothing bears the name, the innermost one that holds products and the most kernels. None for a
    program without loops.
    """
    loops = loops_of(text)
    found = [loop for loop in loops if loop.of_steps] or [loop for loop in loops if not loop.inner] or list(loops)
    return max(found, key=lambda loop: (loop.products > 0, loop.kernels), default=None)


def collectives_of(text: Text) -> tuple[Collective, ...]:
    """What crosses from device to device, by kind; each is counted once, also inside of a loop."""
    found: dict[str, tuple[int, int]] = {}
    for operations in text.computations.values():
        for operation in operations:
            kind = operation.kind.removesuffix("-start")
            if kind in COLLECTIVES:
                count, total = found.get(kind, (0, 0))
                found[kind] = count + 1, total + _result_bytes(operation)
    return tuple(Collective(kind, *each) for kind, each in sorted(found.items()))


def kernels(operations: Iterable[Operation]) -> list[Operation]:
    """Those of a body's operations that are started on their own, loops among them."""
    return [operation for operation in operations if operation.kind not in NO_KERNEL]


def called_from(text: Text, operation: Operation) -> Iterator[Operation]:
    """The operations inside of a fusion or a call, and of what these call."""
    for name in operation.called:
        for inner in text.computations.get(name, ()):
            yield inner
            yield from called_from(text, inner)


def _loop(text: Text, loop: Operation) -> Loop:
    body = computation_of(loop, "body")
    started = kernels(text.computations.get(body, ()))
    inner = tuple(computation_of(operation, "body") for operation in started if operation.kind == "while")
    own = [operation for operation in started if operation.kind != "while"]
    products = sum(holds_product(text, operation) for operation in own)
    return Loop(body, len(own), inner, loop.trips, products, any(_of_step(operation) for operation in own))


def _of_step(operation: Operation) -> bool:
    """Whether an operation is named after the local steps, and after no loop inside of them."""
    _, scope, rest = operation.line.rpartition(STEP_SCOPE)
    return bool(scope) and "while/body" not in rest


def computation_of(operation: Operation, role: str) -> str:
    """The computation that an operation runs as its "body", its "condition" ..."""
    _, _, rest = operation.line.partition(f"{role}=")
    name = rest.lstrip("%")
    for end, letter in enumerate(name):
        if not (letter.isalnum() or letter in "._-"):
            return name[:end]
    return name


def holds_product(text: Text, operation: Operation) -> bool:
    """Whether an operation is a matrix product or a convolution, or runs one."""
    if operation.kind in _PRODUCTS:
        return True
    if operation.kind == "custom-call":
        return any(name in operation.line.partition("custom_call_target=")[2][:60].lower() for name in _CALLS)
    return any(holds_product(text, inner) for inner in called_from(text, operation))


def _result_bytes(operation: Operation) -> int:
    # The result of a start holds its operands too.
    whole = num_bytes(operation.shapes, on_chip=True)
    return whole // 2 if operation.kind.endswith("-start") and operation.shapes.startswith("((") else whole
