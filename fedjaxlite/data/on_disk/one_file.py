"""A population in one .npz file, read and written whole."""

import os
from typing import Any

import numpy as np

from fedjaxlite import storage
from fedjaxlite.data import host_arrays
from fedjaxlite.data.on_disk import digest

FORMAT = digest.PREFIX


def save(path: str | os.PathLike[str], population: Any) -> None:
    """Writes a Population's features, offsets, names and fingerprint; see `Population.save`."""
    if int(population.offsets[-1]) > host_arrays.MAX_EXAMPLES:
        raise ValueError(
            f"the population has {int(population.offsets[-1])} examples, and a .npz file is read into memory, which "
            "holds at most 2**31 - 1 of them; copy its folder instead."
        )
    arrays = {f"feature {name}": np.asarray(array) for name, array in population.features.items()}
    arrays["offsets"] = np.asarray(population.offsets, np.int32)
    if population.names is not None:
        arrays["names"] = population.names
    storage.write_npz(path, arrays, {"format": FORMAT, "fingerprint": population.fingerprint()})


def load(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray | None]:
    """Features, sizes and names of a file; see `Population.load`."""
    arrays, header = storage.read_npz(path)
    if header.get("format") != FORMAT:
        raise ValueError(f"{os.fspath(path)!r} holds {header.get('format')!r}; expected {FORMAT!r}.")
    prefix = "feature "
    features = {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
    if digest.of_arrays(features, arrays["offsets"]) != header["fingerprint"]:
        raise ValueError(f"{os.fspath(path)!r} is damaged: its content has not the fingerprint it was saved with.")
    return features, np.diff(arrays["offsets"]), arrays.get("names")
