"""`tf.train.Example` messages, read by the rules of protocol buffers, without TensorFlow.

An Example holds Features (field 1), these a map (field 1) from names (1) to a Feature (2), and that one of a list of
bytes (1), float32 (2) or int64 (3), each with its values in field 1. Numbers may be packed into one field or not.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def values(message: bytes) -> dict[str, Any]:
    """The features of an Example.

    Returns:
      by name a float32 or int64 array `[k]`, or a list of k bytes.

    Raises:
      ValueError: it is no such message.

    Example:
      >>> values(bytes.fromhex("0a0d0a0b0a01791206 1a040a020507".replace(" ", "")))
      {'y': array([5, 7])}
    """
    found = {}
    for number, features in _fields(message):
        if number != 1 or not isinstance(features, bytes):
            continue
        for inner, entry in _fields(features):
            if inner == 1 and isinstance(entry, bytes):
                parts = dict(_fields(entry))
                found[_name(parts.get(1, b""))] = _feature(parts.get(2, b""))
    return found


def _name(key: Any) -> str:
    if not isinstance(key, bytes):
        raise ValueError("a name that is no text")
    return key.decode()


def _feature(message: Any) -> Any:
    if not isinstance(message, bytes):
        raise ValueError("a feature that is no message")
    for kind, content in _fields(message):
        if not isinstance(content, bytes):
            raise ValueError("a list that is no message")
        if kind == 1:
            return [value for _, value in _fields(content)]
        if kind == 2:
            return np.concatenate([_floats(value) for _, value in _fields(content)] or [np.zeros(0, np.float32)])
        if kind == 3:
            return np.concatenate([_ints(value) for _, value in _fields(content)] or [np.zeros(0, np.int64)])
    return []


def _floats(value: Any) -> np.ndarray:
    return np.frombuffer(value, "<f4")


def _ints(value: Any) -> np.ndarray:
    """Of one varint, or of many in a packed field, all of them at once."""
    if not isinstance(value, bytes):
        return np.array([value], np.uint64).view(np.int64)
    data = np.frombuffer(value, np.uint8)
    last = data < 128
    if not data.size:
        return np.zeros(0, np.int64)
    if not last[-1]:
        raise ValueError("a number that does not end")
    if last.all():
        return data.astype(np.int64)
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts).max() > 9:
        raise ValueError("a number of more than 64 bits")
    place = np.arange(len(data)) - np.repeat(starts, ends - starts + 1)
    bits = (data & 127).astype(np.uint64) << (7 * place).astype(np.uint64)
    return np.bitwise_or.reduceat(bits, starts).view(np.int64)


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The number and value of each field: an int, or bytes (of fixed-size numbers too)."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        size = {_FIXED64: 8, _FIXED32: 4}.get(kind)
        if kind == _BYTES:
            size, at = _varint(message, at)
        if size is None or at + size > end:
            raise ValueError("a field that is cut off" if size is not None else f"wire type {kind}")
        yield tag >> 3, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise ValueError("a number that does not end")
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (2**64 - 1), at
        shift += 7
