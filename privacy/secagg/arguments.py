"""Validators for the arguments of this folder, which needs nothing of the library around it."""

import inspect
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np


def shown(value: Any) -> str:
    """A value as messages write it: arrays by dtype and shape, long texts cut."""
    if isinstance(value, np.ndarray) and value.ndim:
        return f"an array {value.dtype}{list(value.shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 200 else f"{text[:200]}..."


def plain_int(**named: Any) -> int:
    """The int that an argument is; refuses bools, floats, and everything else."""
    ((name, value),) = named.items()
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"`{name}` is {shown(value)}; expected an int.")
    return int(value)


def in_range(low: int, high: int, **named: Any) -> int:
    """The int, within [low, high]."""
    ((name, value),) = named.items()
    if not low <= plain_int(**named) <= high:
        raise ValueError(f"`{name}` is {value}; expected one in [{low}, {high}].")
    return int(value)


def one_instance(kind: type, expected: str, **named: Any) -> None:
    """Refuses what is no `kind`."""
    for name, value in named.items():
        if not isinstance(value, kind):
            raise TypeError(f"`{name}` is {shown(value)}; expected {expected}.")


def function_of(*arguments: str, **named: Any) -> None:
    """Refuses what cannot be called by position with so many arguments, as far as its signature can be read."""
    for name, value in named.items():
        expected = f"a function of ({', '.join(arguments)})"
        if not callable(value):
            raise TypeError(f"`{name}` is {shown(value)}; expected {expected}.")
        try:
            signature = inspect.signature(value)
        except (TypeError, ValueError):
            continue
        try:
            signature.bind(*arguments)
        except TypeError as error:
            raise TypeError(f"`{name}` takes {signature}; expected {expected}.") from error


def clients(ids: Any, name: str) -> list[int]:
    """The clients of a list, a set or a dict."""
    if isinstance(ids, (str, bytes)) or not isinstance(ids, (Sequence, Mapping, Set)):
        raise TypeError(f"`{name}` is {shown(ids)}; expected ints, one for each client.")
    for client in ids:
        if isinstance(client, (bool, np.bool_)) or not isinstance(client, (int, np.integer)) or client < 0:
            raise TypeError(f"`{name}` has the client {shown(client)}; expected ints of at least 0.")
    return [int(client) for client in ids]


def by_client(given: Any, name: str) -> None:
    """Refuses what is no dict from clients."""
    if not isinstance(given, Mapping):
        raise TypeError(f"`{name}` is {shown(given)}; expected a dict from clients to what each has.")
    clients(given, name)


def some(given: Any, name: str) -> None:
    """Refuses a dict of no client."""
    by_client(given, name)
    if not given:
        raise ValueError(f"`{name}` is empty; expected what each client has.")


def random_bytes(random: Any, size: int) -> bytes:
    """So many bytes of a source of them; refuses a source that gives anything else."""
    drawn = random(size)
    if not isinstance(drawn, bytes) or len(drawn) != size:
        raise TypeError(f"`random` gave {shown(drawn)}; expected {size} bytes, as os.urandom does.")
    return drawn
