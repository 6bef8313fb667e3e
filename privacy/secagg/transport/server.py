"""The server of a secure sum over TCP: one round, with whoever connects, stays and keeps to the protocol."""

import asyncio
import logging
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from fedjaxlite.privacy.secagg import keys, messages
from fedjaxlite.privacy.secagg.errors import (
    NOBODY,
    SERVER,
    Duplicate,
    Malformed,
    SecureAggregationError,
    UnknownClient,
    party,
)
from fedjaxlite.privacy.secagg.keys import Primitives
from fedjaxlite.privacy.secagg.messages import Abort, Message
from fedjaxlite.privacy.secagg.parameters import Parameters
from fedjaxlite.privacy.secagg.parties import server
from fedjaxlite.privacy.secagg.parties.server_state import RoundResult, ServerState
from fedjaxlite.privacy.secagg.transport.terms import client_id, read_frame, reason
from fedjaxlite.transport.frames import Timeouts, hang_up, write_frame

logger = logging.getLogger(__name__)

# A connection is closed after so many messages that were refused.
MAX_STRIKES = 8


class _Received(NamedTuple):
    """A message that waits to be counted, or None for a connection that ended; its reader goes on once it is `seen`."""

    name: int
    message: Message | None
    seen: asyncio.Event


class _Desk(NamedTuple):
    """What the connections of a round share."""

    parameters: Parameters
    cohort: frozenset[int]
    timeouts: Timeouts
    primitives: Primitives
    inbox: asyncio.Queue[_Received]
    links: dict[int, asyncio.StreamWriter]
    gone: set[int]
    strikes: dict[int, int]
    tasks: set[asyncio.Task[None]]


async def serve_round(
    parameters: Parameters,
    *,
    round_number: int,
    cohort: Sequence[int],
    context: ssl.SSLContext,
    known: Mapping[int, bytes] | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    timeouts: Timeouts = Timeouts(),  # noqa: B008  (a NamedTuple of numbers)
    primitives: Primitives | None = None,
    on_listening: Callable[[int], None] | None = None,
) -> RoundResult:
    """Serves one round and closes.

    Args:
      parameters: what was agreed on.
      round_number: the round's number.
      cohort: ids of the clients that may take part.
      context: from `server_context`.
      known: {id: Ed25519 public key}, where the server may lie and keys are signed.
      host: the address to listen on.
      port: the port; 0 takes any that is free.
      timeouts: how long anything is waited for.
      primitives: the cryptography; `keys.real()` when left out.
      on_listening: called with the port once clients can connect.

    Returns:
      The result. What was refused is logged, and counted in its `refusals` where it came from a client of the cohort.

    Raises:
      TooFew, BadShares: the round cannot be opened; all clients are told.

    Guarantees:
      A message counts only if it came over a connection whose certificate names its sender. Whatever arrives, memory
      stays below one frame of the longest kind for each client that is connected, and no message ends the round.
    """
    state = server.start(parameters, round_number=round_number, cohort=cohort, known=known)
    desk = _Desk(parameters, state.cohort, timeouts, primitives or keys.real(), asyncio.Queue(), {}, set(), {}, set())

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_attend(desk, reader, writer))
        desk.tasks.add(task)
        task.add_done_callback(desk.tasks.discard)

    listener = await asyncio.start_server(connected, host, port, ssl=context, ssl_handshake_timeout=timeouts.connect)
    try:
        if on_listening is not None:
            on_listening(listener.sockets[0].getsockname()[1])
        return await _play(desk, state)
    except SecureAggregationError as error:
        logger.error("round %d ends without a result: %s", round_number, reason(error))
        blame = NOBODY if error.offender is None else error.offender
        told = Abort(round_number, SERVER, blame, f"{type(error).__name__}: {error}")
        await _send(desk, dict.fromkeys(desk.links, told))
        raise
    finally:
        listener.close()
        for task in desk.tasks:
            task.cancel()
        await asyncio.gather(*desk.tasks, return_exceptions=True)
        await listener.wait_closed()


async def _play(desk: _Desk, state: ServerState) -> RoundResult:
    while state.result is None:
        stage, state = state.stage, await _collect(desk, state)
        missing = sorted(server.waiting(state))
        logger.info("round %d, %s: closed without %s", state.round, stage, missing or "anybody missing")
        state, outgoing = server.close(state, primitives=desk.primitives)
        await _send(desk, outgoing)
    return state.result


async def _collect(desk: _Desk, state: ServerState) -> ServerState:
    """Takes messages until all who are still connected have answered, or the stage's time is over."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + desk.timeouts.stage
    while server.waiting(state) - desk.gone and loop.time() < deadline:
        try:
            async with asyncio.timeout_at(deadline):
                received = await desk.inbox.get()
        except TimeoutError:
            break
        state = _count(desk, state, received)
        received.seen.set()
    return state


def _count(desk: _Desk, state: ServerState, received: _Received) -> ServerState:
    """The state with a message in it, or with the refusal of it."""
    name, message = received.name, received.message
    if message is None:
        desk.gone.add(name)
        return state
    if isinstance(message, Abort):
        logger.warning("%s leaves round %d: %s", party(name), state.round, message.reason)
        desk.gone.add(name)
        return state
    try:
        return server.receive(state, message, primitives=desk.primitives)
    except SecureAggregationError as error:
        _strike(desk, name, error)
        return server.refuse(state, error)


async def _attend(desk: _Desk, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serves one connection, from the handshake on."""
    name = None
    try:
        name = _admit(desk, writer)
        desk.links[name] = writer
        await _listen(desk, name, reader)
    except (SecureAggregationError, OSError, EOFError, TimeoutError) as error:
        peer = party(name) if name is not None else writer.get_extra_info("peername")
        logger.info("connection of %s ends: %s", peer, reason(error))
    finally:
        if name is not None:
            del desk.links[name]
            desk.inbox.put_nowait(_Received(name, None, asyncio.Event()))
        await hang_up(writer)


def _admit(desk: _Desk, writer: asyncio.StreamWriter) -> int:
    """The client at the other end, by its certificate; one connection each, and none for those who left."""
    name = client_id(writer.get_extra_info("peercert"))
    if name not in desk.cohort:
        raise UnknownClient(f"{party(name)} is not in the round.", offender=name)
    if name in desk.links or name in desk.gone:
        raise Duplicate(f"{party(name)} connects a second time.", offender=name)
    return name


async def _listen(desk: _Desk, name: int, reader: asyncio.StreamReader) -> None:
    """Passes a client's messages on, the next one once the last was counted."""
    limits = messages.limits(desk.parameters)
    longest = max(messages.longest(kind, limits) for kind in messages.FROM_CLIENT)
    while desk.strikes.get(name, 0) < MAX_STRIKES:
        data = await read_frame(reader, longest=longest, seconds=desk.timeouts.frame)
        try:
            message = messages.decode_from(name, data, limits)
        except SecureAggregationError as error:
            _strike(desk, name, error)
            continue
        received = _Received(name, message, asyncio.Event())
        desk.inbox.put_nowait(received)
        await received.seen.wait()
    raise Malformed(f"{party(name)} has sent {MAX_STRIKES} messages that were refused.", offender=name)


def _strike(desk: _Desk, name: int, error: SecureAggregationError) -> None:
    desk.strikes[name] = desk.strikes.get(name, 0) + 1
    logger.warning("refused a message of %s: %s", party(name), reason(error))


async def _send(desk: _Desk, outgoing: Mapping[int, Message]) -> None:
    """Sends everybody its message, at once; who does not take it is gone."""

    async def one(name: int, message: Message) -> None:
        writer = desk.links.get(name)
        if writer is None:
            return
        try:
            await write_frame(writer, messages.encode(message), seconds=desk.timeouts.frame)
        except (OSError, TimeoutError) as error:
            logger.info("%s does not take its message: %s", party(name), reason(error))
            desk.gone.add(name)

    await asyncio.gather(*(one(name, message) for name, message in outgoing.items()))
