"""A deployed run in one process and in virtual time: devices that come, go, are killed and lose answers, and a server
that is killed between any two of its effects. No sockets; every message goes through its bytes."""

import hashlib
import heapq
import json
import random
from collections.abc import Callable, Generator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjaxlite.deploy.device import packing
from fedjaxlite.deploy.device.artifact import pack, unpack
from fedjaxlite.deploy.device.protocol import CHUNK, Message, decode, encode
from fedjaxlite.deploy.program.client_half import client_half
from fedjaxlite.deploy.program.leaves import leaves_of
from fedjaxlite.deploy.program.template import download_specs
from fedjaxlite.deploy.server.answering import answer, tick
from fedjaxlite.deploy.server.disk.journal import Journal, carry_out
from fedjaxlite.deploy.server.disk.resuming import resume
from fedjaxlite.deploy.server.halves import first_client_state
from fedjaxlite.deploy.server.masked import most_body
from fedjaxlite.deploy.server.state import ServerHalf, ServerState

Ask = Generator[Any, Any, None]


class Chaos(NamedTuple):
    """Chances for each message: that a device is killed, that it sleeps past a deadline, that it goes away; and at
    which messages the server is killed."""

    killed: float = 0.0
    late: float = 0.0
    away: float = 0.0
    server: tuple[int, ...] = ()


class Played(NamedTuple):
    state: ServerState
    records: list[dict[str, Any]]
    disks: dict[int, dict[str, Any]]
    messages: int
    seconds: float


def in_memory() -> tuple[Journal, dict[str, bytes], list[dict[str, Any]]]:
    """A journal of dicts."""
    files: dict[str, bytes] = {}
    saved: list[Any] = []
    lines: list[dict[str, Any]] = []

    def read(path: str) -> bytes:
        if path not in files:
            raise FileNotFoundError(path)
        return files[path]

    def extend(path: str, offset: int, data: bytes) -> None:
        files[path] = files.get(path, b"")[:offset] + data

    def drop(path: str) -> None:
        for name in [n for n in files if n == path or n.startswith(f"{path}/")]:
            del files[name]

    def cut(last: int) -> list[dict[str, Any]]:
        lines[:] = [line for line in lines if line["round"] <= last]
        return lines

    journal = Journal(
        keep=files.__setitem__,
        extend=extend,
        drop=drop,
        read=read,
        names=lambda folder: sorted(name for name in files if name.startswith(f"{folder}/")),
        save=lambda number, arrays, header: saved.append((dict(arrays), json.loads(json.dumps(header)))),
        newest=lambda: saved[-1] if saved else None,
        record=lambda line: lines.append(json.loads(json.dumps(line))),
        cut=cut,
    )
    return journal, files, lines


def device(
    client: int, server: ServerHalf, half: Callable[..., Any], own: Mapping[str, Any], disk: dict[str, Any]
) -> Ask:
    """A device: yields messages to send, or seconds to sleep; `disk` is what outlives it."""
    template = server.template
    size, kept = len(next(iter(own.values()))), len(leaves_of(template.state))
    buffers = []
    for name in sorted(own):
        buffer = np.full((template.capacity, *own[name].shape[1:]), 9, own[name].dtype)
        buffer[:size] = own[name]
        buffers.append(buffer)
    specs = [{"shape": list(s.shape), "dtype": str(s.dtype)} for s in download_specs(template)]
    while True:
        pending = disk.get("pending")
        where = pending[:2] if pending else (-1, 0)
        reply = yield Message(
            "check_in",
            {"pending": where[0], "attempt": where[1], "num_examples": size, "program": ""}
            | dict.fromkeys(("idle", "charging", "wireless"), True),
        )
        if pending and reply.head["settled"] >= 0:
            assert reply.head["settled"] == where[0]
            if reply.head["counted"]:
                disk["state"] = pending[2]
                disk.setdefault("counted", []).append(where[0])
            disk["pending"] = None
        if reply.kind == "finished":
            return
        if reply.kind == "wait":
            yield reply.head["seconds"]
            continue
        task = reply.head
        model = b""
        while len(model) < task["model_bytes"]:
            reply = yield Message("get", {"sha256": task["model"], "offset": len(model)})
            if reply.kind != "chunk":
                break
            model += packing.unpack(reply.body, reply.head["packed"])
        if hashlib.sha256(model).hexdigest() != task["model"]:
            continue
        if task["what"] == "evaluate":
            loss = float(sum(np.square(leaf).sum() for leaf in unpack(model, specs)))
            yield Message("evaluated", {"round": task["round"], "metrics": {"loss": loss}, "num_examples": size})
            continue
        assert not disk.get("pending") or disk["pending"][:2] == (task["round"], task["attempt"])
        out = half(
            *unpack(model, specs),
            *disk.get("state", first_state_of(server)),
            *buffers,
            *(np.int32(size), np.uint32(task["key"]), np.int32(client), np.zeros(2, np.uint32)),
        )
        num = len(out) - kept - 1 - len(template.found.output.info)
        sent, new = out[:num], [np.asarray(leaf) for leaf in out[num : num + kept]]
        disk["pending"] = (task["round"], task["attempt"], new)
        if template.masked:
            yield from secure(client, server, task, np.asarray(sent[0]))
        else:
            yield from upload(task, pack(sent))


def first_state_of(server: ServerHalf) -> list[np.ndarray]:
    params = server.template.program.algorithm.params(server.first.server_state)
    return first_client_state(server.template, params)


def upload(task: Mapping[str, Any], data: bytes, piece: int = CHUNK) -> Ask:
    digest, offset = hashlib.sha256(data).hexdigest(), -1
    while True:
        body = b"" if offset < 0 else data[offset : offset + piece]
        packed, body = packing.pack(body)
        head = {"round": task["round"], "attempt": task["attempt"], "sha256": digest, "total": len(data)}
        reply = yield Message("put", {**head, "offset": max(offset, 0), "packed": packed}, body)
        if reply.kind != "have":
            return
        offset = reply.head["offset"]


def secure(client: int, server: ServerHalf, task: Mapping[str, Any], vector: np.ndarray, identity: Any = None) -> Ask:
    from fedjaxlite.privacy import secagg
    from fedjaxlite.privacy.secagg import messages

    number = task["round"] * 65536 + task["attempt"]
    state, step = secagg.client.advertise(server.secure, round_number=number, me=client, identity=identity)
    body = messages.encode(step)
    while True:
        reply = yield Message("secure", {"round": task["round"], "attempt": task["attempt"]}, body)
        if reply.kind in ("taken", "refused"):
            return
        if reply.kind == "wait":
            body = b""
            yield reply.head["seconds"]
            continue
        told = messages.decode(reply.body, messages.limits(server.secure))
        state, step = secagg.answer(state, told, vector, primitives=secagg.keys.real())
        body = messages.encode(step)


def play(
    server: ServerHalf, journal: Journal, own: Mapping[int, Mapping[str, Any]], *, chaos: Chaos, seed: int = 0
) -> tuple[ServerState, dict[int, dict[str, Any]], int, float]:
    """Plays a run to its end."""
    rng = random.Random(seed)
    server = server._replace(read=journal.read)
    half = jax.jit(client_half(server.template))
    disks: dict[int, dict[str, Any]] = {client: {} for client in own}
    state = resume(server, journal, 0.0)
    running: dict[int, Ask] = {}
    turns = [(rng.random(), client, 0, None) for client in own]
    heapq.heapify(turns)
    lives, count, now, most = dict.fromkeys(own, 0), 0, 0.0, most_body(server)

    def restart(client: int, after: float) -> None:
        running.pop(client, None)
        lives[client] += 1
        heapq.heappush(turns, (now + after, client, lives[client], None))

    while turns:
        now, client, life, reply = heapq.heappop(turns)
        if life != lives[client]:
            continue
        if client not in running:
            running[client], reply = device(client, server, half, own[client], disks[client]), None
        try:
            step = running[client].send(reply)
        except StopIteration:
            continue
        if isinstance(step, float):
            heapq.heappush(turns, (now + step, client, life, None))
            continue
        count += 1
        if count > 200_000:
            raise AssertionError("the run does not end")
        new, reply, effects = answer(server, state, client, decode(encode(step), most_body=max(most, CHUNK)), now)
        if count in chaos.server:  # killed between two effects, or before the reply
            carry_out(journal, effects[: rng.randint(0, len(effects))])
            state = resume(server, journal, now)
            restart(client, 0.1)
            continue
        carry_out(journal, effects)
        state = new
        reply = decode(encode(reply), most_body=2**30)
        draw = rng.random()
        if draw < chaos.killed:
            restart(client, 5 * rng.random())
        elif draw < chaos.killed + chaos.away:
            restart(client, 300 * rng.random())
        elif draw < chaos.killed + chaos.away + chaos.late:
            heapq.heappush(turns, (now + 1.5 * server.settings.deadline, client, life, reply))
        else:
            heapq.heappush(turns, (now + 0.01 + 0.02 * rng.random(), client, life, reply))
        state, effects = tick(server, state, now)
        carry_out(journal, effects)
    return state, disks, count, now
