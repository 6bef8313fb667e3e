"""Whose checkpoint it is: what decides about a run's numbers, and how two runs are held against each other."""

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks, processes
from fedjaxlite.data.population import Population
from fedjaxlite.execution.composition import Rounds
from fedjaxlite.execution.layout import resolve, spans_processes, with_lanes
from fedjaxlite.execution.round_state import RoundState
from fedjaxlite.observers.records import here
from fedjaxlite.training.fingerprint import fingerprint

Identity = dict[str, Any]

PARTS = {
    "sampler": "what the sampler draws (rates, dropout, weights)",
    "client": "what clients compute (the loss, the optimizer and its rate, the local steps, the codecs)",
    "server": "what the server computes (its optimizer and rate, the codecs)",
}
"""What the programs of `rounds.parts` stand for, in words."""

SETTINGS = ("enable_x64", "default_matmul_precision", "threefry_partitionable")
"""JAX's switches that decide about numbers and stand in no program."""

_LAYOUT = ("lanes", "devices", "shards", "rounds_per_dispatch")
"""What changes numbers by rounding alone; the lanes of a run are those of its own programs, see `programs`."""


def identity(rounds: Rounds, state: RoundState, population: Population) -> Identity:
    """What makes a run this run and no other: a checkpoint is only ever continued by a run of the same identity.

    Args:
      rounds: the run.
      state: any state of it.
      population: what it trains on.

    Returns:
      a dict that JSON can hold: names and hyperparameters of algorithm, sampler and aggregator, the population's
      fingerprint, the model's leaves, and a digest of the client and server keys, and of the sampling key where it is
      no secret. "program" holds a fingerprint of what clients, server and sampler compute, down to every constant: a
      rate, a dropout's chance, a sampler's weights, another loss. "before" is what the ledger says of compositions
      before this one. Secrets are no part of it, neither the noise key nor cohorts from it: unless given, they are
      drawn anew by every `init`, and the checkpoint's are what goes on.
    """
    streams = (state.keys.client, state.keys.server)
    if not here(state.keys.secret_cohorts):
        streams = (state.keys.sample, *streams)
    keys = [np.asarray(here(jax.random.key_data(key))).tobytes() for key in streams]
    return {
        "algorithm": {"name": rounds.algorithm.name, **plain(rounds.algorithm.hparams)},
        "sampler": {"name": rounds.sampler.name, "capacity": rounds.sampler.capacity},
        "aggregator": {"name": rounds.aggregator.name, **plain(rounds.aggregator.hparams)},
        "population": {"num_clients": population.num_clients, "fingerprint": population.fingerprint()},
        "params": dict(kinds(rounds.params(state))),
        "keys": hashlib.sha256(b"".join(keys)).hexdigest()[:16],
        "before": {f"round_{part.begin + 1}": part.told() for part in state.ledger.segments[:-1]},
        "settings": {name: str(getattr(jax.config, f"jax_{name}")) for name in SETTINGS},
        "program": programs(rounds, state, population),
    }


def programs(rounds: Rounds, state: RoundState, population: Population, lanes: int | None = None) -> dict[str, Any]:
    """The fingerprints of a run's parts, and what they were traced for.

    Args:
      rounds: the run.
      state: any state of it.
      population: what it trains on.
      lanes: as many as the programs that they will be held against were traced for; None takes the run's own.
    """
    capacity = rounds.sampler.capacity
    layout = with_lanes(resolve(rounds.execution, capacity), rounds.params(state), population, capacity)
    parts = rounds.parts(state, population, lanes)
    return {
        "lanes": layout.lanes,
        "devices": layout.num_devices,
        **({"shards": layout.num_shards} if layout.num_shards > 1 else {}),
        "platform": layout.devices[0].platform,
        "max_steps": rounds.execution.max_steps,
        "versions": versions(),
        **{name: fingerprint(traced)._asdict() for name, traced in parts.items()},
    }


def agreed_folder(rounds: Rounds, told: Mapping[str, Any], out_dir: Any) -> Any:
    """The folder of a run: of several processes that of the first, once all have asked for the same run.

    Args:
      rounds: the run.
      told: what has to be the same in all processes, by the names of arguments.
      out_dir: what this process was given.

    Raises:
      ValueError: names what is not the same.
    """
    if not spans_processes(resolve(rounds.execution, rounds.sampler.capacity)):
        return out_dir
    processes.same(told)
    return processes.agreed(None if out_dir is None else os.fspath(out_dir))


class Unlike(NamedTuple):
    """How a run differs from the one whose checkpoint it finds.

    Attributes:
      refused: what never goes on, in words: another model, other data, other keys.
      changed: what computes other numbers, in words.
      told: what may go on, but has to be said, in words: programs that differ where versions or the platform do too,
        and layouts, under which numbers are the same up to rounding.
    """

    refused: list[str]
    changed: list[str]
    told: list[str]


def unlike(now: Mapping[str, Any], before: Mapping[str, Any]) -> Unlike:
    """Holds a run against the one that wrote a checkpoint; programs must have been traced for as many lanes.

    Args:
      now: the identity of the run, and the kinds of its state's leaves.
      before: what the checkpoint says, likewise.
    """
    now = json.loads(json.dumps(now))
    apart = {"program", "settings"}
    ours, theirs = (flat({n: v for n, v in who.items() if n not in apart}) for who in (now, before))
    names = [name for name in dict.fromkeys([*theirs, *ours]) if ours.get(name) != theirs.get(name)]
    refused = [f"{name} is {ours.get(name, 'absent')} and was {theirs.get(name, 'absent')}" for name in names]
    settings = [
        f"jax_{name} is {value} and was {before['settings'].get(name)}"
        for name, value in now["settings"].items()
        if value != before["settings"].get(name)
    ]
    new, old = now["program"], before["program"]
    other = [part for part in PARTS if new[part]["digest"] != old[part]["digest"]]
    changed = [f"{PARTS[part]} is not what it was{_numbers(new[part], old[part])}" for part in other]
    layout = [
        f"{name} is {new.get(name)} and was {old.get(name)}" for name in _LAYOUT if new.get(name) != old.get(name)
    ]
    told = [f"numbers are the same up to rounding only, since {' and '.join(layout)}"] if layout else []
    moved = _moved(new, old) if other else []
    if moved:
        told = [f"{'; '.join(changed)}: that may be since {' and '.join(moved)}, or since you changed it", *told]
    return Unlike(refused, settings if moved else [*settings, *changed], told)


def _moved(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[str]:
    """What may have changed the programs without any change of what was asked for."""
    moved = [
        f"{name} is {new[name]} and was {old[name]}" for name in ("platform", "max_steps") if new[name] != old[name]
    ]
    return moved + [
        f"{name} is {version} and was {old['versions'].get(name)}"
        for name, version in new["versions"].items()
        if version != old["versions"].get(name)
    ]


def _numbers(new: Mapping[str, Any], old: Mapping[str, Any]) -> str:
    """The numbers that came and went, where a few did."""
    came = [n for n in new["numbers"] if n not in old["numbers"]]
    went = [n for n in old["numbers"] if n not in new["numbers"]]
    if not (came or went) or len(came) > 4 or len(went) > 4:
        return ""
    return f" (numbers in it: {', '.join(came) or 'none'} where there was {', '.join(went) or 'none'})"


def plain(value: Any) -> Any:
    """A value as JSON and TOML can hold it: dicts with string keys, lists, numbers and text; None is left out of dicts.

    Arrays become lists where they are small and a text with dtype and shape otherwise; functions become their names.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items() if item is not None}
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, (list, tuple)):
        return [plain(item) if item is not None else "none" for item in value]
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (np.generic, np.ndarray, jax.Array)):
        return np.asarray(value).tolist() if np.size(value) <= 64 else f"{value.dtype}{list(value.shape)}"
    return getattr(value, "__qualname__", None) or str(value)


def kinds(tree: Any) -> list[tuple[str, str]]:
    """The path of every leaf, and its dtype (for random keys the generator's name) and shape."""
    return [
        (checks.path_str(path), f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}")
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    ]


def versions() -> dict[str, str]:
    """What decides how a program is traced: this library, JAX, and the modules that models are written in."""
    found = {"fedjaxlite": library_version(), "jax": jax.__version__}
    for name in ("optax", "flax"):  # flax only where the program uses it: importing it would take a second
        if name in sys.modules:
            found[name] = str(getattr(sys.modules[name], "__version__", "unknown"))
    return found


def library_version() -> str:
    """The version of this library, also where it runs from its sources without being installed."""
    return sys.modules["fedjaxlite"].__version__


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """An identity without tables in tables: names with dots between."""
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    found = {}
    for name, value in tree.items():
        found.update(flat(value, f"{prefix}.{name}" if prefix else name))
    return found
