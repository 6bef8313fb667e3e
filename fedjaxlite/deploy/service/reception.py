"""Who is let in: connections are counted, shake hands in bounded time and number, and show a certificate or none."""

import asyncio
import socket

from fedjaxlite.deploy.service.attending import REVOKED, Peer, attend, name_of, turn_away
from fedjaxlite.deploy.service.desk import LOG, Desk, Line, count, dismiss
from fedjaxlite.transport import limits
from fedjaxlite.transport.credentials import client_id
from fedjaxlite.transport.errors import TransportError
from fedjaxlite.transport.frames import hang_up

_BUFFER = 2**16


async def receive(desk: Desk, listener: socket.socket) -> None:
    """Accepts connections and serves each in a task of its own, until it is cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        await _make_room(desk)
        try:
            connection, address = await loop.sock_accept(listener)
        except OSError as error:  # too many files are open, or the peer is gone already
            LOG.warning("a connection could not be accepted: %s", error)
            await asyncio.sleep(0.1)
            continue
        where = str(address[0])
        reason = limits.turned_away(desk.limits, connections=len(desk.tasks), from_address=desk.addresses.get(where, 0))
        if reason:
            LOG.info("a connection from %s is turned away: %s", where, reason)
            connection.close()
            continue
        desk.addresses[where] = desk.addresses.get(where, 0) + 1
        task = asyncio.create_task(_serve_one(desk, connection, where))
        desk.tasks.add(task)
        desk.handshakes[task] = loop.time()
        task.add_done_callback(lambda task, where=where: _leave(desk, task, where))


def look_for_revoked(desk: Desk) -> None:
    """Hangs up on clients that were revoked since they connected."""
    for client in list(desk.lines):
        if desk.is_revoked(client):
            dismiss(desk, client, REVOKED, again=False)


def _leave(desk: Desk, task: "asyncio.Task[None]", where: str) -> None:
    desk.tasks.discard(task)
    desk.handshakes.pop(task, None)
    desk.strangers.discard(task)
    left = desk.addresses[where] - 1
    if left:
        desk.addresses[where] = left
    else:
        del desk.addresses[where]
    if not task.cancelled() and task.exception() is not None:
        LOG.error("a connection from %s ends with a mistake of the server's", where, exc_info=task.exception())


async def _make_room(desk: Desk) -> None:
    """Waits while too many are in their handshake; after a while the oldest of them, which is stuck, gives way."""
    loop = asyncio.get_running_loop()
    while len(desk.handshakes) >= desk.limits.handshakes:
        oldest = min(desk.handshakes, key=lambda task: desk.handshakes[task])
        if loop.time() - desk.handshakes[oldest] >= desk.limits.grace:
            del desk.handshakes[oldest]
            oldest.cancel()
        else:
            await asyncio.sleep(min(0.05, desk.limits.grace))


async def _serve_one(desk: Desk, connection: socket.socket, where: str) -> None:
    """One connection, from its handshake to its end."""
    me = asyncio.current_task()
    if me is None:
        raise RuntimeError("connections are served in tasks.")
    client, writer = None, None
    try:
        reader, writer = await _shaken(desk, connection)
        desk.handshakes.pop(me, None)
        client = _client_of(writer)
        await _let_in(desk, Peer(client, reader, writer), me)
    except (OSError, EOFError, TimeoutError, TransportError) as error:  # ssl.SSLError is an OSError
        LOG.info("the connection of %s from %s ends: %s %s", name_of(client), where, type(error).__name__, error)
    finally:
        if client is not None and client in desk.lines and desk.lines[client].task is me:
            del desk.lines[client]
        if writer is None:
            connection.close()
        else:
            await hang_up(writer)


async def _shaken(desk: Desk, connection: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_BUFFER, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await loop.connect_accepted_socket(
        lambda: protocol,
        connection,
        ssl=desk.context,
        ssl_handshake_timeout=desk.timeouts.connect,
        ssl_shutdown_timeout=2.0,
    )
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


def _client_of(writer: asyncio.StreamWriter) -> int | None:
    """The id in a verified certificate; None without one. UnknownPeer where it names no client: the server's own."""
    certificate = writer.get_extra_info("peercert")
    return client_id(certificate) if certificate else None


async def _let_in(desk: Desk, peer: Peer, me: "asyncio.Task[None]") -> None:
    client = peer.client
    count(desk, client, connections=1)
    if client is None and len(desk.strangers) >= desk.limits.strangers:
        await turn_away(desk, peer, "too many enroll at once; ask again later.", again=True)
    elif client is None:
        desk.strangers.add(me)
        await attend(desk, peer)
    elif desk.is_revoked(client):
        await turn_away(desk, peer, REVOKED, again=False)
    else:
        dismiss(desk, client, "the same client has opened another connection.", again=True)
        desk.lines[client] = Line(peer.writer, me)
        await attend(desk, peer)
