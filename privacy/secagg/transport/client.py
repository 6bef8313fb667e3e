"""A client of a secure sum over TCP: it connects, takes its steps as the server asks, and leaves."""

import asyncio
import ssl
from collections.abc import Callable

from fedjaxlite.privacy.secagg import keys, messages
from fedjaxlite.privacy.secagg.errors import NOBODY, RoundAborted, SecureAggregationError
from fedjaxlite.privacy.secagg.keys import Primitives
from fedjaxlite.privacy.secagg.masking import Words
from fedjaxlite.privacy.secagg.messages import Abort, Message
from fedjaxlite.privacy.secagg.parameters import Parameters
from fedjaxlite.privacy.secagg.parties import client
from fedjaxlite.privacy.secagg.parties.client_state import Identity
from fedjaxlite.privacy.secagg.parties.driver import answer
from fedjaxlite.privacy.secagg.transport.terms import SERVER_NAME, read_frame
from fedjaxlite.transport.frames import Timeouts, hang_up, write_frame


async def take_part(
    parameters: Parameters,
    vector: Words,
    *,
    round_number: int,
    me: int,
    context: ssl.SSLContext,
    host: str,
    port: int,
    identity: Identity | None = None,
    timeouts: Timeouts = Timeouts(),  # noqa: B008  (a NamedTuple of numbers)
    primitives: Primitives | None = None,
    on_sent: Callable[[Message], None] | None = None,
) -> None:
    """Takes part in one round, to its end.

    Args:
      parameters: what was agreed on.
      vector: uint32 `[length]`.
      round_number: the round's number.
      me: the client's id, as in its certificate.
      context: from `client_context`.
      host: the server's address.
      port: the server's port.
      identity: who the client is, where the server may lie.
      timeouts: how long anything is waited for.
      primitives: the cryptography; `keys.real()` when left out.
      on_sent: called with every message that was sent.

    Raises:
      SecureAggregationError: the client refuses, after telling the server why; or the server left the round.
      OSError, EOFError: no connection, or none any longer.
      TimeoutError: the server was silent for too long.
    """
    primitives = primitives or keys.real()
    limits = messages.limits(parameters)
    longest = max(messages.longest(kind, limits) for kind in messages.FROM_SERVER)
    async with asyncio.timeout(timeouts.connect):
        reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=SERVER_NAME)

    async def send(message: Message) -> None:
        await write_frame(writer, messages.encode(message), seconds=timeouts.frame)
        if on_sent is not None:
            on_sent(message)

    try:
        state, message = client.advertise(
            parameters, round_number=round_number, me=me, identity=identity, primitives=primitives
        )
        await send(message)
        while state.stage != "revealed":
            async with asyncio.timeout(timeouts.patience):
                data = await read_frame(reader, longest=longest, seconds=timeouts.frame)
            state, message = answer(state, messages.decode(data, limits), vector, primitives=primitives)
            await send(message)
    except RoundAborted:
        raise
    except SecureAggregationError as error:
        blame = NOBODY if error.offender is None else error.offender
        await send(Abort(round_number, me, blame, f"{type(error).__name__}: {error}"))
        raise
    finally:
        await hang_up(writer)
