"""The server's rounds over Flower's grid: who is there, a round's messages out and in, the server's step.

What is computed is `deploy/server/halves`, that of the simulation; here stand Flower's messages.
"""
# pyright: reportMissingImports=false

import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedjaxlite.deploy.device.artifact import pack, unpack
from fedjaxlite.deploy.flower import rebuilding
from fedjaxlite.deploy.program.leaves import leaves_of, wrapped
from fedjaxlite.deploy.program.template import Template, template_of
from fedjaxlite.deploy.server.halves import Halves, first_state, halves_of, key_of
from fedjaxlite.execution.round_state import RoundState
from fedjaxlite.storage import write_npz

LOG = logging.getLogger("flwr")
_PAUSE = 1.0
"""Seconds between two looks at who is there."""


class Server(NamedTuple):
    """A run at its server.

    Attributes:
      run: what was read of the server's folder.
      template: what both sides agree on.
      halves: the server's half, compiled.
      round_seconds: how long a round waits for messages.
      nodes: {client: Flower's number of its node}, of those that answered.
      counted: {client: the last round whose sum has its update}.
    """

    run: rebuilding.Run
    template: Template
    halves: Halves
    round_seconds: float
    nodes: dict[int, int]
    counted: dict[int, int]


def serve(
    grid: Any, folder: Path, *, num_rounds: int, min_clients: int, round_seconds: float, evaluate_every: int = 0
) -> RoundState:
    """All rounds of a run: called by the ServerApp.

    Args:
      grid: Flower's.
      folder: `server/` of the app. `results/` in it gets `records.jsonl`, a line a round, and `params.npz`, the model
        after the last round.
      num_rounds: how many.
      min_clients: the first round waits until so many clients are there.
      round_seconds: how long a round waits for messages; clients that have not answered then are not in its sum.
      evaluate_every: clients measure the model after every so many rounds; 0 for never.

    Returns:
      the state after the last round.

    Raises:
      FileNotFoundError, ValueError: the folder holds no run, or not one that fits.
    """
    run = rebuilding.read(folder)
    template = template_of(run.made.rounds, run.made.params, run.made.data, capacity=run.capacity)
    server = Server(run, template, halves_of(template), round_seconds, {}, {})
    state = first_state(template, run.made.params, key=wrapped(run.key))
    results = folder / "results"
    results.mkdir(exist_ok=True)
    (results / "records.jsonl").write_text("", encoding="utf-8")
    _wait(grid, server, min_clients)
    for number in range(num_rounds):
        state, record = one_round(grid, server, state)
        if run.evaluation and evaluate_every and (number + 1) % evaluate_every == 0:
            record |= evaluated(grid, server, state)
        LOG.info("%s", json.dumps(record))
        with (results / "records.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        params = run.made.rounds.params(state)
        write_npz(results / "params.npz", rebuilding.named_leaves(params), {"round": number + 1})
    return state


def one_round(grid: Any, server: Server, state: RoundState) -> tuple[RoundState, dict[str, Any]]:
    """A cohort, its messages, and the server's step; with a record of it.

    A client's message counts if it is whole, finite and in time. A client that is away, fails or is late is not in the
    sum, and keeps the state that it had.
    """
    began, number = time.monotonic(), int(state.round)
    _look(grid, server)
    sampler, halves = server.template.program.sampler, server.halves
    cohort = sampler.sample(state.keys.sample, state.round, server.template.population)
    ids, chosen = np.asarray(cohort.ids), np.asarray(cohort.selected & cohort.reported)
    rows = {int(client): row for row, client in enumerate(ids) if chosen[row]}
    opened = halves.begin(state)
    model = pack([np.asarray(leaf) for leaf in opened.download])
    asked = {client: _task(server, number, client, key_of(opened, client)) for client in rows if client in server.nodes}
    total, present, failed, up = halves.nothing(), np.zeros(len(ids), bool), 0, 0
    for client, content in _answers(grid, server, "train", asked, model, number):
        found = _read(server, state, client, content)
        if found is None:
            failed += 1
            continue
        part, finite, size = found
        total = halves.add(total, part, rows[client])
        present[rows[client]], up = finite, up + size
        if finite:
            server.counted[client] = number
    state, told = halves.close(state, total, ids.astype(np.int32), present)
    record = {"round": number + 1, "num_selected": int(chosen.sum()), "num_away": len(rows) - len(asked)}
    record |= {"num_reported": int(present.sum()), "num_refused": failed}
    record |= {"bytes_up": up, "bytes_down": len(asked) * len(model), "seconds": round(time.monotonic() - began, 3)}
    record |= {name: float(value) for name, value in told.items() if np.ndim(value) == 0}
    return state, record


def evaluated(grid: Any, server: Server, state: RoundState) -> dict[str, float]:
    """What all clients that are there measure of the model, weighted by their numbers of examples."""
    opened, number = server.halves.begin(state), int(state.round)
    asked = {client: _task(server, number, client, (0, 0)) for client in server.nodes}
    model = pack([np.asarray(leaf) for leaf in opened.download])
    sums, examples = dict.fromkeys(server.run.evaluation or (), 0.0), 0
    for _, content in _answers(grid, server, "evaluate", asked, model, number):
        size, metrics = _number(content, "num-examples"), dict(content.get("metrics", {}))
        fits = set(metrics) == set(sums) and all(isinstance(value, float) for value in metrics.values())
        if fits and 0 < size <= server.run.capacity and np.isfinite(list(metrics.values())).all():
            sums, examples = {name: sums[name] + size * metrics[name] for name in sums}, examples + size
    return {f"clients_{name}": value / examples for name, value in sums.items()} if examples else {}


def _number(content: Any, name: str) -> int:
    """A number that a node tells of itself; -1 where it tells something else."""
    value = dict(content.get("told", {})).get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else -1


def _task(server: Server, number: int, client: int, key: tuple[int, int]) -> dict[str, Any]:
    return {"round": number, "key": [int(word) for word in key], "counted": server.counted.get(client, -1)}


def _read(server: Server, state: RoundState, client: int, content: Any) -> tuple[Any, bool, int] | None:
    """One client's part of the sum, whether it counts, and its bytes; None for what no client of this program sends."""
    try:
        data = content["update"].to_numpy_ndarrays()[0].tobytes()
        part, fine = server.halves.read(state, unpack(data, _specs(server.template.message)), client)
        finite = bool(dict(content["told"])["finite"])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        LOG.warning("client %d sent what is no message of this program: %s", client, error)
        return None
    if not bool(fine):
        LOG.warning("client %d sent NaN, infinity or a negative weight", client)
        return None
    return part, finite, len(data)


def _specs(tree: Any) -> list[dict[str, Any]]:
    return [{"shape": list(leaf.shape), "dtype": str(leaf.dtype)} for leaf in leaves_of(tree)]


def _wait(grid: Any, server: Server, min_clients: int) -> None:
    """Until so many clients are there."""
    least = min(min_clients, server.template.population.num_clients)
    said = -1
    while len(_look(grid, server)) < least:
        if len(server.nodes) != said:
            said = len(server.nodes)
            LOG.info("waiting for %d clients, %d are there", least, said)
        time.sleep(_PAUSE)


def _look(grid: Any, server: Server) -> Mapping[int, int]:
    """Asks nodes that are new which clients they are, and forgets those that left."""
    here, known = set(grid.get_node_ids()), set(server.nodes.values())
    for client in [client for client, node in server.nodes.items() if node not in here]:
        del server.nodes[client]
    new = sorted(here - known)
    for node, content in _replies(grid, [(node, "query", {}) for node in new], "who", min(60.0, server.round_seconds)):
        client = _number(content, "client")
        if not 0 <= client < server.template.population.num_clients:
            LOG.warning(
                "node %d says that it is client %d; expected partition-id from 0 to %d",
                *(node, client, server.template.population.num_clients - 1),
            )
        elif server.nodes.get(client, node) != node:
            LOG.warning("nodes %d and %d both say that they are client %d", node, server.nodes[client], client)
        else:
            server.nodes[client] = node
    return server.nodes


def _answers(
    grid: Any, server: Server, what: str, asked: Mapping[int, Mapping[str, Any]], model: bytes, number: int
) -> Iterable[tuple[int, Any]]:
    """What clients answer to their tasks, each once, in the order of their numbers."""
    from flwr.app import ArrayRecord, ConfigRecord

    shared = ArrayRecord([np.frombuffer(model, np.uint8)])
    client_of = {server.nodes[client]: client for client in asked}
    sent = [
        (server.nodes[client], what, {"model": shared, "task": ConfigRecord(dict(task))})
        for client, task in asked.items()
    ]
    found = {client_of[node]: content for node, content in _replies(grid, sent, str(number), server.round_seconds)}
    return sorted(found.items())


def _replies(
    grid: Any, sent: Sequence[tuple[int, str, dict[str, Any]]], group: str, seconds: float
) -> Iterable[tuple[int, Any]]:
    """(node, content) of every reply that came in time and is no error."""
    from flwr.app import Message, RecordDict

    messages = [
        Message(RecordDict(content), dst_node_id=node, message_type=kind, group_id=group)
        for node, kind, content in sent
    ]
    if not messages:
        return
    for reply in grid.send_and_receive(messages, timeout=seconds):
        node = reply.metadata.src_node_id
        if reply.has_error():
            LOG.warning("node %d failed: %s", node, reply.error.reason)
        else:
            yield node, reply.content
