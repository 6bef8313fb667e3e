"""A real server over loopback TLS and, in the same process, clients that take part as they should: beside whom others do
as they like."""

import asyncio
import contextlib
import hashlib
import json
import os
import random
from pathlib import Path
from typing import Any, NamedTuple

import jax
from playing import device
from small_deployments import PARAMS, chosen, method

import fedjaxlite as fl
from fedjaxlite.deploy.device import link
from fedjaxlite.deploy.device.protocol import BadMessage, Message, decode, encode
from fedjaxlite.deploy.program.client_half import client_half
from fedjaxlite.deploy.server.run import serve
from fedjaxlite.transport import Timeouts, authority, client_context, frames
from fedjaxlite.transport.credentials import Credentials
from fedjaxlite.transport.enrolment import request
from fedjaxlite.transport.limits import Limits, Rate

KEYS = {"key": jax.random.key(7), "noise_key": jax.random.key(8)}
QUICK = Timeouts(connect=20.0, stage=60.0, frame=20.0, patience=60.0)


def composed(cohort: int, sampler: Any = None, aggregator: Any = None) -> fl.Rounds:
    return fl.rounds(
        method("fed_avg", 0),
        sampler=sampler or fl.sampling.uniform(cohort),
        aggregator=aggregator or fl.weighted_mean(),
        execution=fl.Execution(lanes=1, devices=1),
    )


def simulated(cohorts: list[list[int]], data: fl.Population, capacity: int, aggregator: Any = None) -> Any:
    """The state after rounds of these cohorts, each of `capacity` clients at most."""
    rounds = composed(capacity, chosen(cohorts, capacity), aggregator)
    state = rounds.init(PARAMS, data, **KEYS)
    for _ in cohorts:
        state, _ = rounds.step(state, data)
    return state


def enrolled(folder: Path, num: int) -> list[Credentials]:
    """Clients 0 to num - 1 of an authority."""
    found = []
    for u in range(num):
        asked = request(os.urandom)
        signed = authority.sign(folder, authority.new_token(folder), asked.pem)
        assert signed.client == u
        own = authority.own_certificate(folder)
        found.append(Credentials(asked.private, asked.public, signed.certificate, own))
    return found


class Served(NamedTuple):
    """A server that runs, its clients' credentials, and what it has recorded."""

    port: int
    task: "asyncio.Task[Any]"
    authority: Path
    clients: list[Credentials]
    records: list[Any]


@contextlib.asynccontextmanager
async def serving(server: Any, place: Path, num: int, **more: Any):
    folder = authority.create(place / "authority")
    clients, records, stop = enrolled(folder, num), [], asyncio.Event()
    listening = asyncio.get_running_loop().create_future()
    options = {"limits": Limits(requests=Rate(1e6, 1e6)), "timeouts": QUICK, "every": 0.05, "stay": 600.0} | more
    task = asyncio.create_task(
        serve(
            *(server, place / "run", folder),
            stop=stop,
            on_listening=listening.set_result,
            on_record=records.append,
            **options,
        )
    )
    await asyncio.wait([task, listening], return_when=asyncio.FIRST_COMPLETED)
    try:
        yield Served(await listening if listening.done() else await task, task, folder, clients, records)
    finally:
        stop.set()
        await asyncio.wait([task])


def linked(served: Served, who: int | Credentials, **more: Any) -> link.Link:
    own = served.clients[who] if isinstance(who, int) else who
    options = {"timeouts": QUICK, "backoff": link.Backoff(tries=4, first=0.02, most=0.1)} | more
    return link.link_to("127.0.0.1", served.port, client_context(own), random=random.Random(1).random, **options)


async def honest(served: Served, client: int, server: Any, half: Any, own: Any, before: Any, said: list[bytes]):
    """Takes part to the end of the run; waits for `before(round)` before it sends anything of an update."""
    disk: dict[str, Any] = {}
    line, steps, reply = linked(served, client), device(client, server, half, own, disk), None
    with contextlib.suppress(StopIteration):
        while True:
            step = steps.send(reply)
            if isinstance(step, float):
                await asyncio.sleep(min(step, 0.02))
                reply = None
                continue
            if step.kind in ("put", "secure") and step.body:
                await before(step.head["round"])
            said.append(encode(step))
            reply = await link.ask(line, step)
            if reply.kind == "refused":
                raise AssertionError(f"client {client} is harmed: {step.kind}: {reply.head}")
    assert line.counts[0].connections == 1
    await link.close(line)
    return disk


def compiled(server: Any) -> Any:
    return jax.jit(client_half(server.template))


@contextlib.asynccontextmanager
async def raw(served: Served, who: int | Credentials):
    """A connection that keeps to nothing but TLS."""
    own = served.clients[who] if isinstance(who, int) else who
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", served.port, ssl=client_context(own), server_hostname="fedjaxlite-server"
    )
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def heard(reader: asyncio.StreamReader) -> Message:
    return decode(await frames.read_frame(reader, longest=2**22, seconds=30))


def mutated(rng: random.Random, said: list[bytes]) -> bytes:
    """A message that was said in the run or a like one, replayed, or with a few fields or bytes changed; never a whole
    update that is what its hash says, and never an eligible check-in: whoever sends it is not to be in a sum."""
    data = bytearray(rng.choice(said))
    if rng.random() < 0.5:
        message = decode(bytes(data))
        head = dict(message.head)
        for name in rng.sample(sorted(head), rng.randint(0, min(2, len(head)))):
            head[name] = rng.choice((head[name], *STRANGE))
        text = json.dumps({"kind": message.kind} | head).encode()  # NaN and Infinity, as Python writes them
        data = bytearray(b"FJD\1" + len(text).to_bytes(4) + text + message.body * rng.choice((1, 1, 0, 2, 9)))
    else:
        for _ in range(rng.randint(0, 3)):
            at, what = rng.randrange(len(data) + 1), rng.randrange(4)
            if what == 0 and at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            elif what == 1:
                del data[at : at + rng.randint(1, 9)]
            elif what == 2:
                data[at:at] = data[at : at + 9]
            else:
                data[at:at] = rng.choice((b"NaN", b"[" * 500, b"9" * 99, b"\0", b'"', b"{}", os.urandom(8)))
    try:
        message = decode(bytes(data))
    except BadMessage:
        return bytes(data)
    if message.kind == "put":
        wrong = hashlib.sha256(b"not" + message.body).hexdigest()
        message = message._replace(head=message.head | {"sha256": wrong})
    if message.kind == "check_in":
        message = message._replace(head=message.head | {"idle": False})
    return encode(message)


STRANGE = (
    -1,
    0,
    1,
    2,
    3,
    7,
    2**20,
    2**31,
    2**40,
    2**63,
    10**30,
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x" * 2000,
)
STRANGE += ("\0", "raw", "zlib", True, None, [], {}, {"loss": float("nan")}, {"loss": 1e308}, "0" * 64)
