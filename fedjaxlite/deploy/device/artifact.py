"""The file of a client's program: what is in it, read without trusting a byte of it. Standard library and NumPy.

A zip (`*.fjlp`) with these entries and nothing else:

- `manifest.json`: what goes in and comes out, and what the program was made from;
- `program.bin`: the computation, StableHLO as `jax.export` writes it;
- `start.bin`: what the client keeps before its first round;
- `evaluate.bin`, where there is one: the loss and metrics of a model on the client's examples.

The sha256 of the whole file is the program's identity; the manifest holds those of the other entries.
"""

import hashlib
import io
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

FORMAT = "fedjaxlite client program 1"
MOST_BYTES, MOST_MANIFEST = 256 << 20, 1 << 20
"""The largest file that is read, as it lies and unpacked, and the largest manifest."""

_INTEGERS = {f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}
DTYPES = frozenset({"bool", "float16", "float32", "float64", "bfloat16", "float8_e4m3fn", "float8_e5m2"} | _INTEGERS)
"""Of arrays that go in and come out."""

_FIELDS: dict[str, Any] = {
    **dict.fromkeys(("format", "algorithm", "aggregator"), str),
    **dict.fromkeys(("hyperparameters", "features", "versions", "sha256"), dict),
    **dict.fromkeys(("download", "state", "message", "info", "platforms"), list),
    **dict.fromkeys(("noise", "masked"), bool),
    **dict.fromkeys(("capacity", "calling_convention"), int),
    "secure_sum": (dict, type(None)),
    "steps": (int, type(None)),
    "memory": (dict, type(None)),
    "evaluation": (list, type(None)),
}


class ProgramRefused(ValueError):
    """A file that is no program, not the program that was expected, or not one for this machine."""


def entries_of(data: bytes, most_bytes: int) -> dict[str, bytes]:
    """What is in the zip; sizes are looked at before anything is unpacked."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        listed = archive.infolist()
        names = sorted(entry.filename for entry in listed)
        known = ["manifest.json", "program.bin", "start.bin"]
        need(
            names in (known, sorted([*known, "evaluate.bin"])),
            f"it holds {names[:8]}, and a program holds {known}, and evaluate.bin where it can evaluate",
        )
        need(sum(entry.file_size for entry in listed) <= most_bytes, f"unpacked it has more than {most_bytes:,} bytes")
        manifest = archive.getinfo("manifest.json")
        need(manifest.file_size <= MOST_MANIFEST, f"its manifest has more than {MOST_MANIFEST:,} bytes")
        return {entry.filename: archive.open(entry).read(entry.file_size + 1) for entry in listed}


def manifest_of(entries: Mapping[str, bytes]) -> dict[str, Any]:
    """The manifest, of which every field has its type, and which names what lies beside it."""
    manifest = json.loads(entries["manifest.json"].decode("utf-8"), parse_constant=_no_number)
    need(isinstance(manifest, dict), "its manifest is no object of JSON")
    told = manifest.get("format")
    need(told == FORMAT, f"its format is {str(told)[:80]!r}, and this file reads {FORMAT!r}")
    wrong = set(manifest) ^ set(_FIELDS)
    need(not wrong, f"its manifest lacks, or has beside what it should have, {sorted(wrong)[:4]}")
    for name, kind in _FIELDS.items():
        exact = isinstance(manifest[name], kind) and (kind is bool or not isinstance(manifest[name], bool))
        need(exact, f"its manifest's {name!r} is a {type(manifest[name]).__name__}")
    for name in ("download", "state", "message"):
        for spec in manifest[name]:
            _check_spec(name, spec, {"path", "shape", "dtype"})
    for name, spec in manifest["features"].items():
        _check_spec(f"features[{name!r}]", spec, {"shape", "dtype"})
    for name in ("info", "platforms", "evaluation"):
        told = manifest[name] or []
        need(all(isinstance(each, str) for each in told) and len(set(told)) == len(told), f"its {name!r} are no names")
    need(1 <= manifest["capacity"] < 2**31, f"its capacity is {manifest['capacity']}")
    rest = sorted(set(entries) - {"manifest.json"})
    need(sorted(manifest["sha256"]) == rest, f"it holds {rest}, and its manifest tells of {sorted(manifest['sha256'])}")
    need(("evaluate.bin" in rest) == (manifest["evaluation"] is not None), "evaluate.bin and its manifest disagree")
    for name in rest:
        found = hashlib.sha256(entries[name]).hexdigest()
        need(found == manifest["sha256"][name], f"the sha256 of {name} is not the one in its manifest")
    return manifest


def _no_number(name: str) -> None:
    raise ProgramRefused(f"the program is refused: its manifest holds {name}.")


def _check_spec(where: str, spec: Any, fields: set[str]) -> None:
    need(isinstance(spec, dict) and set(spec) == fields, f"an entry of its {where} has not the fields {sorted(fields)}")
    shape = spec["shape"]
    sizes = isinstance(shape, list) and len(shape) <= 32 and all(type(size) is int and size >= 0 for size in shape)
    need(sizes, f"a shape in its {where} is {str(shape)[:80]}")
    need(spec["dtype"] in DTYPES, f"a dtype in its {where} is {str(spec['dtype'])[:80]!r}")
    need(isinstance(spec.get("path", ""), str), f"a path in its {where} is no text")


def pack(leaves: Sequence[Any]) -> bytes:
    """Arrays as bytes: each in C order, little-endian, one after the other, without a header.

    Example:
      >>> pack([np.float32([1, 2]), np.uint8(3)]).hex()
      '0000803f0000004003'
    """
    arrays = [np.asarray(leaf) for leaf in leaves]
    return b"".join(leaf.astype(leaf.dtype.newbyteorder("<"), copy=False).tobytes() for leaf in arrays)


def unpack(data: bytes, specs: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
    """The arrays of `pack`, as a manifest's list says what they are.

    Raises:
      ProgramRefused: if the data are longer or shorter than these arrays.

    Example:
      >>> unpack(bytes.fromhex("0000803f00000040"), [{"shape": [2], "dtype": "float32"}])
      [array([1., 2.], dtype=float32)]
    """
    dtypes = [dtype_of(spec["dtype"]) for spec in specs]
    sizes = [math.prod(spec["shape"]) * dtype.itemsize for spec, dtype in zip(specs, dtypes, strict=True)]
    need(len(data) == sum(sizes), f"{len(data):,} bytes were found where arrays of {sum(sizes):,} bytes were expected")
    leaves: list[np.ndarray] = []
    begin = 0
    for spec, dtype, size in zip(specs, dtypes, sizes, strict=True):
        flat = np.frombuffer(data[begin : begin + size], dtype.newbyteorder("<")).astype(dtype)
        leaves.append(flat.reshape(spec["shape"]))
        begin += size
    return leaves


def need(holds: bool, otherwise: str) -> None:
    """Refuses the program, and says why, unless something holds."""
    if not holds:
        raise ProgramRefused(f"the program is refused: {otherwise}.")


def dtype_of(name: str) -> np.dtype[Any]:
    """The dtype of one of the names of `DTYPES`."""
    if name.startswith(("bfloat", "float8")):
        import ml_dtypes  # comes with JAX

        return np.dtype(getattr(ml_dtypes, name))
    return np.dtype(name)
