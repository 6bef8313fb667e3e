"""Fields of messages as bytes: how each kind of field is written, read back strictly, and how long it can get.

Numbers are big-endian. A reader takes exactly what a writer gives: counts within the limits, names ascending and
distinct, no byte left over. So a message has one encoding, and everything else is refused before it takes memory.
"""

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fedjaxlite.privacy.secagg.errors import NOBODY, Malformed


class Limits(NamedTuple):
    """What a message of a round may hold at most: clients, words of a vector, and letters of a text."""

    clients: int
    words: int
    letters: int = 400


class Field(NamedTuple):
    """One field of a message.

    Attributes:
      write: value -> bytes.
      read: (bytes, offset, limits) -> (value, the offset behind it); raises `Malformed`.
      longest: limits -> the most bytes that it can take.
    """

    write: Callable[[Any], bytes]
    read: Callable[[bytes, int, Limits], tuple[Any, int]]
    longest: Callable[[Limits], int]


def fixed(size: int) -> Field:
    """Exactly `size` bytes."""

    def write(value: bytes) -> bytes:
        if len(value) != size:
            raise ValueError(f"a field has {len(value)} bytes; expected {size}.")
        return value

    return Field(write, lambda data, at, limits: _take(data, at, size), lambda limits: size)


def optional(size: int) -> Field:
    """Nothing or exactly `size` bytes, after a byte that says which."""

    def read(data: bytes, at: int, _: Limits) -> tuple[bytes, int]:
        flag, at = _take(data, at, 1)
        if flag not in (b"\0", b"\1"):
            raise Malformed(f"a flag is {flag.hex()}; expected 00 or 01.")
        return _take(data, at, size) if flag == b"\1" else (b"", at)

    present = fixed(size)
    return Field(lambda value: b"\1" + present.write(value) if value else b"\0", read, lambda limits: 1 + size)


def names() -> Field:
    """Ids of clients, ascending."""
    table = entries()
    return Field(
        lambda value: table.write([(name,) for name in value]),
        lambda data, at, limits: _first(*table.read(data, at, limits)),
        table.longest,
    )


def entries(*parts: Field) -> Field:
    """A table with a row (id, part, part, ...) a client, ids ascending."""

    def write(value: Any) -> bytes:
        rows = [
            struct.pack(">I", row[0]) + b"".join(p.write(v) for p, v in zip(parts, row[1:], strict=True))
            for row in value
        ]
        return struct.pack(">I", len(rows)) + b"".join(rows)

    def read(data: bytes, at: int, limits: Limits) -> tuple[tuple[Any, ...], int]:
        count, at = _number(data, at)
        if count > limits.clients:
            raise Malformed(f"a table has {count} rows; expected at most {limits.clients}.")
        rows: list[tuple[Any, ...]] = []
        last = -1
        for _ in range(count):
            name, at = _number(data, at)
            if not last < name < NOBODY:
                raise Malformed(f"the name {name} follows {last}; expected ascending ids of clients.")
            last = name
            row: list[Any] = [name]
            for part in parts:
                value, at = part.read(data, at, limits)
                row.append(value)
            rows.append(tuple(row))
        return tuple(rows), at

    return Field(write, read, lambda limits: 4 + limits.clients * (4 + sum(p.longest(limits) for p in parts)))


def words() -> Field:
    """A vector of uint32 of exactly the round's length, little-endian as the masks are."""

    def read(data: bytes, at: int, limits: Limits) -> tuple[Any, int]:
        count, at = _number(data, at)
        if count != limits.words:
            raise Malformed(f"a vector has {count} words; expected {limits.words}.")
        raw, at = _take(data, at, 4 * count)
        return np.frombuffer(raw, "<u4").astype(np.uint32, copy=False), at

    return Field(
        lambda value: struct.pack(">I", len(value)) + np.asarray(value).astype("<u4", copy=False).tobytes(),
        read,
        lambda limits: 4 + 4 * limits.words,
    )


def text() -> Field:
    """A short text in UTF-8; what is too long is cut when written."""

    def write(value: str) -> bytes:
        raw = value.encode()[: Limits(0, 0).letters].decode(errors="ignore").encode()
        return struct.pack(">I", len(raw)) + raw

    def read(data: bytes, at: int, limits: Limits) -> tuple[str, int]:
        count, at = _number(data, at)
        if count > limits.letters:
            raise Malformed(f"a text has {count} bytes; expected at most {limits.letters}.")
        raw, at = _take(data, at, count)
        try:
            return raw.decode(), at
        except UnicodeDecodeError as error:
            raise Malformed("a text is not UTF-8.") from error

    return Field(write, read, lambda limits: 4 + limits.letters)


def number() -> Field:
    """An int in [0, 2^32)."""
    return Field(lambda value: struct.pack(">I", value), lambda data, at, limits: _number(data, at), lambda limits: 4)


def integer(size: int) -> Field:
    """An int in [0, 256^size): a share."""
    return Field(
        lambda value: int(value).to_bytes(size),
        lambda data, at, limits: _as_int(*_take(data, at, size)),
        lambda limits: size,
    )


def _take(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    if at + size > len(data):
        raise Malformed(f"a message ends after {len(data)} bytes; expected {size} bytes from byte {at}.")
    return data[at : at + size], at + size


def _number(data: bytes, at: int) -> tuple[int, int]:
    raw, at = _take(data, at, 4)
    return int.from_bytes(raw), at


def _as_int(raw: bytes, at: int) -> tuple[int, int]:
    return int.from_bytes(raw), at


def _first(rows: tuple[tuple[Any, ...], ...], at: int) -> tuple[tuple[int, ...], int]:
    return tuple(row[0] for row in rows), at
