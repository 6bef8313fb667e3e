"""Golden trajectories: what every method did when it was last looked at, round by round.

They are the numbers of the reference execution, with stragglers and dropouts; each method is held to them in a layout of
its own, which is the law that layouts agree. A change that is meant is recorded with

    FEDJAXLITE_UPDATE_GOLDEN=1 python -m pytest tests/laws/test_methods.py -k golden

which rewrites `tests/golden/METHODS.json`; its diff then says which methods changed, from which round on.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import fedjaxlite as fl
from methods.trial import Trial

FILE = Path(__file__).resolve().parent.parent / "golden" / "METHODS.json"
COMMAND = "FEDJAXLITE_UPDATE_GOLDEN=1 python -m pytest tests/laws/test_methods.py -k golden"
UPDATE = os.environ.get("FEDJAXLITE_UPDATE_GOLDEN", "") not in ("", "0")
RTOL = 1e-4
"""Relative to the norm of the leaf."""
VALUES = 2
"""So many first values of a leaf are kept beside its norm."""

Entry = Mapping[str, Any]


def recorded() -> dict[str, Entry]:
    """The entries of the file, by method."""
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}


def entry(held: Trial) -> Entry:
    """What is kept of a method: its hyperparameters, its aggregator, and for every round norm and first values."""
    runner = held.reference if UPDATE else held.other
    algorithm = runner.run.algorithm
    states = runner.play("stragglers").states[1:]
    n = runner.population.num_clients
    return {
        "hparams": ", ".join(f"{name}={_text(value)}" for name, value in sorted(algorithm.hparams.items())),
        "aggregator": held.cell.aggregator,
        "rounds": [summary(seen(runner.run, state, n)) for state in states],
    }


def seen(run: fl.Rounds, state: Any, num_clients: int) -> Any:
    """The model, and what the clients keep, where they keep anything; without a bank's spare rows."""
    clients = jax.tree.map(lambda leaf: leaf[:num_clients], state.clients.algorithm)
    return {"params": run.params(state), **({"clients": clients} if jax.tree.leaves(clients) else {})}


def summary(tree: Any) -> dict[str, list[float]]:
    """Norm and first values of every leaf of floats, in the shortest decimals that give the float32 back."""
    rows: dict[str, list[float]] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(jax.device_get(tree))[0]:
        values = np.asarray(leaf).astype(np.float64).ravel()
        kept = [np.linalg.norm(values), *(values[:VALUES] if values.size > 1 else ())]
        rows[jax.tree_util.keystr(path, simple=True, separator=".")] = [float(str(np.float32(v))) for v in kept]
    return rows


def _text(value: Any) -> str:
    if isinstance(value, (jax.Array, np.ndarray, np.generic)):
        return str(np.asarray(value).tolist())
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, Sequence):
        return "(" + ", ".join(map(_text, value)) + ")"
    return getattr(value, "__name__", type(value).__name__) if isinstance(value, Callable) else type(value).__name__


def compare(name: str, got: Entry, want: Entry | None, *, atol: float = 1e-6) -> None:
    """Raises where a method's trajectory is not the recorded one, naming the method, the first such round and the leaf."""
    remedy = f"If that is meant, record it with `{COMMAND}` and look at the diff of tests/golden/METHODS.json."
    if want is None:
        raise AssertionError(f"{name} has no golden trajectory. Record it with `{COMMAND}`.")
    for field in ("hparams", "aggregator"):
        if got[field] != want[field]:
            raise AssertionError(f"{name}: its {field} are {got[field]!r}, recorded are {want[field]!r}. {remedy}")
    for number, (mine, theirs) in enumerate(zip(got["rounds"], want["rounds"], strict=True)):
        if list(mine) != list(theirs):
            raise AssertionError(
                f"{name}, round {number}: the leaves are {list(mine)}, recorded {list(theirs)}. {remedy}"
            )
        for leaf, values in mine.items():
            allowed = atol + RTOL * abs(theirs[leaf][0])
            apart = float(np.max(np.abs(np.subtract(values, theirs[leaf]))))
            if not apart <= allowed:
                raise AssertionError(
                    f"{name}, round {number} of {len(got['rounds'])}: {leaf} has the norm and first values {values}, "
                    f"recorded are {theirs[leaf]}. They differ by {apart:.3g}, the tolerance is {allowed:.3g}. {remedy}"
                )


def update(name: str, new: Entry, names: Sequence[str]) -> None:
    """Records one method's entry, and drops those of methods that are no more."""
    entries = {**recorded(), name: new}
    lines = [_lines(key, entries[key]) for key in names if key in entries]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _lines(name: str, kept: Entry) -> str:
    """An entry with a line for every round."""
    head = "".join(f"    {json.dumps(field)}: {json.dumps(kept[field])},\n" for field in ("hparams", "aggregator"))
    rounds = ",\n".join(f"      {json.dumps(row)}" for row in kept["rounds"])
    return f'  {json.dumps(name)}: {{\n{head}    "rounds": [\n{rounds}\n    ]\n  }}'
