"""One connection: a question in, its answer out, within limits; the question after that waits until then."""

import asyncio
import contextlib
from typing import NamedTuple

from fedjaxlite.deploy.device import protocol
from fedjaxlite.deploy.device.protocol import BadMessage, Message, refused
from fedjaxlite.deploy.service.desk import LOG, Desk, count, framed, holding, longest_frame
from fedjaxlite.transport import limits
from fedjaxlite.transport.errors import EnrolmentRefused, FrameTooLong
from fedjaxlite.transport.frames import LENGTH_BYTES, read_size, write_frame

# A connection is closed after so many messages that were refused as such; a stranger's after so many of any kind.
MAX_STRIKES = 8
REVOKED = "this client's certificate was revoked."


class Peer(NamedTuple):
    """Who is at the other end: the id in its certificate, or None; and its connection."""

    client: int | None
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


async def attend(desk: Desk, peer: Peer) -> None:
    """Answers a peer's questions, one after the other, until it leaves, strikes out or is hung up on.

    Raises:
      OSError, EOFError: it left. TimeoutError: it is too slow.
    """
    strikes = asked = 0
    while strikes < MAX_STRIKES and (peer.client is not None or asked < MAX_STRIKES):
        asked += 1
        await _paid(desk, peer.client)
        try:
            reply = await _answered(desk, peer)
        except FrameTooLong as error:  # what follows is the rest of it: the stream is of no use
            count(desk, peer.client, refused=1)
            LOG.warning("refused a message of %s: %s", name_of(peer.client), error)
            await _say(desk, peer, refused(str(error)))
            return await let_go(desk, peer)
        except BadMessage as error:
            strikes += 1
            count(desk, peer.client, refused=1)
            LOG.warning("refused a message of %s: %s", name_of(peer.client), error)
            reply = refused(str(error))
        await _say(desk, peer, reply)
    if strikes == MAX_STRIKES:
        LOG.warning("%s is hung up on after %d messages that were refused.", name_of(peer.client), strikes)
    return await let_go(desk, peer)


async def turn_away(desk: Desk, peer: Peer, reason: str, *, again: bool) -> None:
    """Tells a peer why it is not let in."""
    LOG.info("%s is not let in: %s", name_of(peer.client), reason)
    await _say(desk, peer, refused(reason, again=again))
    await let_go(desk, peer)


async def let_go(desk: Desk, peer: Peer) -> None:
    """Reads for a moment what a peer still says, and throws it away.

    A connection that is closed with unread bytes is reset, and that may overtake the last answer on its way.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(min(1.0, desk.timeouts.frame)):
            while await peer.reader.read(2**16):
                pass


def name_of(client: int | None) -> str:
    """Words for a peer in a log."""
    return "a stranger" if client is None else f"client {client}"


async def _answered(desk: Desk, peer: Peer) -> Message:
    """Reads one question and answers it; its bytes are given back before the answer is sent."""
    silence = desk.timeouts.connect if peer.client is None else desk.timeouts.stage
    async with asyncio.timeout(silence):
        size = await read_size(peer.reader, longest=longest_frame(desk, peer.client))
    async with holding(desk, size):
        async with asyncio.timeout(desk.timeouts.frame):
            data = await peer.reader.readexactly(size)
        count(desk, peer.client, questions=1, bytes_in=LENGTH_BYTES + size)
        _spend(desk, peer.client, size)
        question = protocol.decode(data, most_body=desk.most_body)
        del data
        count(desk, peer.client, body_in=len(question.body))
        _may_ask(peer.client, question)
        return await _reply(desk, peer.client, question)


def _may_ask(client: int | None, question: Message) -> None:
    if not protocol.is_question(question):
        raise BadMessage(f"{question.kind}: only the server says that.")
    if client is None and question.kind not in protocol.WITHOUT_CERTIFICATE:
        raise BadMessage(f"{question.kind}: that needs a certificate; enroll first.")


async def _reply(desk: Desk, client: int | None, question: Message) -> Message:
    if client is not None and desk.is_revoked(client):
        return refused(REVOKED)
    if question.kind == "introduce":
        return Message("introduced", {"authority": desk.authority})
    work = asyncio.get_running_loop().run_in_executor
    try:
        if question.kind == "enroll":
            if desk.enroll is None:
                return refused("nobody can enroll here.")
            return await work(desk.worker, desk.enroll, question.head["token"], question.head["csr"])
        if client is None:
            return refused("that needs a certificate; enroll first.")
        return await work(desk.worker, desk.answer, client, question)
    except EnrolmentRefused as error:
        LOG.warning("a stranger does not enroll: %s", error)
        return refused(str(error))
    except OSError as error:
        # What was answered may not have been kept: a server that goes on would promise what it cannot hold.
        if not desk.failed.done():
            desk.failed.set_exception(error)
        return refused("the server has failed and stops; ask again later.", again=True)
    except Exception:
        LOG.exception("the answer to %s of %s failed", question.kind, name_of(client))
        return refused("the server has failed on this message; ask again later.", again=True)


async def _say(desk: Desk, peer: Peer, reply: Message) -> None:
    async with holding(desk, framed(reply)):
        try:
            data = protocol.encode(reply)
        except BadMessage as error:
            LOG.error("an answer to %s is no message: %s", name_of(peer.client), error)
            data = protocol.encode(refused("the server has failed on this message; ask again later.", again=True))
        await write_frame(peer.writer, data, seconds=desk.timeouts.frame)
    count(desk, peer.client, bytes_out=LENGTH_BYTES + len(data), body_out=len(reply.body))
    _spend(desk, peer.client, len(data))


async def _paid(desk: Desk, client: int | None) -> None:
    """Takes one message from a client's allowance and waits until it, and all bytes so far, are paid for."""
    if client is None:
        return
    now = asyncio.get_running_loop().time()
    messages, spent = desk.buckets.get(client) or _full(desk, now)
    messages, wait = limits.take(messages, desk.limits.requests, 1.0, now)
    spent, wait_for_bytes = limits.take(spent, desk.limits.bytes, 0.0, now)
    desk.buckets[client] = (messages, spent)
    if max(wait, wait_for_bytes) > 0.0:
        await asyncio.sleep(max(wait, wait_for_bytes))


def _spend(desk: Desk, client: int | None, size: int) -> None:
    if client is not None:
        now = asyncio.get_running_loop().time()
        messages, spent = desk.buckets.get(client) or _full(desk, now)
        desk.buckets[client] = (messages, limits.take(spent, desk.limits.bytes, size, now)[0])


def _full(desk: Desk, now: float) -> tuple[limits.Bucket, limits.Bucket]:
    return limits.full(desk.limits.requests, now), limits.full(desk.limits.bytes, now)
