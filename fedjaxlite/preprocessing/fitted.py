"""What a pipeline has learned: applied to populations, arrays or one example, printed, and kept in a file."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np

import fedjaxlite as fl
from fedjaxlite import storage
from fedjaxlite.preprocessing import rows as rows_of
from fedjaxlite.preprocessing.step import Step

_FORMAT = "fedjaxlite preprocessing 1"


class Fitted(NamedTuple):
    """A pipeline with the numbers of its steps; `fitted(population)` applies it.

    Attributes:
      steps: the steps, in order.
      numbers: of each step, a dict of read-only arrays: what it has learned, and all that it knows of the data.
      row_shapes: the shapes of rows that go in, by feature.
      columns: what the columns that come out are called, by feature: "2", or "2=3" where category 3 of column 2 has one
        of its own, or "2 is missing".
      computations: what was asked of clients. `privacy.epsilon([*fitted.computations, (rounds, 100)], population,
        delta=...)` is the price of the pipeline and a training together.
    """

    steps: tuple[Step, ...]
    numbers: tuple[dict[str, np.ndarray], ...]
    row_shapes: Mapping[str, tuple[int, ...]]
    columns: Mapping[str, tuple[str, ...]]
    computations: tuple[fl.Computation, ...]

    @overload
    def __call__(self, data: fl.Population, *, own: fl.Population | None = None) -> fl.Population: ...
    @overload
    def __call__(self, data: Mapping[str, Any], *, own: None = None) -> dict[str, Any]: ...
    def __call__(self, data: Any, *, own: fl.Population | None = None) -> Any:
        """Applies the steps.

        Args:
          data: a Population, such as the training or the test data or new clients; or a dict of arrays `[n, ...]`; or
            one example, a dict of arrays of the shape of a row.
          own: for steps that are about each client's own numbers: the data that these come from, with the same clients
            in the same order, such as the training data where `data` are the clients' test data. `data` if None.

        Returns:
          the same kind of thing. A Population keeps its clients and their names; features that no step is about are
          shared with it. The arrays are NumPy's; a feature lies in memory once more, and not once for each step.

        Raises:
          TypeError, ValueError: for data of other shapes than the pipeline was fitted to.
        """
        if isinstance(data, fl.Population):
            fl.checks.concrete("Apply a pipeline before the run.", data=data)
            features = self._applied(data.features, np.asarray(data.offsets), own)
            for array in features.values():
                array.flags.writeable = False
            return rows_of.population_like(data, features)
        if not isinstance(data, Mapping):
            raise TypeError(
                f"`data` is {fl.checks.shown(data)}; expected a Population, or a dict of arrays such as {{'x': x}}."
            )
        fl.checks.concrete("Apply a pipeline outside of jit.", data=dict(data))
        if own is not None:
            raise ValueError("`own` was given beside rows of nobody; expected a Population as data, with its clients.")
        shapes = {name: np.shape(data[name]) for name in self.row_shapes if name in data}
        single = bool(shapes) and all(shape == self.row_shapes[name] for name, shape in shapes.items())
        given = {name: np.asarray(data[name])[None] if single else data[name] for name in shapes}
        done = self._applied(given, None, None)
        return {**data, **{name: array[0] if single else array for name, array in done.items()}}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the numbers to a file, all or nothing; `Pipeline.load` of the same steps reads it.

        Args:
          path: ends in ".npz", or in ".json" for people to read. Its folder must exist; an older file is replaced.

        Raises:
          ValueError: for another ending.
        """
        header: dict[str, Any] = {
            "format": _FORMAT,
            "steps": described(self.steps),
            "row_shapes": dict(self.row_shapes),
            "columns": dict(self.columns),
        }
        arrays = {f"{i} {name}": array for i, of in enumerate(self.numbers) for name, array in of.items()}
        if _ending(path) == ".npz":
            storage.write_npz(path, arrays, header)
            return
        plain = {name: {"dtype": str(array.dtype), "values": array.tolist()} for name, array in arrays.items()}
        storage.replace_text(path, json.dumps({**header, "numbers": plain}, indent=1))

    def _applied(
        self, data: Mapping[str, Any], offsets: np.ndarray | None, own: fl.Population | None
    ) -> dict[str, np.ndarray]:
        features = rows_of.untouched(data)
        self._check(features)
        source, of = features, offsets
        if own is not None:
            fl.checks.one_instance(fl.Population, "a Population", own=own)
            if offsets is None or own.num_clients != len(offsets) - 1:
                raise ValueError(f"`own` has {own.num_clients} clients; expected those of the data, in the same order.")
            source, of = rows_of.untouched(own.features), np.asarray(own.offsets)
            self._check(source)
        for step, numbers in zip(self.steps, self.numbers, strict=True):
            numbers = rows_of.numbers_for(step, numbers, source, of)
            rows_of.put(step, numbers, features, offsets)
            if source is not features:
                rows_of.put(step, numbers, source, of)
        return features

    def _check(self, features: Mapping[str, np.ndarray]) -> None:
        for name, shape in self.row_shapes.items():
            if name not in features:
                raise ValueError(f"the pipeline is about the feature {name!r}, and the data have {sorted(features)}.")
            found = features[name].shape
            if found[:1] == () or found[1:] != tuple(shape):
                raise ValueError(
                    f"feature {name!r} has shape {list(found)}; the pipeline was fitted to rows of shape {list(shape)}."
                )

    def __repr__(self) -> str:
        """A line a step, with what it has learned."""
        lines = [
            f"Fitted({len(self.steps)} steps, {sum(made.num_sums for made in self.computations)} sums over clients)"
        ]
        for step, numbers in zip(self.steps, self.numbers, strict=True):
            lines += [f"  {step.name}" if not numbers else f"  {step.name}:"]
            lines += [f"    {name}{list(array.shape)} {_short(array)}" for name, array in numbers.items()]
        return "\n".join(lines)


def load(path: str | os.PathLike[str], steps: tuple[Step, ...]) -> Fitted:
    """Reads what `Fitted.save` wrote; see `Pipeline.load`."""
    if _ending(path) == ".npz":
        arrays, header = storage.read_npz(path)
    else:
        arrays, header = _read_json(path)
    if header.get("format") != _FORMAT:
        raise ValueError(f"{os.fspath(path)!r} holds {header.get('format')!r}; expected {_FORMAT!r}.")
    for i, (kept, own) in enumerate(zip(header["steps"], described(steps), strict=False)):
        if kept != own:
            raise ValueError(
                f"{os.fspath(path)!r} is of another pipeline: its step {i} is {kept[0]} with {kept[1]}, and here it is "
                f"{own[0]} with {own[1]}."
            )
    if len(header["steps"]) != len(steps):
        raise ValueError(
            f"{os.fspath(path)!r} is of another pipeline: it has {len(header['steps'])} steps; here are {len(steps)}."
        )
    numbers: tuple[dict[str, np.ndarray], ...] = tuple({} for _ in steps)
    for name, array in arrays.items():
        number, _, short = name.partition(" ")
        array.flags.writeable = False
        numbers[int(number)][short] = array
    shapes = {name: tuple(shape) for name, shape in header["row_shapes"].items()}
    return Fitted(steps, numbers, shapes, {name: tuple(of) for name, of in header["columns"].items()}, ())


def described(steps: tuple[Step, ...]) -> list[Any]:
    """Names and options, as a file holds them."""
    return json.loads(json.dumps([[step.name, dict(step.options)] for step in steps]))


def _ending(path: str | os.PathLike[str]) -> str:
    ending = Path(path).suffix
    if ending not in (".npz", ".json"):
        raise ValueError(f"`path` is {os.fspath(path)!r}; expected a file that ends in .npz or .json.")
    return ending


def _read_json(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    try:
        header = json.loads(Path(path).read_text(encoding="utf-8"))
        numbers = header.pop("numbers")
        return {name: np.asarray(of["values"], of["dtype"]) for name, of in numbers.items()}, header
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{os.fspath(path)!r} is no file of this library, or damaged ({error}).") from error


def _short(array: np.ndarray) -> str:
    return " ".join(np.array2string(array, precision=4, threshold=8, edgeitems=3, suppress_small=True).split())
