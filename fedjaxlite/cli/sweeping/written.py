"""What `fedjaxlite run --sweep` leaves and says."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

import fedjaxlite as fl
from fedjaxlite.cli.settings import Settings
from fedjaxlite.observers import records
from fedjaxlite.storage import replace_text
from fedjaxlite.sweeps.grid import told as told_point
from fedjaxlite.training import run_config
from fedjaxlite.training.run_folder import RunFolder

_NOISE = ("noise_multiplier", "epsilon")


def write(found: fl.Sweep, folder: RunFolder, about: Mapping[str, Any]) -> list[str]:
    """Writes what a sweep leaves: config.toml, sweep.json, sweep.jsonl (a row a run and round), table.md, sweep.png."""
    out = folder.path
    run_config.write(folder, {"versions": run_config.versions()}, about)
    known = {
        "points": [{name: _json(value) for name, value in point.items()} for point in found.points],
        "seeds": list(found.seeds),
        "rounds": found.rounds.tolist(),
        "select": found.select,
        "better": found.better,
        "best": found.best,
        "programs": [{"points": list(group.points), "traced": list(group.traced)} for group in found.groups],
        "not_traced": dict(found.not_traced),
        "final": {name: _with_null(found.final(name)) for name in found.curves},
        "seconds": found.seconds,
    }
    replace_text(out / "sweep.json", json.dumps(known, indent=1) + "\n")
    replace_text(out / "sweep.jsonl", "".join(records.to_line(row) for row in found.rows()))
    replace_text(out / "table.md", found.table() + "\n")
    names = ["table.md", "sweep.json", "sweep.jsonl", folder.config.name]
    if any(np.isfinite(values).any() for values in found.curves.values()):
        found.plot(path=out / "sweep.png")
        names.insert(1, "sweep.png")
    return names


def _with_null(values: np.ndarray) -> list[list[float | None]]:
    return [[float(v) if np.isfinite(v) else None for v in row] for row in values]


def _json(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def told(found: fl.Sweep, settings: Settings) -> list[str]:
    """The last words: how good the best is where nobody chose, and what privacy is left."""
    names = {*found.points[0], *(name for name in _NOISE if getattr(settings, name) is not None)}
    runs = len(found.points) * len(found.seeds)
    private = (
        f"{runs} private runs on the same clients: their epsilons add up, and that of the best excludes the choice"
    )
    lines = [private] if names & set(_NOISE) and runs > 1 else []
    if found.best is None:
        return lines
    tests = [name for name in found.curves if name.startswith("test_")]
    figures = ", ".join(f"{name.replace('_', ' ')} {found.intervals(name)[found.best]}" for name in tests)
    return [f"best: {told_point(found.points[found.best])}" + (f"; {figures}" if figures else ""), *lines]
