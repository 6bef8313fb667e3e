"""A device's own examples: read from a file that holds arrays and nothing that runs, and held against a program."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The features of the device's examples.

    Args:
      path: an .npz file, or a folder with one .npy file for each feature.

    Returns:
      `{name: array [n, ...]}`.

    Raises:
      ValueError: neither of these, no arrays in it, objects instead of numbers, or features of different lengths.
    """
    where = Path(path)
    try:
        if where.is_dir():
            arrays = {part.stem: np.load(part, allow_pickle=False) for part in sorted(where.glob("*.npy"))}
        else:
            loaded = np.load(where, allow_pickle=False)
            arrays = {}
            if not isinstance(loaded, np.ndarray):
                with loaded as archive:
                    arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise ValueError(f"the data {str(path)!r} are not there; expected an .npz file or a folder of .npy.") from None
    except (OSError, ValueError, EOFError, AttributeError, TypeError, KeyError) as error:
        raise ValueError(
            f"the data {str(path)!r} cannot be read ({error}); expected an .npz file of plain arrays, as "
            "np.savez(path, x=x, y=y) writes it, or a folder of .npy files."
        ) from error
    if not arrays:
        raise ValueError(f"the data {str(path)!r} hold no named arrays; expected one for each feature.")
    count(arrays)
    return arrays


def count(arrays: Mapping[str, np.ndarray]) -> int:
    """How many examples there are.

    Raises:
      ValueError: a feature has no axis of examples, or they differ in length.
    """
    flat = [name for name, array in arrays.items() if np.ndim(array) == 0]
    if flat:
        raise ValueError(f"the feature {flat[0]!r} is one number; expected an array whose first axis is the examples.")
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the features have different numbers of examples: {lengths}; expected one for each example.")
    return next(iter(lengths.values()), 0)


def check(arrays: Mapping[str, np.ndarray], manifest: Mapping[str, Any]) -> int:
    """Refuses examples that do not fit a program, before it runs.

    Args:
      arrays: `{name: array [n, ...]}`.
      manifest: the program's.

    Returns:
      n.

    Raises:
      ValueError: other names, shapes or dtypes, no example, or more than the program's capacity.

    Example:
      >>> manifest = {"features": {"x": {"shape": [2], "dtype": "float32"}}, "capacity": 5}
      >>> check({"x": np.zeros((3, 2), np.float32)}, manifest)
      3
    """
    specs, n = manifest["features"], count(arrays)
    if sorted(arrays) != sorted(specs):
        raise ValueError(f"the data have the features {sorted(arrays)}, and the program takes {sorted(specs)}.")
    for name, spec in specs.items():
        array = arrays[name]
        if array.dtype.name != spec["dtype"] or list(array.shape[1:]) != list(spec["shape"]):
            raise ValueError(
                f"the feature {name!r} is {array.dtype.name}{['n', *array.shape[1:]]}, and the program takes "
                f"{spec['dtype']}{['n', *spec['shape']]}. Convert the file once, by .astype(np.{spec['dtype']}) or "
                ".reshape: a device does not guess what its numbers mean."
            )
    if not 1 <= n <= manifest["capacity"]:
        raise ValueError(
            f"the data hold {n} examples, and the program takes 1 to {manifest['capacity']} (its capacity). Leave some "
            "out, or ask for a program with a larger capacity."
        )
    return n
