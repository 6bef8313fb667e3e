"""Checkpoints: the whole state of a run, all or nothing, with what says whose state it is."""

import contextlib
import logging
import os
import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite import processes
from fedjaxlite.execution.halves.client_half import ClientState
from fedjaxlite.execution.round_state import RoundState
from fedjaxlite.keys import is_random_key
from fedjaxlite.observers.records import here
from fedjaxlite.streaming.client_store import ClientStore
from fedjaxlite.training import checkpoint_folder
from fedjaxlite.training.checkpoint_folder import LOG
from fedjaxlite.training.identity import Identity, kinds, unlike, versions

FORMAT = "fedjaxlite checkpoint 2"
_CLIENTS = "clients"


class Restored(NamedTuple):
    """What a run goes on from.

    Attributes:
      state: the state, on the devices of the one it was asked for.
      began: the round at which the records of its folder begin.
      changed: what computes other numbers than before and was accepted, in words.
      fewer: the lanes that were left, where the device had been out of memory with those that the run has again.
    """

    state: RoundState
    began: int
    changed: tuple[str, ...]
    fewer: int | None = None


class Checkpoints(NamedTuple):
    """The checkpoints of one run; see `open_at`.

    Attributes:
      save: `save(state, began=0, fewer=None)`; replaces the oldest once there are enough. `began` is the round at which
        the records of the folder begin, `fewer` the lanes that are left where more did not fit.
      restore: `restore(like) -> Restored | None`, from the newest whole one, on the devices of `like` (a state of the
        same run), which may be others, and more or fewer; None where there is none.
      whole: `whole()`, a sentence that names the last whole checkpoint, and its folder.
    """

    save: Callable[..., None]
    restore: Callable[[RoundState], Restored | None]
    whole: Callable[[], str] = lambda: "No checkpoints are kept"


def open_at(
    folder: str | os.PathLike[str],
    who: Identity,
    *,
    keep: int = 2,
    accept_changes: bool = False,
    again: Callable[[int], Mapping[str, Any]] | None = None,
    clients: ClientStore | None = None,
) -> Checkpoints:
    """Opens a folder of checkpoints, and clears what a killed process left half written.

    Args:
      folder: made where it is missing, readable by its owner only.
      who: the run's `identity`.
      keep: how many checkpoints to keep, the newest ones.
      accept_changes: goes on from the checkpoint of a run whose programs computed other numbers.
      again: `again(lanes)`, the programs of `who` as they are traced for another number of lanes.
      clients: where the clients' states are kept, if not on the devices. Of host memory a checkpoint holds them; those
        in a folder stay there, where they can be taken back to the round of the oldest checkpoint that is kept.

    Returns:
      Checkpoints.

    Raises:
      ValueError: by `restore`, where there are checkpoints and none is whole; for a checkpoint of another run: the text
        says what differs.
      OSError: the folder cannot be made or written to. `fedjaxlite.storage.StorageError`: by `save`, where the disk is
        full or fails, and that does not pass within a minute; nothing half-written is left then.

    Guarantees:
      A checkpoint is there whole or not at all, whenever the process dies or the power fails. Every byte of it is held
      against a digest from when it was written before it is used; one that is damaged is named, moved aside and never
      deleted, and the newest whole one is used. A restored state equals the saved one bit for bit: random keys, client
      states and codec states included.
    """
    import orbax.checkpoint as ocp

    path, last = Path(folder).expanduser().resolve(), []
    checkpoint_folder.prepare(path)

    def fill(place: Path, arrays: Mapping[str, jax.Array]) -> None:
        with _told_once(), ocp.Checkpointer(ocp.StandardCheckpointHandler()) as writer:
            writer.save(place, args=ocp.args.StandardSave(arrays))

    def save(state: RoundState, began: int = 0, fewer: int | None = None) -> None:
        number, (arrays, leaves) = int(here(state.round)), _saved(_own(state, clients))
        meta = {"format": FORMAT, "round": number, "began": began, "versions": versions()}
        meta |= {"identity": who, "leaves": leaves, "fewer_lanes": fewer}
        meta |= {"clients": dict(clients.told) if clients else None}

        def filled(place: Path) -> None:
            fill(place, arrays)
            if clients is not None:
                clients.save(number, place.parent / _CLIENTS)

        checkpoint_folder.write(path, number, filled, meta, keep=keep)
        last[:] = [number]
        if clients is not None:
            clients.forget(checkpoint_folder.oldest(path))
        LOG.info("checkpoint of round %d in %s", number, path)

    def restore(like: RoundState) -> Restored | None:
        found = checkpoint_folder.newest(path)
        if found is None:
            if clients is not None:
                _begun(clients, int(here(like.round)))
            return None
        last[:] = [found.round]
        _check_clients(found.meta.get("clients"), clients, str(path))
        arrays, leaves = _saved(own := _own(like, clients))
        meta, banks = _for_as_many_devices(found.meta, leaves, who)
        changed = _checked(meta, {**who, **_named(leaves)}, str(path), accept_changes, again)
        wanted = {name: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding) for name, a in arrays.items()}
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
            # Not strict: what is too long for the new devices is cut, and what is too short is filled with zeros.
            back = reader.restore(found.path / "state", args=ocp.args.StandardRestore(wanted, strict=not banks))
        num_clients = who["population"]["num_clients"]
        back = {name: _filled(a, arrays[name], num_clients) if name in banks else a for name, a in back.items()}
        if clients is not None:
            _taken_back(clients, found.round, found.path / _CLIENTS)
        state = _restored(back, own)
        state = state if clients is None else state._replace(clients=like.clients)
        as_before = found.meta["identity"]["program"]["lanes"] == who["program"]["lanes"]
        fewer = found.meta.get("fewer_lanes") if as_before else None
        return Restored(state, int(found.meta["began"]), changed, fewer)

    def whole() -> str:
        if not last:
            return f"No checkpoint was made yet in {str(path)!r}"
        place = path / str(last[0])
        there = "" if os.path.exists(place) else ", which is not there now"  # noqa: PTH110  (Path.exists may raise)
        return f"The last whole checkpoint is that of round {last[0]}, {str(place)!r}{there}"

    return Checkpoints(save, restore, whole)


def _own(state: RoundState, clients: ClientStore | None) -> RoundState:
    """What a checkpoint holds of a state: not the rows of a cohort, of clients that are kept elsewhere."""
    return state if clients is None else state._replace(clients=ClientState((), ()))


def _taken_back(clients: ClientStore, number: int, place: Path) -> None:
    """The clients' states as they were at the end of a round; the first process repairs what all share."""
    _first_of_all(lambda: clients.load(number, place))


def _begun(clients: ClientStore, number: int) -> None:
    """The clients' states where a run begins: one that ended before its first checkpoint may have left some."""
    if not processes.by_first(lambda: clients.is_at(number)):
        _first_of_all(lambda: clients.rewind(number))


def _first_of_all(do: Callable[[], None]) -> None:
    """Does something in the first process, and then in the others."""
    processes.by_first(do)
    if not processes.is_first():
        do()


def _check_clients(told: Mapping[str, Any] | None, clients: ClientStore | None, where: str) -> None:
    """Refuses a checkpoint whose clients' states are kept in another way, or in another folder."""
    before, now = ((one or {}).get("kept", "device") for one in (told, clients.told if clients else None))
    if before != now:
        words = {"device": "on the devices", "host": "in host memory", "folder": "in a folder"}
        raise ValueError(
            f"the checkpoint in {where!r} is of a run that kept clients' states {words[before]}, and this one keeps "
            f"them {words[now]}. Go on with the same Execution(client_states=...)."
        )
    if clients is not None and dict(clients.told) != told:
        raise ValueError(
            f"the checkpoint in {where!r} belongs to other client states than those in {clients.where!r}. Give the "
            "folder that the run began with (it may have been moved, not made anew)."
        )


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


def _for_as_many_devices(
    meta: Mapping[str, Any], leaves: Sequence[tuple[str, str]], who: Identity
) -> tuple[Mapping[str, Any], frozenset[str]]:
    """What a checkpoint says, with client states of another number of devices as if they were of this one.

    Every device owns as many clients as the others, so that the last ones may own some that do not exist: how many rows
    a bank of N clients has depends on the devices.

    Returns:
      what it says, and the names of the arrays that have other rows.
    """
    number = who["population"]["num_clients"]
    rows = [-(-number // d) * d for d in (meta["identity"]["program"]["devices"], who["program"]["devices"])]
    told, banks = [], set()
    for i, (path, kind) in enumerate(meta["leaves"]):
        now = leaves[i] if i < len(leaves) else None
        kinds_now = re.sub(r"\[\d+", f"[{rows[1]}", kind, count=1)
        other = path.startswith(".clients") and f"[{rows[0]}" in kind and rows[0] != rows[1]
        if other and now == (path, kinds_now):
            banks.add(f"leaf{i:05d}")
            kind = kinds_now
        told.append((path, kind))
    return {**meta, "leaves": told}, frozenset(banks)


def _filled(bank: jax.Array, first: jax.Array, num_clients: int) -> jax.Array:
    """A bank whose rows past the clients are those of a first state."""

    def fill(bank: jax.Array, first: jax.Array) -> jax.Array:
        theirs = jnp.arange(bank.shape[0]) < num_clients
        return jnp.where(theirs.reshape((-1, *(1,) * (bank.ndim - 1))), bank, first)

    return jax.jit(fill, out_shardings=first.sharding)(bank, first)


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
