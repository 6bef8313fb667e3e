"""Several processes that run one program: which of them this is, and what all of them agree on.

All that processes say to each other between rounds goes through here. With one process it costs nothing; with several
every process has to make the same calls in the same order, or all of them wait.
"""

import functools
import hashlib
import importlib
import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_LONGEST = 80


def count() -> int:
    """How many processes run this program; 1 unless JAX was told of others."""
    return jax.process_count()


def index() -> int:
    """The number of this process, from 0."""
    return jax.process_index()


def is_first() -> bool:
    """Whether this is the process that prints, and writes files, for all."""
    return index() == 0


def together(name: str) -> None:
    """Waits until every process has come here.

    Args:
      name: what for; processes that came for something else are an error.
    """
    if count() > 1 and (numbers := gathered(np.uint32(zlib.crc32(name.encode())))).min() != numbers.max():
        raise RuntimeError(f"the processes of this run are not in one place: this one came to {name!r}.")


def agreed(value: Any) -> Any:
    """What the first process holds, in all of them.

    Args:
      value: None, numbers, text, lists and dicts of them, as JSON can hold it; other processes' values are dropped.

    Returns:
      the first process's value: lists for tuples.

    Example:
      >>> agreed({"folder": "runs/a", "rounds": [1, 2]})
      {'folder': 'runs/a', 'rounds': [1, 2]}
    """
    if count() == 1:
        return value
    text = json.dumps(value).encode() if is_first() else b""
    size = int(gathered(np.int32(len(text)))[0])
    return json.loads(bytes(gathered(_padded(text, size))[0, :size]))


def agreed_words(words: np.ndarray) -> np.ndarray:
    """Likewise for an array, of one shape and dtype in all processes."""
    return words if count() == 1 else gathered(words)[0]


def gathered(values: Any) -> np.ndarray:
    """What every process holds, as `[processes, ...]`; of one shape and dtype in all of them."""
    values = np.asarray(values)
    if count() == 1:
        return values[None]
    one_each = {device.process_index: device for device in reversed(jax.devices())}
    mesh, gather = _gather(tuple(one_each[i] for i in range(count())))
    own = jax.device_put(values[None], one_each[index()])
    pieces = jax.NamedSharding(mesh, jax.P("processes"))
    spread = jax.make_array_from_single_device_arrays((count(), *values.shape), pieces, [own])
    return np.asarray(gather(spread).addressable_data(0))


def by_first(function: Callable[[], Any]) -> Any:
    """Calls a function in the first process alone: its result, or its error, is that of all.

    Args:
      function: its result is something that JSON can hold.

    Raises:
      the function's own exception, in every process: with its type where that is of Python or this library, as
      RuntimeError elsewhere.
    """
    if count() == 1:
        return function()
    result, failure = None, None
    if is_first():
        try:
            result = function()
        except Exception as error:  # told to the others, which would wait for it, and raised here
            failure = error
    told = agreed({"result": result, "failure": None if failure is None else told_of(failure)})
    if failure is not None:
        raise failure
    if told["failure"] is not None:
        raise again(**told["failure"])
    return told["result"] if not is_first() else result


def same(values: Mapping[str, Any], remedy: str = "Start every process with the same arguments and data.") -> None:
    """Refuses to go on where the processes do not hold the same.

    Args:
      values: by name, what is replicated on the hosts: numbers, texts, arrays (by their bytes), functions (by their
        names), and containers of them.
      remedy: what to do about it.

    Raises:
      ValueError: in all processes; names the value, what the first holds, and who holds something else.

    Example:
      >>> same({"num_rounds": 100, "params": {"w": np.zeros(3)}})
    """
    if count() == 1:
        return
    text = json.dumps({name: shown(value) for name, value in values.items()}).encode()
    sizes = gathered(np.int32(len(text)))
    rows = gathered(_padded(text, int(sizes.max())))
    told = [json.loads(bytes(row[:size])) for row, size in zip(rows, sizes, strict=True)]
    wrong = [
        _difference(name, [one.get(name, "absent") for one in told])
        for name in dict.fromkeys(n for one in told for n in one)
    ]
    wrong = [words for words in wrong if words]
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(
            f"the {count()} processes of this run do not hold the same: {'; '.join(wrong[:3])}{more}. {remedy}"
        )


def listed(numbers: Iterable[int]) -> str:
    """Processes by their numbers, in words.

    Example:
      >>> listed([2]), listed([1, 2, 5])
      ('process 2', 'processes 1, 2 and 5')
    """
    *before, last = [str(number) for number in numbers]
    return f"process {last}" if not before else f"processes {', '.join(before)} and {last}"


def digest(tree: Any) -> str:
    """A digest of all arrays of a pytree: paths, dtypes, shapes, and bytes where this process has them all."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        sha.update(f"{jax.tree_util.keystr(path)} {np.shape(leaf)} ".encode())
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            if not leaf.is_fully_replicated:
                sha.update(str(leaf.dtype).encode())
                continue
            leaf = leaf.addressable_data(0)
        array = np.ascontiguousarray(leaf)
        sha.update(str(array.dtype).encode())
        sha.update(repr(leaf).encode() if array.dtype == object else array.reshape(-1).view(np.uint8).data)
    return sha.hexdigest()[:12]


@functools.lru_cache(maxsize=2)
def _gather(devices: tuple[Any, ...]) -> tuple[jax.sharding.Mesh, Callable[[jax.Array], jax.Array]]:
    """One device of each process: they may have more or fewer each."""
    mesh = jax.sharding.Mesh(np.asarray(devices), ("processes",))
    return mesh, jax.jit(lambda pieces: pieces, out_shardings=jax.NamedSharding(mesh, jax.P()))


def _difference(name: str, held: list[str]) -> str:
    """Who holds what, where not all hold what the first does."""
    others: dict[str, list[int]] = {}
    for number, text in enumerate(held):
        if text != held[0]:
            others.setdefault(text, []).append(number)
    if not others:
        return ""
    who = [f"{text} in {listed(numbers)}" for text, numbers in list(others.items())[:3]]
    return f"`{name}` is {held[0]} in process 0 and {', '.join(who)}{' ...' if len(others) > 3 else ''}"


def shown(value: Any) -> str:
    """A value in few words that are the same wherever the value is: never an address."""
    if value is None or isinstance(value, (bool, int, float, str)):
        text = repr(value)
    elif isinstance(value, (np.ndarray, np.generic, jax.Array)):
        kind = f"{value.dtype}{list(jnp.shape(value))}"
        text = f"{kind} with digest {digest(value)}"
    elif isinstance(value, Mapping):
        text = "{" + ", ".join(f"{key}: {shown(item)}" for key, item in value.items()) + "}"
    elif isinstance(value, (list, tuple)):
        text = "[" + ", ".join(shown(item) for item in value) + "]"
    elif isinstance(value, functools.partial):
        text = shown([value.func, list(value.args), value.keywords])
    else:
        text = getattr(value, "__qualname__", None) or type(value).__qualname__
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST - 20]}... ({hashlib.sha256(text.encode()).hexdigest()[:12]})"


def _padded(text: bytes, size: int) -> np.ndarray:
    """Bytes in one of few lengths: the program that passes them on is compiled for each."""
    buffer = np.zeros(1 << max(6, (size - 1).bit_length()), np.uint8)
    buffer[: len(text)] = np.frombuffer(text, np.uint8)
    return buffer


def told_of(error: Exception) -> dict[str, Any]:
    """An exception as JSON can hold it; see `again`."""
    code = getattr(error, "errno", None)
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    kind, own = type(error), ("builtins", __name__.partition(".")[0])
    known = kind.__module__.partition(".")[0] in own
    return {
        "module": kind.__module__ if known else "builtins",
        "kind": kind.__name__ if known else "RuntimeError",
        "text": str(text) if known else f"{kind.__name__}: {text}",
        "code": code if isinstance(code, int) else None,
    }


def again(module: str, kind: str, text: str, code: int | None) -> Exception:
    """The exception of the first process."""
    made = getattr(importlib.import_module(module), kind)
    return made(code, text) if code is not None and issubclass(made, OSError) else made(text)
