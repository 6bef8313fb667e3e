"""Checkpoints: the whole state of a run, all or nothing, with what says whose state it is."""

import contextlib
import errno
import gc
import logging
import os
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite.execution.round_state import RoundState
from fedjaxlite.keys import is_random_key
from fedjaxlite.observers.records import here
from fedjaxlite.training import checkpoint_folder
from fedjaxlite.training.checkpoint_folder import LOG
from fedjaxlite.training.identity import Identity, kinds, unlike, versions

FORMAT = "fedjaxlite checkpoint 2"


class Restored(NamedTuple):
    """What a run goes on from.

    Attributes:
      state: the state, on the devices of the one it was asked for.
      began: the round at which the records of its folder begin.
      changed: what computes other numbers than before and was accepted, in words.
    """

    state: RoundState
    began: int
    changed: tuple[str, ...]


class Checkpoints(NamedTuple):
    """The checkpoints of one run; see `open_at`.

    Attributes:
      save: `save(state, began=0)`; replaces the oldest once there are enough. `began` is the round at which the records
        of the folder begin.
      restore: `restore(like) -> Restored | None`, from the newest whole one, on the devices of `like` (a state of the
        same run); None where there is none.
    """

    save: Callable[..., None]
    restore: Callable[[RoundState], Restored | None]


def open_at(
    folder: str | os.PathLike[str],
    who: Identity,
    *,
    keep: int = 2,
    accept_changes: bool = False,
    again: Callable[[int], Mapping[str, Any]] | None = None,
) -> Checkpoints:
    """Opens a folder of checkpoints, and clears what a killed process left half written.

    Args:
      folder: made where it is missing, readable by its owner only.
      who: the run's `identity`.
      keep: how many checkpoints to keep, the newest ones.
      accept_changes: goes on from the checkpoint of a run whose programs computed other numbers.
      again: `again(lanes)`, the programs of `who` as they are traced for another number of lanes.

    Returns:
      Checkpoints.

    Raises:
      ValueError: by `restore`, where there are checkpoints and none is whole; for a checkpoint of another run: the text
        says what differs.
      OSError: by `save`, where the disk is full or fails; the text says what is lost and what is not.

    Guarantees:
      A checkpoint is there whole or not at all, whenever the process dies or the power fails. Every byte of it is held
      against a digest from when it was written before it is used; one that is damaged is named, moved aside and never
      deleted, and the newest whole one is used. A restored state equals the saved one bit for bit: random keys, client
      states and codec states included.
    """
    import orbax.checkpoint as ocp

    path = Path(folder).expanduser().resolve()
    checkpoint_folder.prepare(path)

    def fill(place: Path, arrays: Mapping[str, jax.Array]) -> None:
        with _told_once(), ocp.Checkpointer(ocp.StandardCheckpointHandler()) as writer:
            writer.save(place, args=ocp.args.StandardSave(arrays))

    def save(state: RoundState, began: int = 0) -> None:
        number, (arrays, leaves) = int(here(state.round)), _saved(state)
        meta = {"format": FORMAT, "round": number, "began": began, "versions": versions()}
        meta |= {"identity": who, "leaves": leaves}
        told = None
        try:
            checkpoint_folder.write(path, number, lambda place: fill(place, arrays), meta, keep=keep)
        except Exception as error:  # the storage layer raises errors of many types
            told = _not_saved(error, path, number)
        if told is not None:
            # Outside of `except`, and after what the storage layer left behind is gone: else its own complaints follow
            # this error when the interpreter ends, and hide it.
            gc.collect()
            _remove(path / f"{number}.tmp")
            raise told
        LOG.info("checkpoint of round %d in %s", number, path)

    def restore(like: RoundState) -> Restored | None:
        found = checkpoint_folder.newest(path)
        if found is None:
            return None
        arrays, leaves = _saved(like)
        changed = _checked(found.meta, {**who, **_named(leaves)}, str(path), accept_changes, again)
        wanted = {name: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding) for name, a in arrays.items()}
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
            back = reader.restore(found.path / "state", args=ocp.args.StandardRestore(wanted))
        return Restored(_restored(back, like), int(found.meta["began"]), changed)

    return Checkpoints(save, restore)


@contextlib.contextmanager
def _told_once() -> Generator[None]:
    """Keeps the storage layer from logging the tracebacks of its threads: what fails is raised, and told by `save`."""
    log, nothing = logging.getLogger("absl"), lambda record: False
    log.addFilter(nothing)
    try:
        yield
    finally:
        log.removeFilter(nothing)


def _saved(state: RoundState) -> tuple[dict[str, jax.Array], list[tuple[str, str]]]:
    """The arrays of a state that are not empty, and path and kind of every leaf."""
    arrays = {}
    for i, leaf in enumerate(jax.tree.leaves(state)):
        array = (
            jax.random.key_data(leaf)
            if is_random_key(leaf)
            else leaf
            if isinstance(leaf, jax.Array)
            else jnp.asarray(leaf)
        )
        if array.size:
            arrays[f"leaf{i:05d}"] = array
    return arrays, kinds(state)


def _named(leaves: Iterable[Sequence[str]]) -> dict[str, str]:
    return {f"the state at {path}": kind for path, kind in leaves}


def _restored(arrays: Mapping[str, jax.Array], like: RoundState) -> RoundState:
    leaves, treedef = jax.tree.flatten(like)
    new = []
    for i, leaf in enumerate(leaves):
        array = arrays.get(f"leaf{i:05d}", leaf)
        if is_random_key(leaf) and array is not leaf:
            array = jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf))
        new.append(array)
    return jax.tree.unflatten(treedef, new)


def _checked(
    meta: Mapping[str, Any],
    who: Mapping[str, Any],
    where: str,
    accept_changes: bool,
    again: Callable[[int], Mapping[str, Any]] | None,
) -> tuple[str, ...]:
    """Refuses the checkpoint of another run; returns what was changed and accepted."""
    if meta.get("format") != FORMAT:
        raise ValueError(f"the checkpoint in {where!r} is not of the form {FORMAT!r}; give another out_dir.")
    before: dict[str, Any] = {**meta["identity"], **_named(meta["leaves"])}
    lanes = before["program"]["lanes"]
    if again is not None and lanes != who["program"]["lanes"]:
        # A client's program knows how many stand beside it: only for as many can two of them be compared.
        who = {**who, "program": {**who["program"], **again(lanes)}}
    found = unlike(who, before)
    if found.refused or (found.changed and not accept_changes):
        wrong = [*found.refused, *found.changed]
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        accept = "" if found.refused else ", or accept_changes=True (--accept-changes) to go on with the new ones"
        raise ValueError(
            f"the checkpoint in {where!r} is of another run: {'; '.join(wrong[:5])}{more}. Go on with the same "
            f"arguments{accept}, or give another out_dir."
        )
    for words in found.changed:
        LOG.warning("the run goes on with a change that was accepted: %s", words)
    for words in found.told:
        LOG.warning("the run goes on, and %s", words)
    return tuple(found.changed)


def _remove(half: Path) -> None:
    """Deletes what was half written, also while threads of the storage layer still write to it."""
    for _ in range(20):
        shutil.rmtree(half, ignore_errors=True)
        if not half.exists():
            return
        time.sleep(0.1)


def _not_saved(error: Exception, path: Path, number: int) -> OSError:
    whole = [int(p.name) for p in path.iterdir() if p.name.isdecimal()]
    safe = f"the one of round {max(whole)} is whole" if whole else "there is no earlier one"
    text, code = str(error).strip(), getattr(error, "errno", None)
    if code is None and ("No space left" in text or "RESOURCE_EXHAUSTED" in text):
        code = errno.ENOSPC  # as the storage layer says it
    text = os.strerror(code) if code else (text.splitlines() or [type(error).__name__])[0]
    said = (
        f"the checkpoint of round {number} could not be written to {str(path)!r}: {text}. Rounds since the last "
        f"checkpoint are lost; {safe}. Free some space, then go on with resume=True (--resume on the command line)"
    )
    return OSError(code, said) if code else OSError(said)
