"""A server goes on from what its journal holds: the last checkpoint, and the round at hand."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from fedjaxlite.deploy.program.comparing import Unlike, unlike_hyperparameters
from fedjaxlite.deploy.program.leaves import leaves_of, unflattened
from fedjaxlite.deploy.server import masked, tables
from fedjaxlite.deploy.server.disk.journal import FORMAT, Journal, carry_out
from fedjaxlite.deploy.server.moving import fold
from fedjaxlite.deploy.server.state import (
    Checkpoint,
    Counted,
    Drop,
    Keep,
    Partial,
    ServerHalf,
    ServerState,
    opened,
)
from fedjaxlite.deploy.server.turning import AT_HAND, evaluation_of, opened_for
from fedjaxlite.deploy.server.turning import at_hand as written_down
from fedjaxlite.training.identity import library_version, plain

LOG = logging.getLogger("fedjaxlite.deploy")
RUN = "run.json"


def resume(server: ServerHalf, journal: Journal, now: float) -> ServerState:
    """The state that a server begins or goes on with; what its journal lacks of it is written there.

    Args:
      server: what `fl.deploy.Server` returned, of the same rounds, model and clients.
      journal: of this run alone.
      now: seconds; a round that is at hand gets its whole time again.

    Returns:
      The state.

    Raises:
      ValueError: the journal is of another run, with what differs; its clients agreed to another program; or none of
        its checkpoints is whole.

    Guarantees:
      Whatever a client was told is so: an update that was `taken` is in the sum, folded in the order in which the
      updates arrived, so that a sum of floats is the same. An attempt of a masked round that had not opened its sum
      begins anew.
    """
    _check_run(server, journal)
    found = journal.newest()
    if found is None:
        state = ServerState(server.first)
        carry_out(journal, (Checkpoint(state),))
        journal.cut(0)
        return state
    arrays, header = found
    state = _restored(server, arrays, header)
    records = journal.cut(state.number)
    record = header["record"]
    if record is not None and not any(line["round"] == state.number for line in records):
        return _evaluating(server, journal, state._replace(record=record), now)
    if state.number >= server.num_rounds:
        return state._replace(phase="finished")
    return _at_hand(server, journal, state, now)


def check_same_run(server: ServerHalf, told: bytes) -> None:
    """Refuses a server of another run than that of a folder.

    Args:
      server: what `fl.deploy.Server` returned.
      told: the folder's `run.json`.

    Raises:
      ValueError: with what differs.
    """
    before, own = json.loads(told), _whose(server)
    tables = ("algorithm", "aggregator")
    facts = [*((name, before.get(name), own[name]) for name in ("format", "sampler", "num_clients", "capacity"))]
    facts += [(name, list(before.get(name, ())), list(own[name])) for name in tables]  # their names
    found = [Unlike(*fact) for fact in facts if fact[1] != fact[2]]
    parts = ({name: where[name] for name in tables if not found} for where in (before, own))
    for name, was, value in found or unlike_hyperparameters(*parts, one_version=before.get("by") == own["by"]):
        raise ValueError(
            f"the folder is of another run: its {name} is {was}, and that of these rounds {value}. Go on with the same "
            "arguments, or give another folder."
        )
    _check_same_program(own["program"], before.get("program"))


def _check_run(server: ServerHalf, journal: Journal) -> None:
    """Refuses the journal of another run; one that is new learns whose it is."""
    try:
        told = journal.read(RUN)
    except FileNotFoundError:
        carry_out(journal, (Keep(RUN, json.dumps(_whose(server), indent=1).encode()),))
        return
    check_same_run(server, told)


def _whose(server: ServerHalf) -> dict[str, Any]:
    """What `run.json` says of a run, as JSON gives it back."""
    program = server.template.program
    own = {
        "format": FORMAT,
        "algorithm": {program.algorithm.name: plain(program.algorithm.hparams)},
        "aggregator": {part.name: plain(part.hparams) for part in program.aggregator.parts},
        "sampler": program.sampler.name,
        "num_clients": server.template.population.num_clients,
        "capacity": server.template.capacity,
        "program": server.program.sha256 if server.program.size else None,  # clients have it
        "by": library_version(),
    }
    return json.loads(json.dumps(own))


def _check_same_program(own: str | None, before: str | None) -> None:
    """Refuses another program than that of the first start, as every device would that agreed to the first."""
    if own is None or before in (None, own, "0" * 64):
        return
    raise ValueError(
        f"the folder's run was begun with the program {before}, which its devices agreed to, and this server has {own}."
        " Another version of JAX or of fedjaxlite writes other bytes for the same rounds: go on with the file of the "
        "first start, program=fl.deploy.load_program(path). If devices are to accept a new program, take the line "
        f'"program" out of the folder\'s {RUN}.'
    )


def _restored(server: ServerHalf, arrays: Mapping[str, Any], header: Mapping[str, Any]) -> ServerState:
    leaves = leaves_of(server.first)
    before, now = ([(f"{leaf.dtype}", list(leaf.shape)) for leaf in each] for each in (arrays.values(), leaves))
    if before != now:
        raise ValueError(
            f"the folder is of another run: its state has the arrays {before[:4]}..., and that of these rounds "
            f"{now[:4]}... Go on with the same arguments, or give another folder."
        )
    state = unflattened(server.first, [jnp.asarray(leaf) for leaf in arrays.values()])
    counted = tables.Table()
    for client, *last in header["counted"]:
        counted = tables.having(counted, client, Counted(*last))
    return ServerState(state, number=header["number"], counted=counted)


def _evaluating(server: ServerHalf, journal: Journal, state: ServerState, now: float) -> ServerState:
    state, told = evaluation_of(server, state, now), {}
    for path in journal.names(f"evaluations/{state.number}"):
        metrics, num_examples = json.loads(journal.read(path))
        told[int(path.rsplit("/", 1)[1])] = (metrics, num_examples)
    evaluation = state.evaluation
    if evaluation is None:
        return state
    return state._replace(evaluation=evaluation._replace(found=told, asked=frozenset(told)))


def _at_hand(server: ServerHalf, journal: Journal, state: ServerState, now: float) -> ServerState:
    """The state with the round that was at hand."""
    try:
        told = json.loads(journal.read(AT_HAND))
    except FileNotFoundError:
        return state
    if told["round"] != state.number:  # of a round that is over: the next one had not begun
        return state
    state = state._replace(attempt=told["attempt"])
    if not told["selected"]:
        return state
    examples = dict(zip(told["selected"], told["examples"], strict=True))
    state = opened_for(server, state, told["selected"], examples, now)
    state = state._replace(open=opened(state)._replace(told=frozenset(told["selected"])))
    if server.template.masked:
        return _masked(server, journal, state, now)
    return _refolded(server, journal, state)


def _masked(server: ServerHalf, journal: Journal, state: ServerState, now: float) -> ServerState:
    path = masked.sum_path(state)
    if path in journal.names("sums"):
        state, effects = masked.close_with(server, state, *masked.of_file(journal.read(path)), now)
    else:
        state = state._replace(phase="waiting", attempt=state.attempt + 1, open=None)
        effects = (written_down(state),)
    carry_out(journal, effects)
    return state


def _refolded(server: ServerHalf, journal: Journal, state: ServerState) -> ServerState:
    here = f"{state.number}-{state.attempt}"
    for path, client, sha256 in _named(journal.names(f"uploads/{here}")):
        data, at_hand = journal.read(path), opened(state)
        whole = len(data) == server.upload_bytes and hashlib.sha256(data).hexdigest() == sha256
        if not whole or not at_hand.awaits(client):
            LOG.warning("%s is damaged, and is left out: client %d hears that it did not count", path, client)
            carry_out(journal, (Drop(path),))
            continue
        state = fold(server, state, client, sha256, data)
    partial = {}
    for path, client, sha256 in _named(journal.names(f"parts/{here}")):
        if opened(state).awaits(client):
            partial[client] = Partial(sha256, len(journal.read(path)))
    return state._replace(open=opened(state)._replace(partial=partial))


def _named(paths: Sequence[str]) -> list[tuple[str, int, str]]:
    """Client and hash of what lies at paths of `moving`."""
    split = [(path, path.rsplit("/", 1)[1].split("-")) for path in paths]
    return [(path, int(parts[-2]), parts[-1]) for path, parts in split]
