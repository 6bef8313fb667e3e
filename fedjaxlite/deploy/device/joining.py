"""A device enrolls, and joins a run: what its owner calls, over TLS with the device's own certificate."""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from fedjaxlite.deploy.device import data as data_files
from fedjaxlite.deploy.device import enrolling, link, program
from fedjaxlite.deploy.device import policy as rules
from fedjaxlite.deploy.device.home import folder
from fedjaxlite.deploy.device.home.folder import Home
from fedjaxlite.deploy.device.policy import Policy, Status
from fedjaxlite.deploy.device.program import Program
from fedjaxlite.deploy.device.work import moving, needs, rehearse
from fedjaxlite.deploy.device.work.loop import Connect, Joined, attend
from fedjaxlite.deploy.device.work.moving import Ask
from fedjaxlite.deploy.device.work.needs import Device, Stopped
from fedjaxlite.transport.credentials import KEY_BYTES, client_context, kept
from fedjaxlite.transport.enrolment import request
from fedjaxlite.transport.whole_file import write_whole


def join(
    home: Home,
    data: str | Path | Mapping[str, np.ndarray],
    *,
    server: str | None = None,
    policy: Policy | None = None,
    status: Callable[[], Status] | None = None,
    rounds: int | None = None,
    connect: Connect | None = None,
    clock: Callable[[], float] = time.time,
    report: Callable[[str], None] = lambda line: None,
) -> Joined:
    """Joins the run of the server at which a device enrolled, until that ends or somebody ends it.

    Args:
      home: the device, from `home.read`.
      data: its examples: a path for `data.read`, or `{name: array [n, ...]}`.
      server: "HOST:PORT", where it moved; None is where the device enrolled.
      policy: its owner's rules; None reads `policy.toml` of its folder.
      status: tells what the device is doing; None asks the policy's `status_command`, and without one says that it is
        idle, charging and on wireless: whoever started it has offered it.
      rounds: how many updates to send at most; None is no limit.
      connect: what carries messages; None is TLS with the device's certificate.
      clock: seconds since 1970.
      report: told a line for every step.

    Returns:
      `Joined`. SIGTERM and Ctrl-C end it between two steps; a second one ends the process.

    Raises:
      RuntimeError: another process uses the folder.
      HomeDamaged, ValueError: the folder, the policy or the data are not what they should be.

    Guarantees:
      No example leaves the device. What leaves is in `log.jsonl` before it does. A client's state changes exactly when
      the server says that the update that came with it is in a sum. An update that was sent is sent again byte for
      byte, or dropped, whatever happened in between.
    """
    allowed = rules.read(home.folder / folder.POLICY) if policy is None else policy
    arrays = dict(data) if isinstance(data, Mapping) else data_files.read(data)
    data_files.count(arrays)
    carried = connector(home, server) if connect is None else connect
    told = status or rules.status_of(allowed)
    with folder.locked(home):
        return asyncio.run(_until_stopped(home, allowed, arrays, told, rounds, carried, clock, report))


def connector(home: Home, server: str | None = None) -> Connect:
    """What opens connections to a device's server: TLS 1.3, with the device's certificate.

    Args:
      home: the device.
      server: "HOST:PORT"; None is where it enrolled.

    Returns:
      A function; each call gives a connection, which breaks once: `attend` begins again with a check-in.
    """
    host, port = address(home.server if server is None else server)
    context = client_context(kept(home.folder))

    @contextlib.asynccontextmanager
    async def connect() -> AsyncGenerator[Ask]:
        line = link.link_to(host, port, context, random=random.random, backoff=link.Backoff(tries=1))
        try:
            yield partial(link.ask, line)
        finally:
            await link.close(line)

    return connect


def enroll(where: str | os.PathLike[str], server: str, token: str) -> Home:
    """Makes a folder into a device: a key of its own, and the server's certificate for it.

    Args:
      where: the folder; it may exist, but holds no device yet.
      server: "HOST:PORT".
      token: from the server's owner; good for one device.

    Returns:
      `Home`, with a `policy.toml` beside that says what may be set.

    Raises:
      FileExistsError: a device lives there already.
      EnrolmentRefused, ServerRefuses, BadMessage: the token, or the server, is not what it should be.
      OSError: no connection.

    Guarantees:
      The private key never leaves the folder. A try that broke after the token was spent is gone on with.
    """
    path, unfinished = Path(where), Path(where) / "enrolling"
    if (path / folder.ABOUT).exists():
        raise FileExistsError(f"{str(path)!r} is a device's folder already; give another one, or remove it.")
    host, port = address(server)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not unfinished.exists():
        write_whole(unfinished, os.urandom(KEY_BYTES))
    private = unfinished.read_bytes()
    asked = request(lambda size: private)
    who = asyncio.run(enrolling.enroll(host, port, token, random=random.random, asked=asked))
    home = folder.write(path, client=who.client, server=server, program=who.program, credentials=who.credentials)
    if not (path / folder.POLICY).exists():
        write_whole(path / folder.POLICY, rules.TEMPLATE.encode())
    unfinished.unlink()
    return home


def program_for(
    home: Home,
    path: str | os.PathLike[str] | None = None,
    *,
    connect: Connect | None = None,
    clock: Callable[[], float] = time.time,
) -> Program:
    """The program that a device would run, before it does: from a file, from its folder, or from its server.

    Args:
      home: the device.
      path: a file that its owner was given; None looks in the folder, and then asks the server for the pinned one.
      connect: what carries messages; None is TLS with the device's certificate.
      clock: seconds since 1970.

    Returns:
      `Program`. It lies in the folder from then on, unless it came from a file.

    Raises:
      ProgramRefused: it is another program than the pinned one, or none.
      ValueError: nothing says which program it is.
      ServerRefuses, ServerMisbehaves, OSError: the server does not give it.
    """
    ready = rehearse.program_of(home, path)
    if ready is not None:
        return ready
    if not home.program:
        raise ValueError(
            "this device has agreed to no program yet: the first task will bring one. Give the file of one that you "
            "were told of."
        )
    most = rules.read(home.folder / folder.POLICY).most_program_bytes

    async def fetched() -> bytes:
        async with (connector(home) if connect is None else connect)() as ask:
            return await moving.fetch(moving.told(ask, home, clock), home.program, None, most=most)

    content = asyncio.run(fetched())
    ready = program.load(content, sha256=home.program, most_bytes=most)
    write_whole(needs.program_path(home, home.program), content)
    return ready


def address(server: str) -> tuple[str, int]:
    """Host and port of "HOST:PORT".

    Raises:
      ValueError: it is something else.

    Example:
      >>> address("example.org:7000"), address("[::1]:7000")
      (('example.org', 7000), ('::1', 7000))
    """
    host, _, port = server.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError(f"the server is {server!r}; expected HOST:PORT, such as example.org:7000.")
    return host.removeprefix("[").removesuffix("]"), int(port)


async def _until_stopped(
    home: Home,
    policy: Policy,
    arrays: Mapping[str, np.ndarray],
    status: Callable[[], Status],
    rounds: int | None,
    connect: Connect,
    clock: Callable[[], float],
    report: Callable[[str], None],
) -> Joined:
    stop = asyncio.Event()

    async def wait(seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await stop.wait()
        if stop.is_set():
            raise Stopped

    device = Device(home, policy, arrays, status, clock, wait, report, {})
    with _signals(stop, report):
        return await attend(device, connect, rounds=rounds)


@contextlib.contextmanager
def _signals(stop: asyncio.Event, report: Callable[[str], None]) -> Generator[None]:
    """SIGTERM and Ctrl-C set an event, once; where signals cannot be caught (another thread), nothing is changed."""
    loop, caught = asyncio.get_running_loop(), (signal.SIGTERM, signal.SIGINT)

    def release() -> None:
        for number in caught:
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.remove_signal_handler(number)

    def heard() -> None:
        report("ending after this step; once more to end at once")
        release()
        stop.set()

    for number in caught:
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, heard)
    try:
        yield
    finally:
        release()
