"""A server that runs: the state machine, its disk, a clock, and the service that carries messages."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fedjaxlite import storage
from fedjaxlite.deploy import service
from fedjaxlite.deploy.device.protocol import CHUNK, Message
from fedjaxlite.deploy.server import masked
from fedjaxlite.deploy.server.answering import answer, tick
from fedjaxlite.deploy.server.building import reading
from fedjaxlite.deploy.server.disk.journal import Journal, carry_out, open_at
from fedjaxlite.deploy.server.disk.resuming import resume
from fedjaxlite.deploy.server.state import Effects, Record, ServerHalf, ServerState
from fedjaxlite.deploy.service.desk import Counters
from fedjaxlite.deploy.service.serving import PATIENT
from fedjaxlite.transport import authority as authorities
from fedjaxlite.transport import server_context
from fedjaxlite.transport.credentials import public_of
from fedjaxlite.transport.frames import Timeouts
from fedjaxlite.transport.limits import Limits

LOG = logging.getLogger("fedjaxlite.deploy")


class Running(NamedTuple):
    """The one writer of a server's state: what `service.serve` is given.

    Attributes:
      answer: `answer(client, message) -> Message`.
      tick: `tick()`.
      state: `state()`, the newest.
    """

    answer: Callable[[int, Message], Message]
    tick: Callable[[], None]
    state: Callable[[], ServerState]


def running(
    server: ServerHalf,
    journal: Journal,
    *,
    clock: Callable[[], float] = time.monotonic,
    known: Callable[[], Mapping[int, bytes]] | None = None,
    evaluate: Callable[[Any], Mapping[str, float]] | None = None,
    on_record: Callable[[Mapping[str, Any]], None] = lambda record: None,
) -> Running:
    """A server that goes on from its journal and writes to it.

    Args:
      server: what `fl.deploy.Server` returned.
      journal: of this run.
      clock: seconds; it does not go back.
      known: {client: Ed25519 public key} of those who are enrolled, for a masked run whose server may lie; asked before
        every message that counts keys.
      evaluate: `evaluate(params) -> {name: number}` of the server's own, for every record.
      on_record: told every record, once it is written.

    Returns:
      Running. Its functions are called one at a time.

    Guarantees:
      A reply is returned once all that it promises is on the disk; where that fails, OSError is raised, and the state
      stays the one before.
    """
    server = reading(server, journal.read)
    at = [resume(server, journal, clock())]
    params_of = server.template.program.algorithm.params

    def carried(state: ServerState, effects: Effects) -> None:
        told = []
        for effect in effects:
            if isinstance(effect, Record):
                own = {} if evaluate is None else evaluate(params_of(state.rounds.server_state))
                told.append(effect := Record({**effect.record, **own}))
            carry_out(journal, (effect,))
        at[0] = state
        for record in told:
            on_record(record.record)

    LOG.info("%d rounds are done, attempt %d is at hand", at[0].number, at[0].attempt)

    def answered(client: int, message: Message) -> Message:
        now_known = server if known is None or message.kind != "secure" else server._replace(known=known())
        state, reply, effects = answer(now_known, at[0], client, message, clock())
        carried(state, effects)
        return reply

    def ticked() -> None:
        state, effects = tick(server, at[0], clock())
        carried(state, effects)

    return Running(answered, ticked, lambda: at[0])


async def serve(
    server: ServerHalf,
    folder: str | os.PathLike[str],
    authority: str | os.PathLike[str],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    limits: Limits = Limits(),  # noqa: B008  (a NamedTuple of numbers)
    timeouts: Timeouts = PATIENT,
    enrolls: bool = True,
    every: float = 0.5,
    stay: float = 60.0,
    stop: asyncio.Event | None = None,
    on_listening: Callable[[int], None] | None = None,
    evaluate: Callable[[Any], Mapping[str, float]] | None = None,
    on_record: Callable[[Mapping[str, Any]], None] = lambda record: None,
) -> ServerState:
    """Serves a run to its end, and goes on with it where it was begun before.

    Args:
      server: what `fl.deploy.Server` returned.
      folder: of the run alone: checkpoints, uploads, records. The run goes on from what is there.
      authority: the folder of `transport.authority`, which names the clients.
      host: the address to listen on.
      port: the port; 0 takes any that is free.
      limits: what peers may ask for.
      timeouts: how long they may take.
      enrolls: whether clients with a token are enrolled here.
      every: seconds between two looks at the deadlines.
      stay: seconds without a question after which a finished run's server ends: by then all have heard of the end.
      stop: ends the server earlier; nothing is lost.
      on_listening: called with the port once clients can connect.
      evaluate: `evaluate(params) -> {name: number}` on the server's own data, for every record.
      on_record: told every record, once it is written.

    Returns:
      The last state.

    Raises:
      RuntimeError: another process serves from this folder. ValueError: the folder is of another run.
      OSError: it cannot listen there, or the disk fails.
    """
    home, authority = Path(folder).expanduser().resolve(), Path(authority)
    counters: dict[int, Counters] = {}
    home.mkdir(parents=True, exist_ok=True)
    stop = asyncio.Event() if stop is None else stop
    with storage.locked(home / "lock", lambda who: f"{str(home)!r} is served by another process already ({who})."):
        journal = open_at(home, keep=server.settings.keep, more=_wire(counters))
        known = _known(authority) if server.secure is not None and server.secure.server == "lying" else None
        at = await asyncio.to_thread(running, server, journal, known=known, evaluate=evaluate, on_record=on_record)
        num_clients = server.template.population.num_clients
        program = server.program.sha256 if server.program.size else ""
        enroll = service.enrolling(authority, most=num_clients, program=lambda: program) if enrolls else None
        loop = asyncio.get_running_loop()
        asked = [loop.time()]

        def answered(client: int, message: Message) -> Message:
            asked[0] = loop.time()
            return at.answer(client, message)

        def ticked() -> None:
            at.tick()
            if at.state().phase == "finished" and loop.time() - asked[0] > stay:
                loop.call_soon_threadsafe(stop.set)

        await service.serve(
            server_context(authorities.server_credentials(authority), strangers=enrolls),
            answered,
            enroll,
            host=host,
            port=port,
            limits=limits,
            timeouts=timeouts,
            most_body=max(CHUNK, masked.most_body(server)),
            is_revoked=lambda client: authorities.is_revoked(authority, client),
            tick=ticked,
            every=every,
            counters=counters,
            stop=stop,
            on_listening=on_listening,
        )
    return at.state()


def _wire(counters: Mapping[int, Counters]) -> Callable[[], dict[str, int]]:
    """What crossed the wire since the last record, as bytes of frames before TLS."""
    before = [0, 0]

    def since() -> dict[str, int]:
        rows = list(counters.values())
        now = [sum(row.bytes_in for row in rows), sum(row.bytes_out for row in rows)]
        told = {"wire_up": now[0] - before[0], "wire_down": now[1] - before[1]}
        before[:] = now
        return told

    return since


def _known(authority: Path) -> Callable[[], dict[int, bytes]]:
    """The public keys of all who are enrolled, read again where there are more."""
    found: dict[int, bytes] = {}

    def keys() -> dict[int, bytes]:
        enrolled: dict[int, Any] = authorities.clients(authority)
        for client in enrolled.keys() - found.keys():
            found[client] = public_of((authority / "clients" / f"{client}.pem").read_bytes())
        return dict(found)

    return keys
