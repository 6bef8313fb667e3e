"""A server from its start to its end."""

import asyncio
import signal
import socket
import ssl
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from fedjaxlite.deploy.device.protocol import CHUNK
from fedjaxlite.deploy.service.desk import LOG, Answer, Counters, Desk, Enroll, Memory, dismiss
from fedjaxlite.deploy.service.reception import look_for_revoked, receive
from fedjaxlite.transport.frames import Timeouts
from fedjaxlite.transport.limits import Limits

# A client may be silent for a quarter of an hour: it waits for its turn, as it was told.
PATIENT = Timeouts(connect=10.0, stage=900.0, frame=30.0)
_LAST_WORDS = 5.0


async def serve(
    context: ssl.SSLContext,
    answer: Answer,
    enroll: Enroll | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    limits: Limits = Limits(),  # noqa: B008  (a NamedTuple of numbers)
    timeouts: Timeouts = PATIENT,
    most_body: int = CHUNK,
    is_revoked: Callable[[int], bool] = lambda client: False,
    tick: Callable[[], None] | None = None,
    every: float = 1.0,
    counters: dict[int, Counters] | None = None,
    stop: asyncio.Event | None = None,
    on_listening: Callable[[int], None] | None = None,
) -> None:
    """Serves clients until it is told to stop.

    Args:
      context: from `transport.server_context(..., strangers=True)` where clients may enroll, else without.
      answer: `answer(client, message) -> Message`, the state's one writer: it is called in one thread of its own, never
        twice at once, and may take long. A question may come twice, and has to be answered alike.
      enroll: `enroll(token, csr) -> Message`, in the same thread; it may raise EnrolmentRefused. None: nobody enrolls.
      host: the address to listen on.
      port: the port; 0 takes any that is free.
      limits: what peers may ask for.
      timeouts: how long they may take: `connect` for the handshake, `stage` between two questions, `frame` for the
        rest of one and for taking its answer.
      most_body: the most bytes of a body of `secure`.
      is_revoked: whether a client is let in no longer; asked when it connects, with every question,
        and `every` so many seconds for those who say nothing.
      tick: called in the same thread as `answer`, `every` so many seconds.
      every: seconds.
      counters: {client: Counters}, which is filled as messages cross; -1 for all who have no certificate.
      stop: ends the server once it is set: clients are told, and what `answer` does is done to its end.
      on_listening: called with the port once clients can connect.

    Raises:
      OSError: it cannot listen there, or `answer` or `tick` failed with it: its state can no longer be kept.

    Guarantees:
      Whatever arrives, other clients are served, memory stays below the bounds of this room's docstring, and no
      message gets to `answer` that is not one of the protocol, from the client that its certificate names.
    """
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=min(1024, limits.connections))
    listener.setblocking(False)
    worker = ThreadPoolExecutor(1, "fedjaxlite-answers")
    (authority, *_) = context.get_ca_certs(binary_form=True)
    desk = Desk(
        context,
        answer,
        enroll,
        is_revoked,
        limits,
        timeouts,
        most_body,
        ssl.DER_cert_to_PEM_cert(authority),
        worker,
        {} if counters is None else counters,
        lines={},
        buckets={},
        addresses={},
        handshakes={},
        strangers=set(),
        tasks=set(),
        memory=Memory([0], asyncio.Condition()),
        failed=loop.create_future(),
    )
    stop = stop or asyncio.Event()
    running = [
        asyncio.create_task(work)
        for work in (receive(desk, listener), _tick(desk, tick, every), _watch(desk, every), stop.wait())
    ]
    try:
        if on_listening is not None:
            on_listening(listener.getsockname()[1])
        done, _ = await asyncio.wait([*running, desk.failed], return_when=asyncio.FIRST_COMPLETED)
        for ended in done:
            ended.result()
    finally:
        await _end(desk, listener, running)


def stop_on_signals(stop: asyncio.Event) -> None:
    """Sets an event on SIGTERM and SIGINT, in the running loop: for the `stop` of `serve`."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, stop.set)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))


async def _tick(desk: Desk, tick: Callable[[], None] | None, every: float) -> None:
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(every)
        if tick is not None:
            await loop.run_in_executor(desk.worker, tick)


async def _watch(desk: Desk, every: float) -> None:
    while True:
        await asyncio.sleep(every)
        look_for_revoked(desk)


async def _end(desk: Desk, listener: socket.socket, running: "Sequence[asyncio.Task[bool | None]]") -> None:
    """Nobody is let in; clients are told; the worker does what it is at; connections are closed."""
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    listener.close()
    LOG.info("the server stops with %d connections", len(desk.tasks))
    told = {line.task for line in desk.lines.values()}
    for client in list(desk.lines):
        dismiss(desk, client, "the server stops; ask again later.", again=True)
    for task in desk.tasks - told:
        task.cancel()
    if desk.tasks:
        await asyncio.wait(list(desk.tasks), timeout=_LAST_WORDS)
    desk.worker.shutdown(wait=False, cancel_futures=True)
    await asyncio.to_thread(desk.worker.shutdown, wait=True)
    if desk.failed.done():
        desk.failed.exception()  # it was raised, or something else was first
    else:
        desk.failed.cancel()
