"""Checkpoints: the whole state of a run, written by Orbax all or nothing, with what says whose state it is."""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.data.population import Population
from fedjaxlite.execution.composition import Rounds
from fedjaxlite.execution.round_state import RoundState
from fedjaxlite.observers.records import here

FORMAT = "fedjaxlite checkpoint 1"
Identity = dict[str, Any]


def identity(rounds: Rounds, state: RoundState, population: Population) -> Identity:
    """What makes a run this run and no other: a checkpoint is only ever continued by a run of the same identity.

    Args:
      rounds: the run.
      state: any state of it.
      population: what it trains on.

    Returns:
      a dict that JSON can hold: names and hyperparameters of algorithm, sampler and aggregator, the population's
      fingerprint, the model's leaves, and a digest of the sampling, client and server keys. The noise key is not part
      of it: unless given, it is drawn anew by every `init`, and the checkpoint's is the one that goes on.
    """
    streams = (state.keys.sample, state.keys.client, state.keys.server)
    keys = [np.asarray(here(jax.random.key_data(key))).tobytes() for key in streams]
    return {
        "algorithm": {"name": rounds.algorithm.name, **plain(rounds.algorithm.hparams)},
        "sampler": {"name": rounds.sampler.name, "capacity": rounds.sampler.capacity},
        "aggregator": {"name": rounds.aggregator.name, **plain(rounds.aggregator.hparams)},
        "population": {"num_clients": population.num_clients, "fingerprint": population.fingerprint()},
        "params": dict(_kinds(rounds.params(state))),
        "keys": hashlib.sha256(b"".join(keys)).hexdigest()[:16],
    }


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


class Checkpoints(NamedTuple):
    """The checkpoints of one run; see `open_at`.

    Attributes:
      latest: `latest() -> int | None`, the round of the newest whole checkpoint.
      save: `save(state)`; replaces the oldest once there are enough.
      restore: `restore(like) -> RoundState`, the newest, on the devices of `like` (a state of the same run).
      close: ends the use of the folder.
    """

    latest: Callable[[], int | None]
    save: Callable[[RoundState], None]
    restore: Callable[[RoundState], RoundState]
    close: Callable[[], None]


def open_at(folder: str | os.PathLike[str], who: Identity, *, keep: int = 2) -> Checkpoints:
    """Opens a folder of checkpoints, and clears what a killed process left half written.

    Args:
      folder: made where it is missing, readable by its owner only.
      who: the run's `identity`.
      keep: how many checkpoints to keep, the newest ones.

    Returns:
      Checkpoints.

    Raises:
      ValueError: by `restore`, for a checkpoint of another run; the text says what differs.
      OSError: by `save`, where the disk is full or fails; the text says what is lost and what is not.

    Guarantees:
      A checkpoint is there whole or not at all, whenever the process dies. A restored state equals the saved one bit
      for bit: random keys, client states and codec states included.
    """
    import orbax.checkpoint as ocp

    path = Path(folder).expanduser().resolve()
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
    manager = ocp.CheckpointManager(path, options=options)

    def save(state: RoundState) -> None:
        number, (arrays, leaves) = int(here(state.round)), _saved(state)
        meta = {"format": FORMAT, "round": number, "identity": who, "leaves": leaves, "versions": _versions()}
        items = ocp.args.Composite(state=ocp.args.StandardSave(arrays), meta=ocp.args.JsonSave(meta))
        before = manager.latest_step()
        try:
            manager.save(number, args=items, force=True)
        except Exception as error:  # the storage layer raises errors of many types
            raise _not_saved(error, path, number, before) from error

    def restore(like: RoundState) -> RoundState:
        number = manager.latest_step()
        meta = manager.restore(number, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
        arrays, leaves = _saved(like)
        _check(meta, who, leaves, str(path))
        wanted = {name: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding) for name, a in arrays.items()}
        items = ocp.args.Composite(state=ocp.args.StandardRestore(wanted))
        return _restored(manager.restore(number, args=items)["state"], like)

    return Checkpoints(manager.latest_step, save, restore, manager.close)


def _saved(state: RoundState) -> tuple[dict[str, jax.Array], list[list[str]]]:
    """The arrays of a state that are not empty, and path and kind of every leaf."""
    arrays = {}
    for i, leaf in enumerate(jax.tree.leaves(state)):
        array = (
            jax.random.key_data(leaf) if _is_key(leaf) else leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf)
        )
        if array.size:
            arrays[f"leaf{i:05d}"] = array
    return arrays, [[path, kind] for path, kind in _kinds(state)]


def _restored(arrays: Mapping[str, jax.Array], like: RoundState) -> RoundState:
    leaves, treedef = jax.tree.flatten(like)
    new = []
    for i, leaf in enumerate(leaves):
        array = arrays.get(f"leaf{i:05d}", leaf)
        if _is_key(leaf) and array is not leaf:
            array = jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf))
        new.append(array)
    return jax.tree.unflatten(treedef, new)


def _kinds(tree: Any) -> list[tuple[str, str]]:
    """The path of every leaf, and its dtype (for random keys the generator's name) and shape."""
    return [
        (checks.path_str(path), f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}")
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    ]


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(getattr(leaf, "dtype", np.float32), jax.dtypes.prng_key)


def _versions() -> dict[str, str]:
    return {"fedjaxlite": library_version(), "jax": jax.__version__}


def library_version() -> str:
    """The version of this library, also where it runs from its sources without being installed."""
    return sys.modules["fedjaxlite"].__version__


def _check(meta: Any, who: Identity, leaves: list[list[str]], where: str) -> None:
    if not isinstance(meta, Mapping) or meta.get("format") != FORMAT:
        raise ValueError(f"the checkpoint in {where!r} is not of the form {FORMAT!r}; give another out_dir.")
    there, here = _flat(meta["identity"]), _flat(json.loads(json.dumps(who)))
    there.update({f"the state at {path}": kind for path, kind in meta["leaves"]})
    here.update({f"the state at {path}": kind for path, kind in leaves})
    unlike = [name for name in dict.fromkeys([*there, *here]) if there.get(name) != here.get(name)]
    if not unlike:
        return
    told = [f"{name} is {here.get(name, 'absent')} and was {there.get(name, 'absent')}" for name in unlike[:5]]
    more = f"; and {len(unlike) - 5} more" if len(unlike) > 5 else ""
    raise ValueError(
        f"the checkpoint in {where!r} is of another run: {'; '.join(told)}{more}. Go on with the same arguments, or "
        "give another out_dir."
    )


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    flat = {}
    for name, value in tree.items():
        flat.update(_flat(value, f"{prefix}.{name}" if prefix else name))
    return flat


def _not_saved(error: Exception, path: Path, number: int, before: int | None) -> OSError:
    safe = "there is no earlier one" if before is None else f"the one of round {before} is whole"
    text = getattr(error, "strerror", None) or (str(error).strip().splitlines() or [type(error).__name__])[0]
    number_of_error = getattr(error, "errno", None)
    said = (
        f"the checkpoint of round {number} could not be written to {str(path)!r}: {text}. Rounds since the last "
        f"checkpoint are lost; {safe}. Free some space, then go on with resume=True (--resume on the command line)"
    )
    return OSError(number_of_error, said) if number_of_error else OSError(said)
