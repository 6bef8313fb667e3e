"""A device's connection to its server: one question, one answer, and whatever breaks in between is tried again.

Any question may be asked twice: the server answers it as it did. So a connection that breaks is opened again, after a
pause that doubles and is drawn at random, and the question is repeated. What the server says that is no message of the
protocol ends the connection and is a `BadMessage`.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import NamedTuple

from fedjaxlite.deploy.device import protocol
from fedjaxlite.deploy.device.protocol import CHUNK, BadMessage, Message
from fedjaxlite.transport.credentials import SERVER_NAME
from fedjaxlite.transport.errors import TransportError
from fedjaxlite.transport.frames import Timeouts, hang_up, read_frame, write_frame

_BROKEN = (OSError, EOFError, TimeoutError)


class ServerRefuses(Exception):
    """The server answers `refused`.

    Attributes:
      again: whether asking later makes sense.
    """

    def __init__(self, reason: str, *, again: bool) -> None:
        super().__init__(reason)
        self.again = again


class Unreachable(OSError):
    """No connection to the server after all tries, or one that breaks each time; its cause is the last failure."""


class Backoff(NamedTuple):
    """The pauses between tries: at random between 0 and a bound that doubles, so that many devices do not come at once.

    Attributes:
      tries: how often a question is tried before `Unreachable`.
      first: the bound of the first pause, in seconds.
      most: the largest bound.
    """

    tries: int = 8
    first: float = 0.5
    most: float = 60.0


class Counts(NamedTuple):
    """What has crossed the link: frames, as bytes before TLS."""

    sent: int = 0
    received: int = 0
    connections: int = 0


class Line(NamedTuple):
    """An open connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class Link(NamedTuple):
    """A server that can be asked, one question at a time. Made by `link_to`; `ask` and `close` are its functions.

    Attributes:
      host: its address.
      port: its port.
      context: TLS settings: whom to believe, and who the device is.
      timeouts: `connect`, `frame`, and `patience` for an answer.
      backoff: the pauses.
      random: draws in [0, 1) for the pauses.
      most_body: the most bytes of an answer's body.
      server_name: the name in the server's certificate.
      counts: a list of one: what has crossed.
      lines: the open connection, if there is one.
    """

    host: str
    port: int
    context: ssl.SSLContext
    timeouts: Timeouts
    backoff: Backoff
    random: Callable[[], float]
    most_body: int
    server_name: str | None
    counts: list[Counts]
    lines: list[Line]


def link_to(
    host: str,
    port: int,
    context: ssl.SSLContext,
    *,
    random: Callable[[], float],
    timeouts: Timeouts = Timeouts(),  # noqa: B008  (a NamedTuple of numbers)
    backoff: Backoff = Backoff(),  # noqa: B008  (a NamedTuple of numbers)
    most_body: int = CHUNK,
    server_name: str | None = SERVER_NAME,
) -> Link:
    """A link that is not connected yet: the first question does that.

    Args:
      host: the server's address.
      port: the server's port.
      context: from `transport.client_context`.
      random: draws in [0, 1), for the pauses between tries.
      timeouts: how long anything is waited for.
      backoff: the pauses.
      most_body: the most bytes of an answer's body; more than a piece where secure sums are as long.
      server_name: the name that the server's certificate has to have.

    Returns:
      The Link.
    """
    return Link(host, port, context, timeouts, backoff, random, most_body, server_name, [Counts()], [])


def pauses(backoff: Backoff, random: Callable[[], float]) -> list[float]:
    """The pauses before the second try and those after it, in seconds.

    Example:
      >>> pauses(Backoff(tries=5, first=1.0, most=3.0), lambda: 0.5)
      [0.5, 1.0, 1.5, 1.5]
    """
    return [random() * min(backoff.most, backoff.first * 2.0**n) for n in range(backoff.tries - 1)]


async def ask(link: Link, message: Message) -> Message:
    """Asks a question until it is answered.

    Args:
      link: whom.
      message: the question.

    Returns:
      The answer, which may be `refused`.

    Raises:
      BadMessage: the question is none, or the answer is none.
      ssl.SSLCertVerificationError: the other side is not the server; nothing was asked.
      Unreachable: all tries failed.
    """
    data = protocol.encode(message)
    failure: BaseException | None = None
    for pause in (0.0, *pauses(link.backoff, link.random)):
        await asyncio.sleep(pause)
        try:
            return await _asked(link, data)
        except ssl.SSLCertVerificationError:
            raise
        except _BROKEN as error:
            failure = error
            await close(link)
        except (BadMessage, TransportError) as error:
            await close(link)
            raise BadMessage(f"the server's answer to {message.kind}: {error}") from error
        except BaseException:  # cancelled between a question and its answer: the next answer would be the wrong one
            await close(link)
            raise
    words = f"{type(failure).__name__}: {failure}" if str(failure) else type(failure).__name__
    raise Unreachable(
        f"{link.host}:{link.port} did not answer {message.kind} in {link.backoff.tries} tries; the last one: {words}."
    ) from failure


async def close(link: Link) -> None:
    """Hangs up; the next question connects again."""
    while link.lines:
        await hang_up(link.lines.pop().writer)


def expected(reply: Message, kind: str) -> Message:
    """The answer, if it is of that kind.

    Raises:
      ServerRefuses: it is `refused`. BadMessage: it is another.
    """
    if reply.kind == "refused":
        raise ServerRefuses(reply.head["reason"], again=reply.head["again"])
    if reply.kind != kind:
        raise BadMessage(f"the server answers {reply.kind}; expected {kind}.")
    return reply


async def _asked(link: Link, data: bytes) -> Message:
    """One try. A server that hangs up says why, unasked: that is the answer then."""
    if not link.lines:
        await _connect(link)
    (line,) = link.lines
    try:
        await write_frame(line.writer, data, seconds=link.timeouts.frame)
        _add(link, sent=4 + len(data))
    except _BROKEN:
        with contextlib.suppress(*_BROKEN):
            return await _answer(link, line)
        raise
    return await _answer(link, line)


async def _answer(link: Link, line: Line) -> Message:
    longest = protocol.OVERHEAD + max(CHUNK, link.most_body)
    async with asyncio.timeout(link.timeouts.patience):
        data = await read_frame(line.reader, longest=longest, seconds=link.timeouts.frame)
    _add(link, received=4 + len(data))
    reply = protocol.decode(data, most_body=link.most_body)
    if protocol.is_question(reply):
        raise BadMessage(f"the server says {reply.kind}, which only clients do.")
    return reply


async def _connect(link: Link) -> None:
    async with asyncio.timeout(link.timeouts.connect):
        reader, writer = await asyncio.open_connection(
            link.host, link.port, ssl=link.context, server_hostname=link.server_name or ""
        )
    link.lines.append(Line(reader, writer))
    _add(link, connections=1)


def _add(link: Link, *, sent: int = 0, received: int = 0, connections: int = 0) -> None:
    old = link.counts[0]
    link.counts[0] = Counts(old.sent + sent, old.received + received, old.connections + connections)
