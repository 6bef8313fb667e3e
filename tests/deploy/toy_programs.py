"""A program of three lines in a file like every other, for tests of what a device makes of files."""

import io
import json
import zipfile
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from fedjaxlite.deploy.device.program import pack
from fedjaxlite.deploy.program.writing import artifact_of

CAPACITY = 4


def toy(model, kept, x, num_examples, key, client, noise):
    """One step of a mean: what it sends is the sum of the examples above the model."""
    total = jnp.where(jnp.arange(CAPACITY) < num_examples, x - model, 0.0).sum()
    return total, kept + 1, jnp.isfinite(total), total * 2


def measure(model, kept, x, num_examples):
    here = jnp.arange(CAPACITY) < num_examples
    return (jnp.where(here, (x - model) ** 2, 0.0).sum() / num_examples.astype(jnp.float32),)


def spec(shape: tuple[int, ...], dtype: str, path: str | None = None) -> dict[str, Any]:
    told = {"shape": list(shape), "dtype": dtype}
    return told if path is None else {"path": path, **told}


@lru_cache(maxsize=8)
def exported(function: Any = toy, platforms: tuple[str, ...] = ("cpu", "cuda", "tpu")) -> bytes:
    array = lambda shape, dtype: jax.ShapeDtypeStruct(shape, np.dtype(dtype))  # noqa: E731
    inputs = [array((), "float32"), array((), "int32"), array((CAPACITY,), "float32"), array((), "int32")]
    key = array((2,), "uint32")
    inputs += [] if function is measure else [key, array((), "int32"), key]
    return bytes(export.export(jax.jit(function, keep_unused=True), platforms=platforms)(*inputs).serialize())


def manifest(**changes: Any) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "format": "fedjaxlite client program 1",
        "algorithm": "toy",
        "aggregator": "chain(mean)",
        "hyperparameters": {"algorithm": {}, "aggregator": {}},
        "capacity": CAPACITY,
        "download": [spec((), "float32", "model")],
        "state": [spec((), "int32", "kept")],
        "message": [spec((), "float32", "value")],
        "features": {"x": spec((), "float32")},
        "info": ["loss"],
        "noise": False,
        "masked": False,
        "secure_sum": None,
        "steps": 1,
        "memory": None,
        "platforms": ["cpu", "cuda", "tpu"],
        "versions": {"jax": "0", "fedjaxlite": "0"},
        "calling_convention": 10,
        "evaluation": ["loss"],
    }
    return {**whole, **changes}


def entries(**changes: bytes) -> dict[str, bytes]:
    own = {"program.bin": exported(), "start.bin": pack([np.int32(7)]), "evaluate.bin": exported(measure)}
    own |= {f"{name}.bin": data for name, data in changes.items()}
    return {name: data for name, data in own.items() if data is not None}


@lru_cache(maxsize=1)
def artifact() -> bytes:
    return artifact_of(manifest(), entries())[0]


def rezipped(change: Any, data: bytes | None = None) -> bytes:
    """The artifact with its list of (name, bytes) changed, and the manifest's hashes as they were."""
    with zipfile.ZipFile(io.BytesIO(data or artifact())) as archive:
        inside = [(name, archive.read(name)) for name in archive.namelist()]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in change(inside):
            archive.writestr(name, content)
    return file.getvalue()


def with_manifest(text: Any) -> bytes:
    """The artifact with another text for its manifest."""
    data = text if isinstance(text, bytes) else json.dumps(text).encode()
    return rezipped(
        lambda inside: [("manifest.json", data) if name == "manifest.json" else (name, was) for name, was in inside]
    )
