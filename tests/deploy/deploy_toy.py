"""A server with a toy for its state machine, and links to it; everything over loopback."""

import asyncio
import contextlib
import hashlib
import random
from typing import Any, NamedTuple

from fedjaxlite.deploy import service
from fedjaxlite.deploy.device import link, packing
from fedjaxlite.deploy.device.protocol import CHUNK, Message, refused
from fedjaxlite.transport import Timeouts, client_context, server_context
from fedjaxlite.transport.credentials import Credentials, issue
from fedjaxlite.transport.limits import Limits

N = 6
SERVER, CLIENTS = issue(range(N + 1))
OTHER_SERVER, OTHER_CLIENTS = issue(range(2))
QUICK = Timeouts(connect=5.0, stage=10.0, frame=5.0, patience=10.0)
SETTLED = {"settled": -1, "counted": False}
CHECK_IN = Message(
    "check_in",
    {"pending": -1, "attempt": 0, "num_examples": 7, "idle": True, "charging": True, "wireless": True, "program": ""},
)


class Toy(NamedTuple):
    """A state machine that holds blobs, collects uploads and remembers what it was asked."""

    blobs: dict[str, bytes]
    parts: dict[tuple[int, int, int, str], bytes]
    taken: dict[tuple[int, int], bytes]
    asked: list[tuple[int, str]]


def toy(*blobs):
    return Toy({hashlib.sha256(b).hexdigest(): b for b in blobs}, {}, {}, [])


def answer_of(state):
    def answer(client, message):
        state.asked.append((client, message.kind))
        return ANSWERS[message.kind](state, client, message.head, message.body)

    return answer


def _get(state, client, head, body):
    if head["sha256"] not in state.blobs:
        return refused("no such thing.")
    blob = state.blobs[head["sha256"]]
    packed, piece = packing.pack(blob[head["offset"] : head["offset"] + CHUNK], try_it=packing.worth_packing(blob))
    return Message("chunk", {"offset": head["offset"], "total": len(blob), "packed": packed}, piece)


def _put(state, client, head, body):
    task = (client, head["round"])
    if task in state.taken:
        return Message("taken", {"round": head["round"]})
    key = (*task, head["attempt"], head["sha256"])
    part = state.parts.get(key, b"")
    if head["offset"] == len(part):
        part += packing.unpack(body, head["packed"])
    state.parts[key] = part
    if len(part) < head["total"]:
        return Message("have", {"offset": len(part)})
    if hashlib.sha256(part).hexdigest() != head["sha256"]:
        del state.parts[key]
        return refused("the bytes are not those of their hash.", again=True)
    state.taken[task] = part
    return Message("taken", {"round": head["round"]})


ANSWERS = {
    "check_in": lambda state, client, head, body: Message(
        "wait", {"seconds": 1.0, "reason": f"client {client}"} | SETTLED
    ),
    "get": _get,
    "put": _put,
    "secure": lambda state, client, head, body: Message("secure", {"stage": "echo"}, body[::-1]),
    "evaluated": lambda state, client, head, body: Message("taken", {"round": head["round"]}),
}


class Served(NamedTuple):
    """A server that runs."""

    port: int
    stop: asyncio.Event
    counters: dict[int, service.Counters]
    task: "asyncio.Task[None]"


@contextlib.asynccontextmanager
async def serving(answer, *, credentials=SERVER, strangers=True, timeouts=QUICK, limits=None, enroll=None, **more: Any):
    stop, counters = asyncio.Event(), {}
    port = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(
        service.serve(
            server_context(credentials, strangers=strangers),
            answer,
            enroll,
            timeouts=timeouts,
            limits=limits or Limits(),
            stop=stop,
            counters=counters,
            on_listening=port.set_result,
            **more,
        )
    )
    try:
        yield Served(await port, stop, counters, task)
    finally:
        stop.set()
        await asyncio.gather(task, return_exceptions=True)


def linked(port, client: int | Credentials = 0, **more: Any):
    credentials = CLIENTS[client] if isinstance(client, int) else client
    context = client_context(credentials)
    draws = random.Random(3).random
    options = {"timeouts": QUICK, "backoff": link.Backoff(tries=6, first=0.02, most=0.1)} | more
    return link.link_to("127.0.0.1", port, context, random=draws, **options)


@contextlib.asynccontextmanager
async def raw(port, client=0):
    """A client that keeps to nothing: a connection with its certificate."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=client_context(CLIENTS[client]), server_hostname="fedjaxlite-server"
    )
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


@contextlib.asynccontextmanager
async def cutting(port, lengths):
    """A way to the server that is cut after so many bytes; one length for each connection, then none."""
    lengths, tasks = iter(lengths), set()

    async def pass_on(reader, writer, left):
        with contextlib.suppress(OSError):
            while (data := await reader.read(2**16)) and left[0] > 0:
                left[0] -= len(data)
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    async def connected(reader, writer):
        left = [next(lengths, 2**62)]
        there, back = await asyncio.open_connection("127.0.0.1", port)
        for pair in ((reader, back), (there, writer)):
            task = asyncio.create_task(pass_on(*pair, left))
            tasks.add(task)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def run(work, seconds=60):
    async def bounded():
        async with asyncio.timeout(seconds):
            return await work()

    return asyncio.run(bounded())
