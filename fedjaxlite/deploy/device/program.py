"""A client's program on a device: read from its file, checked, and run. Standard library and NumPy; JAX when it runs.

The program is arithmetic on the arrays that it is handed, and the linear algebra of `CALLS`: it reads no file, opens no
socket, calls no Python. Nothing leaves the device here: `run` returns arrays, and whoever calls it decides what becomes
of them. What is in the file is said in `artifact`, beside this one.
"""

import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedjaxlite.deploy.device.artifact import MOST_BYTES, entries_of, manifest_of, need
from fedjaxlite.deploy.device.artifact import ProgramRefused as ProgramRefused
from fedjaxlite.deploy.device.artifact import pack as pack
from fedjaxlite.deploy.device.artifact import unpack as unpack

_LAPACK = {f"lapack_s{name}_ffi" for name in ("geqrf", "orgqr", "syevd", "potrf", "getrf", "gesdd", "trsm")}
_CUSOLVER = {f"cusolver_{name}_ffi" for name in ("geqrf", "orgqr", "syevd", "potrf", "getrf", "gesvd", "gesvdj")}
_TPU = {"Qr", "ProductOfElementaryHouseholderReflectors", "Eigh", "LuDecomposition"}
CALLS = frozenset({"Sharding", "cu_threefry2x32_ffi"} | _LAPACK | _CUSOLVER | _TPU)
"""What a program may call beside StableHLO itself: factorizations and random bits. A custom call is code of the machine
that an array of addresses can reach, so no other one is let in, whatever the file says of its safety."""

_KEY = ((2,), "uint32")


class Program(NamedTuple):
    """A program that was read and checked.

    Attributes:
      manifest: what the file says of itself; shapes and dtypes are those of the program, which was looked at.
      sha256: of the whole file, hex: the program's identity.
      start: what the client keeps before its first round, a list of arrays as `manifest["state"]` says.
      call: the program, jitted: flat arrays to flat arrays.
      evaluate: likewise, or None.
    """

    manifest: dict[str, Any]
    sha256: str
    start: list[np.ndarray]
    call: Callable[..., Any]
    evaluate: Callable[..., Any] | None


class Result(NamedTuple):
    """What a client's work gave.

    Attributes:
      message: list of arrays as `manifest["message"]` says: what would be sent.
      state: likewise `manifest["state"]`: what the client keeps, once its message is in a sum.
      finite: whether the update and the new state hold neither NaN nor infinity; if not, the message is that of an
        update of zeros with weight zero, and the state is the old one.
      info: what stays on the device (the training loss), by name.
    """

    message: list[np.ndarray]
    state: list[np.ndarray]
    finite: bool
    info: dict[str, float]


def load(source: Any, *, sha256: str | None = None, most_bytes: int = MOST_BYTES) -> Program:
    """Reads a program and checks everything that it says of itself.

    Args:
      source: bytes, or the path of a file.
      sha256: the identity that it must have, hex; None takes any, and then whoever made the file is trusted.
      most_bytes: of the file, and of what is in it unpacked.

    Returns:
      a Program. JAX compiles it in the first `run`.

    Raises:
      ProgramRefused: with the reason; nothing else, whatever the bytes are. OSError: a path that cannot be read.
        TypeError: `source` is a number.
        ImportError: JAX or flatbuffers is not installed.
    """
    if not isinstance(source, (bytes, bytearray, memoryview)):
        if isinstance(source, int):  # `open` would take it for a descriptor of this process, and close it
            raise TypeError(f"`source` is {source!r}; expected bytes, or the path of a file.")
        with open(source, "rb") as file:  # noqa: PTH123  (any path that `open` takes)
            source = file.read(most_bytes + 1)
    data = bytes(source)
    need(len(data) <= most_bytes, f"the file has more than {most_bytes:,} bytes")
    found = hashlib.sha256(data).hexdigest()
    expected = found if sha256 is None else sha256
    need(found == expected, f"its sha256 is {found}, and {expected} was expected: it is another program, or a damaged")
    try:
        entries = entries_of(data, most_bytes)
        manifest = manifest_of(entries)
        start = unpack(entries["start.bin"], manifest["state"])
        call = _function(entries["program.bin"], "program.bin", manifest, *_signature(manifest))
        measure = None
        if manifest["evaluation"] is not None:
            measure = _function(entries["evaluate.bin"], "evaluate.bin", manifest, *_evaluation(manifest))
    except (ProgramRefused, ImportError):  # JAX or flatbuffers is not installed
        raise
    except Exception as error:  # parsers of others: no byte may bring down the process that reads it
        raise ProgramRefused(f"the program is refused: {type(error).__name__}: {error}") from error
    return Program(manifest, found, start, call, measure)


def run(
    program: Program,
    download: Sequence[Any],
    state: Sequence[Any] | None,
    features: Mapping[str, Any],
    num_examples: int,
    key: Any,
    *,
    client: int = 0,
    noise: Any = None,
) -> Result:
    """One client's work of one round.

    Args:
      program: what `load` returned.
      download: the model and what comes with it, arrays as `manifest["download"]` says.
      state: what the client keeps, as `manifest["state"]` says; None for the first round.
      features: by name `[n, ...]`, n at least `num_examples`; rows beyond are never read.
      num_examples: int, 1 to the manifest's capacity.
      key: uint32 `[2]`, the client's key of this round, which the server knows too.
      client: the client's number.
      noise: uint32 `[2]`, the secret key of noise that protects the client; None draws it from the operating system.

    Returns:
      a Result.

    Raises:
      ValueError: for arrays that do not fit the program; the text says which, and what to do.
    """
    manifest = program.manifest
    own = program.start if state is None else state
    if noise is None:
        noise = np.frombuffer(os.urandom(8), "<u4") if manifest["noise"] else np.zeros(2, np.uint32)
    last = (_whole("num_examples", num_examples), _as("key", key, *_KEY), _whole("client", client))
    filled = _padded(manifest, features, num_examples)
    got = program.call(
        *(_arrays("download", download, manifest) + _arrays("state", own, manifest) + filled),
        *last,
        _as("noise", noise, *_KEY),
    )
    arrays = [np.asarray(leaf) for leaf in got]
    first, second = len(manifest["message"]), len(manifest["message"]) + len(manifest["state"])
    info = {name: float(value) for name, value in zip(manifest["info"], arrays[second + 1 :], strict=True)}
    return Result(arrays[:first], arrays[first:second], bool(arrays[second]), info)


def evaluate(
    program: Program,
    download: Sequence[Any],
    state: Sequence[Any] | None,
    features: Mapping[str, Any],
    num_examples: int,
) -> dict[str, float]:
    """The loss and metrics of the model (the client's own one, where it has one) on the client's examples, as means.

    Args:
      program: what `load` returned.
      download: as in `run`, like all that follow.
      state: likewise.
      features: likewise.
      num_examples: likewise.

    Returns:
      `{name: mean over the examples}`, names as `manifest["evaluation"]` says.

    Raises:
      ValueError: as `run`; for a program that was made without an evaluation.
    """
    manifest, own = program.manifest, program.start if state is None else state
    if program.evaluate is None:
        raise ValueError("this program has no evaluation; make one with client_program(..., evaluate=loss).")
    inputs = _arrays("download", download, manifest) + _arrays("state", own, manifest)
    filled = _padded(manifest, features, num_examples)
    got = program.evaluate(*inputs, *filled, _whole("num_examples", num_examples))
    return {name: float(value) for name, value in zip(manifest["evaluation"], got, strict=True)}


def calls_of(exported: Any) -> list[str]:
    """The names of all custom calls of a program of `jax.export`; "" for one without a name."""
    text = exported.mlir_module()
    named = re.findall(r'custom_call\s*@"?([\w$.]+)', text)
    return named + [""] * (text.count("custom_call") - len(named))


def _signature(manifest: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """What goes into the program and what comes out, as pairs of shape and dtype."""
    download, state, message = ([_pair(spec) for spec in manifest[n]] for n in ("download", "state", "message"))
    last = [((), "int32"), _KEY, ((), "int32"), _KEY]
    told = [((), "bool"), *(((), "float32") for _ in manifest["info"])]
    return download + state + _features(manifest) + last, message + state + told


def _evaluation(manifest: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    inputs = [_pair(spec) for name in ("download", "state") for spec in manifest[name]]
    return [*inputs, *_features(manifest), ((), "int32")], [((), "float32") for _ in manifest["evaluation"]]


def _features(manifest: Mapping[str, Any]) -> list[Any]:
    capacity, specs = manifest["capacity"], [manifest["features"][name] for name in sorted(manifest["features"])]
    return [((capacity, *spec["shape"]), spec["dtype"]) for spec in specs]


def _pair(spec: Mapping[str, Any]) -> tuple[tuple[int, ...], str]:
    return tuple(spec["shape"]), spec["dtype"]


def _function(data: bytes, name: str, manifest: Mapping[str, Any], takes: list[Any], gives: list[Any]) -> Any:
    """A program of `jax.export`, held against what the manifest says of it."""
    import jax
    from jax import export

    exported = export.deserialize(bytearray(data))
    for what, avals, expected in (("takes", exported.in_avals, takes), ("gives", exported.out_avals, gives)):
        found = [(tuple(aval.shape), str(aval.dtype)) for aval in avals]
        need(found == expected, f"{name} {what} other arrays than its manifest says")
    flat = jax.tree.structure(((0,) * len(takes), {})), jax.tree.structure((0,) * len(gives))
    need((exported.in_tree, exported.out_tree) == flat, f"{name} takes or gives more than lists of arrays")
    need(exported.nr_devices == 1, f"{name} runs on {exported.nr_devices} devices; expected one")
    need(not (exported.ordered_effects or exported.unordered_effects), f"{name} has effects beside its results")
    need(list(exported.platforms) == manifest["platforms"], f"{name} is not for the platforms that its manifest says")
    here = {"gpu": ("cuda", "rocm")}.get(jax.default_backend(), (jax.default_backend(),))
    need(
        any(platform in exported.platforms for platform in here),
        f"it is for {', '.join(exported.platforms)}, and JAX runs on {jax.default_backend()} here. Ask for a program "
        f"made with platforms=({here[0]!r},), or set JAX_PLATFORMS to one of its",
    )
    foreign = sorted(set(calls_of(exported)) - CALLS)
    need(not foreign, f"{name} calls {foreign[:4]}, code of this machine that is no arithmetic on its arrays")
    return jax.jit(exported.call)


def _as(name: str, value: Any, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    array = np.asarray(value)
    if array.shape != tuple(shape) or str(array.dtype) != dtype:
        raise ValueError(
            f"`{name}` is {array.dtype}{list(array.shape)}, and this program takes {dtype}{list(shape)}: what was made "
            "for another model or another program does not fit it."
        )
    return array


def _whole(name: str, value: Any) -> np.ndarray:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or not 0 <= value < 2**31:
        raise ValueError(f"`{name}` is {value!r}; expected an int from 0 to 2**31 - 1.")
    return np.asarray(value, np.int32)


def _arrays(name: str, leaves: Sequence[Any], manifest: Mapping[str, Any]) -> list[np.ndarray]:
    specs = manifest[name]
    if len(leaves) != len(specs):
        raise ValueError(f"`{name}` has {len(leaves)} arrays, and this program takes {len(specs)}.")
    return [_as(f"{name}: {spec['path']}", leaf, *_pair(spec)) for leaf, spec in zip(leaves, specs, strict=True)]


def _padded(manifest: Mapping[str, Any], features: Mapping[str, Any], num_examples: int) -> list[np.ndarray]:
    """A client's examples in buffers of the program's capacity, in the order of their names."""
    capacity, specs = manifest["capacity"], manifest["features"]
    if sorted(features) != sorted(specs):
        raise ValueError(f"`features` are {sorted(features)}, and this program takes {sorted(specs)}.")
    if not 1 <= int(_whole("num_examples", num_examples)) <= capacity:
        raise ValueError(
            f"`num_examples` is {num_examples}; expected 1 to {capacity}, the program's capacity. Give it fewer of the "
            "client's examples, or ask for a program with a larger capacity."
        )
    filled: list[np.ndarray] = []
    for name in sorted(specs):
        array, (shape, dtype) = np.asarray(features[name]), _pair(specs[name])
        if str(array.dtype) != dtype or array.shape[1:] != shape or array.ndim == 0:
            raise ValueError(
                f"the feature {name!r} is {array.dtype}{list(array.shape)}; expected {dtype} of the shape "
                f"{['n', *shape]}, such as np.asarray({name}, np.{dtype})."
            )
        if len(array) < num_examples:
            raise ValueError(f"the feature {name!r} has {len(array)} rows, and `num_examples` is {num_examples}.")
        buffer = np.zeros((capacity, *shape), array.dtype)
        buffer[:num_examples] = array[:num_examples]
        filled.append(buffer)
    return filled
