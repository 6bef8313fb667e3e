"""The text of a compiled program: its computations, and in each the operations that run one after another."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

# They name or regroup what is there already; every other operation of a loop's body is started on its own.
NO_KERNEL = frozenset({"parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all"})
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")

_BITS = {"pred": 8, "token": 0, "opaque": 0}
_SHAPE = re.compile(r"\b(pred|token|opaque|[suf]\d+\w*|bf16|c64|c128)\[([\d,<=]*)\](\{[^}]*\})?")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{$")
_OPERATION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|condition|called_computations|branch_computations)=\{?(%?[\w.\-]+(?:, %?[\w.\-]+)*)\}?"
)
_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')


class Operation(NamedTuple):
    """One line of a computation.

    Attributes:
      name: of its result.
      kind: "fusion", "dot", "while" ...
      shapes: of its result, as text: "f32[16,20]{1,0}", or a tuple of such.
      operands: names of what it reads.
      line: the whole line.
      root: whether its result is the computation's.
    """

    name: str
    kind: str
    shapes: str
    operands: tuple[str, ...]
    line: str
    root: bool

    @property
    def called(self) -> tuple[str, ...]:
        """Names of the computations that it runs."""
        return tuple(name.strip().lstrip("%") for found in _CALLED.findall(self.line) for name in found.split(","))

    @property
    def trips(self) -> int | None:
        """How often a loop runs, where the compiler knows."""
        found = _TRIPS.search(self.line)
        return int(found[1]) if found else None


class Text(NamedTuple):
    """A compiled program's text, taken apart.

    Attributes:
      computations: {name: operations, in the order of the text}.
      entry: the name of the one that is the program.
    """

    computations: Mapping[str, Sequence[Operation]]
    entry: str


def read(text: str) -> Text:
    """Takes the text of a compiled program apart.

    Args:
      text: of `compiled.as_text()`.

    Raises:
      ValueError: for a text that holds no program.
    """
    computations: dict[str, list[Operation]] = {}
    entry, name = "", ""
    for line in text.splitlines():
        if head := _HEAD.match(line):
            name = head[2]
            computations[name] = []
            entry = name if head[1] else entry
        elif line.startswith("}"):
            name = ""
        elif name and (found := _OPERATION.match(line)):
            computations[name].append(_operation(found, line))
    if not entry:
        raise ValueError(
            "the text holds no ENTRY computation; expected that of a compiled program, compiled.as_text()."
        )
    return Text(computations, entry)


def _operation(found: re.Match[str], line: str) -> Operation:
    shapes, rest = _shape_and_rest(found[3])
    kind, _, rest = rest.partition("(")
    operands = re.findall(r"%([\w.\-]+)", _until_closed(rest))
    return Operation(found[2], kind.strip(), shapes, tuple(operands), line, bool(found[1]))


def _shape_and_rest(text: str) -> tuple[str, str]:
    """The type at the beginning of an operation, which may be a tuple of types, and what follows."""
    if not text.startswith("("):
        shape, _, rest = text.partition(" ")
        return shape, rest
    inner = _until_closed(text[1:])
    return text[: len(inner) + 2], text[len(inner) + 2 :].lstrip()


def _until_closed(text: str) -> str:
    depth = 1
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return text[:place]
    return text


def num_bytes(shapes: str, *, on_chip: bool = False) -> int:
    """Bytes of a type in device memory; padding of tiles is not counted.

    Args:
      shapes: a type, or a tuple of types.
      on_chip: count what a TPU keeps in the memory of the chip itself too, `S(1)`.

    Example:
      >>> num_bytes("(f32[3,4]{1,0}, pred[5], bf16[])")
      55
    """
    total = 0
    for dtype, sizes, layout in _SHAPE.findall(shapes):
        if "S(1)" in layout and not on_chip:
            continue
        count = 1
        for side in sizes.split(","):
            count *= int(side.lstrip("<=")) if side else 1
        total += -(-count * _bits(dtype) // 8)
    return total


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    number = re.match(r"[a-z]+?(\d+)", dtype)
    return int(number[1]) if number else 0
