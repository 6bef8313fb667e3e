"""The rounds of a run again, in another process: from a function that its user names, and a few plain values."""

import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjaxlite import checks
from fedjaxlite.execution.composition import Rounds
from fedjaxlite.storage import read_npz, write_npz

FORMAT = "fedjaxlite flower run 1"
_PLAIN = (str, int, float, bool, type(None))


class Made(NamedTuple):
    """What the user's function returned.

    Attributes:
      rounds: what was simulated.
      params: the model that round 0 begins with.
      data: a Population like the clients' data, or a DataSpec.
    """

    rounds: Rounds
    params: Any
    data: Any


class Run(NamedTuple):
    """A run as it is kept with the server.

    Attributes:
      made: its rounds, with the model of the folder.
      key: uint32 `[2]`, the words of the run's key.
      program: sha256 of the clients' program, hex.
      capacity: the most examples of one client.
      evaluation: names of what clients measure of a model, or None.
    """

    made: Made
    key: np.ndarray
    program: str
    capacity: int
    evaluation: list[str] | None


def make(made_by: str, arguments: Mapping[str, Any], found_in: str | None = None) -> Made:
    """Calls the function that makes a run.

    Args:
      made_by: "module:function".
      arguments: its keyword arguments, plain values.
      found_in: a folder to import the module from, before others.

    Raises:
      ImportError, AttributeError: there is no such function. TypeError: it returns something else than
        (rounds, params, data).
    """
    module_name, _, name = made_by.partition(":")
    if found_in is not None and found_in not in sys.path:
        sys.path.insert(0, found_in)
    function: Any = importlib.import_module(module_name)
    for part in name.split("."):
        function = getattr(function, part)
    made = function(**arguments)
    if not (isinstance(made, tuple) and len(made) == 3 and isinstance(made[0], Rounds)):
        raise TypeError(
            f"{made_by} returned {checks.shown(made)}; expected a tuple (rounds, params, data): what fl.rounds(...) "
            "returned, the first model, and the clients' Population or an fl.deploy.DataSpec."
        )
    return Made(*made)


def check_source(made_by: Any, arguments: Mapping[str, Any]) -> None:
    """Refuses names that another process cannot import, and arguments that a file of JSON cannot hold."""
    checks.text(made_by=made_by)
    module, colon, name = made_by.partition(":")
    parts = [*module.split("."), *name.split(".")]
    if not colon or not all(part.isidentifier() for part in parts):
        raise ValueError(
            f"`made_by` is {made_by!r}; expected 'module:function', a function that returns (rounds, params, data) and "
            "that the server's process can import, such as 'my_runs:digits'."
        )
    if module == "__main__":
        raise ValueError(
            f"`made_by` is {made_by!r}, and the server's process has another __main__. Put the function into a file of "
            "its own, such as my_runs.py, and write 'my_runs:digits'."
        )
    for key, value in arguments.items():
        if not isinstance(key, str) or not isinstance(value, _PLAIN):
            raise TypeError(
                f"`arguments` has {key!r}: {checks.shown(value)}; expected texts, numbers, True, False or None by "
                "name, which a file of JSON holds."
            )


def folder_of(made_by: str) -> str | None:
    """The folder that a module of the user's was imported from; None for one that is installed."""
    name = made_by.partition(":")[0]
    file = getattr(sys.modules.get(name.partition(".")[0]), "__file__", None)
    if file is None:
        return None
    path = Path(file).resolve()
    folder = path.parent.parent if path.name == "__init__.py" else path.parent
    return None if "site-packages" in folder.parts else str(folder)


def write(folder: Path, made: Made, *, made_by: str, arguments: Mapping[str, Any], **told: Any) -> None:
    """Writes what the server's process needs: `run.json`, and the first model beside it."""
    text = {"format": FORMAT, "made_by": made_by, "arguments": dict(arguments), "found_in": folder_of(made_by), **told}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(text, indent=2) + "\n", encoding="utf-8")
    write_npz(folder / "params.npz", named_leaves(made.params), {"of": "the model of round 0"})


def read(folder: Path) -> Run:
    """The run of a server's folder.

    Raises:
      FileNotFoundError: there is no run. ValueError: it is of another format, or its function makes another model now.
    """
    path = folder / "run.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {str(path)!r}: `server-folder` names the folder server/ that was written beside the app. It "
            "stays with the server; where it was moved, say so, as in flwr run . --run-config "
            "\"server-folder='/path/server'\"."
        )
    told = json.loads(path.read_text(encoding="utf-8"))
    if told.get("format") != FORMAT:
        raise ValueError(f"{str(path)!r} is of the format {told.get('format')!r}; this version reads {FORMAT!r}.")
    made = make(told["made_by"], told["arguments"], told["found_in"])
    arrays, _ = read_npz(folder / "params.npz")
    now, then = (
        {name: (leaf.shape, str(leaf.dtype)) for name, leaf in leaves.items()}
        for leaves in (named_leaves(made.params), arrays)
    )
    if now != then:
        raise ValueError(
            f"{told['made_by']} makes another model than when the app was written: {now} now, {then} then. Export the "
            "app again."
        )
    params = jax.tree.unflatten(jax.tree.structure(made.params), list(arrays.values()))
    key = np.asarray(told["key"], np.uint32)
    return Run(made._replace(params=params), key, told["program"], told["capacity"], told["evaluation"])


def named_leaves(tree: Any) -> dict[str, np.ndarray]:
    """The leaves of a model by their paths."""
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}
