"""What the connections of a server share, and what is counted of each client."""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from fedjaxlite.deploy.device import protocol
from fedjaxlite.deploy.device.protocol import Message
from fedjaxlite.transport.frames import LENGTH_BYTES, Timeouts, frame
from fedjaxlite.transport.limits import Bucket, Limits

LOG = logging.getLogger("fedjaxlite.deploy.service")
# Under this key of the counters stands everybody who has no certificate.
STRANGERS = -1

Answer = Callable[[int, Message], Message]
Enroll = Callable[[str, str], Message]


class Counters(NamedTuple):
    """What has crossed the wire with one client, as bytes before TLS (which adds 22 to every 16 KiB, and a handshake).

    Attributes:
      questions: messages of the client that were read whole, refused ones too.
      refused: of these, how many were no good messages.
      bytes_in: of the client's frames.
      bytes_out: of the server's.
      body_in: of bytes_in, those of bodies: updates.
      body_out: of bytes_out, those of bodies: programs and models.
      connections: how often it has connected.
    """

    questions: int = 0
    refused: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    body_in: int = 0
    body_out: int = 0
    connections: int = 0


class Line(NamedTuple):
    """A client's open connection and the task that serves it."""

    writer: asyncio.StreamWriter
    task: "asyncio.Task[None]"


class Memory(NamedTuple):
    """Bytes of messages that are held: a list of one number, and who waits for some."""

    held: list[int]
    freed: asyncio.Condition


class Desk(NamedTuple):
    """What the connections of a server share.

    Attributes:
      context: TLS settings.
      answer: the answer to a client's question; called in `worker`, one at a time.
      enroll: the answer to `enroll`; likewise. None where nobody may.
      is_revoked: whether a client is let in no longer.
      limits: what peers may do.
      timeouts: how long they may take.
      most_body: the most bytes of a body of the kinds that are not bounded by themselves.
      authority: the authority's certificate, PEM.
      worker: the one thread of `answer`.
      counters: {client: what was counted}.
      lines: {client: its connection}.
      buckets: {client: what is left of its messages and bytes}.
      addresses: {address: connections that are open}.
      handshakes: {task of a connection in its handshake: since when}.
      strangers: tasks of connections without a certificate.
      tasks: of all connections.
      memory: of messages.
      failed: what `answer` raised that ends the server.
    """

    context: ssl.SSLContext
    answer: Answer
    enroll: Enroll | None
    is_revoked: Callable[[int], bool]
    limits: Limits
    timeouts: Timeouts
    most_body: int
    authority: str
    worker: ThreadPoolExecutor
    counters: dict[int, Counters]
    lines: dict[int, Line]
    buckets: dict[int, tuple[Bucket, Bucket]]
    addresses: dict[str, int]
    handshakes: "dict[asyncio.Task[None], float]"
    strangers: "set[asyncio.Task[None]]"
    tasks: "set[asyncio.Task[None]]"
    memory: Memory
    failed: asyncio.Future[None]


def count(desk: Desk, client: int | None, **more: int) -> None:
    """Adds to a client's counters, or to those of strangers."""
    key = STRANGERS if client is None else client
    old = desk.counters.get(key, Counters())
    desk.counters[key] = old._replace(**{name: getattr(old, name) + n for name, n in more.items()})


def dismiss(desk: Desk, client: int, reason: str, *, again: bool) -> None:
    """Ends a client's connection, and says why; what it has asked and was not answered yet stays unanswered."""
    line = desk.lines.pop(client, None)
    if line is None:
        return
    LOG.info("client %d is hung up on: %s", client, reason)
    data = frame(protocol.encode(protocol.refused(reason, again=again)))
    if not line.writer.is_closing():
        line.writer.write(data)
        count(desk, client, bytes_out=len(data))
    line.task.cancel()


@contextlib.asynccontextmanager
async def holding(desk: Desk, size: int) -> AsyncGenerator[None]:
    """Waits until there is memory for a message, and has it until the end of the block.

    What is as small as any head is not counted: a connection has that much anyway. One message is always let in,
    however large it is, so that nothing waits for what never comes.
    """
    if size <= protocol.OVERHEAD:
        yield
        return
    held, freed = desk.memory
    async with freed:
        await freed.wait_for(lambda: held[0] == 0 or held[0] + size <= desk.limits.memory)
        held[0] += size
    try:
        yield
    finally:
        held[0] -= size
        async with freed:
            freed.notify_all()


def longest_frame(desk: Desk, client: int | None) -> int:
    """The most bytes of a frame that are taken: of strangers, a head."""
    return protocol.OVERHEAD + (0 if client is None else max(protocol.CHUNK, desk.most_body))


def framed(message: Message) -> int:
    """About the bytes of a message's frame, before it is made."""
    return LENGTH_BYTES + protocol.OVERHEAD + len(message.body) if message.body else 0
