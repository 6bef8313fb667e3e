"""The loop of a device: it checks in, waits, does what it is asked for and agrees to, and comes back.

It can be ended, killed and started again at any point: what it has to know lies in its folder, and an update that was
sent is settled by the server's word at the next check-in.
"""

import contextlib
import random
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple

from fedjaxlite.deploy.device.home import folder, ledger, states
from fedjaxlite.deploy.device.link import ServerRefuses
from fedjaxlite.deploy.device.protocol import BadMessage, Message
from fedjaxlite.deploy.device.work import moving, tasks
from fedjaxlite.deploy.device.work.moving import Ask, ServerMisbehaves
from fedjaxlite.deploy.device.work.needs import Device, Refused, Stopped
from fedjaxlite.transport.errors import TransportError

Connect = Callable[[], AbstractAsyncContextManager[Ask]]
_SHORTEST, _LONGEST = 0.05, 3600.0
_HANG_UP = 30.0
"""A longer wait is spent without a connection: a server of many devices has no line for each."""
_MOST_REASONS = 100
_TROUBLES = (
    *(Refused, ServerRefuses, ServerMisbehaves, BadMessage, TransportError),
    *(OSError, EOFError, TimeoutError),
)


class Joined(NamedTuple):
    """What came of it.

    Attributes:
      trained: updates that the server took.
      counted: updates that it has told to be in a sum.
      evaluated: evaluations that it took.
      refused: why this device refused tasks, a text each; the last hundred.
      failures: connections, and answers, that failed.
      ended: why it ended: "finished" (the run did), "enough rounds", "stopped", or the server's reason.
    """

    trained: int = 0
    counted: int = 0
    evaluated: int = 0
    refused: tuple[str, ...] = ()
    failures: int = 0
    ended: str = ""


async def attend(device: Device, connect: Connect, *, rounds: int | None = None) -> Joined:
    """The loop of `join`: check in, do, wait, with longer and longer waits where something is in the way.

    Args:
      device: who joins; its folder is locked.
      connect: gives a connection.
      rounds: how many updates to send at most.

    Returns:
      `Joined`.
    """
    told, troubles = Joined(), 0
    with contextlib.suppress(Stopped):
        while not told.ended:
            in_the_way, pause = _own_reason(device), 0.0
            if in_the_way:
                device.report(f"waiting: {in_the_way}")
                troubles += 1
                await device.wait(backoff(troubles))
                continue
            arrived = False
            try:
                async with connect() as ask:
                    while not told.ended and pause <= _HANG_UP:
                        await device.wait(pause)
                        device, arrived = device._replace(home=folder.read(device.home.folder)), False
                        reply = await _check_in(device, ask)
                        told, arrived = _settled(device, reply, told), True
                        if reply.kind == "task":
                            await _do(device, ask, reply.head)
                            told = _done(told, reply.head["what"], rounds)
                        troubles = 0
                        pause = _pause(reply)
            except _TROUBLES as error:
                told = _noted(device, told, error, final=not arrived)
                troubles += 1
                pause = backoff(troubles)
            if not told.ended:
                await device.wait(pause)
    return told if told.ended else told._replace(ended="stopped")


def _pause(reply: Message) -> float:
    """Seconds until the next check-in, as the server says, within bounds."""
    return min(max(reply.head["seconds"], _SHORTEST), _LONGEST) if reply.kind == "wait" else 0.0


async def _do(device: Device, ask: Ask, task: Mapping[str, Any]) -> None:
    """A task; where the device refuses it, the server hears so, and not why: that is the owner's."""
    try:
        await tasks.do(device, ask, task)
    except Refused:
        head = {"round": task["round"], "attempt": task["attempt"], "reason": "the device does not take the task"}
        with contextlib.suppress(ServerRefuses, BadMessage, TransportError, OSError, EOFError, TimeoutError):
            await moving.told(ask, device.home, device.clock)(Message("failed", head, b""))
        raise


def _done(told: Joined, what: str, rounds: int | None) -> Joined:
    if what == "evaluate":
        return told._replace(evaluated=told.evaluated + 1)
    trained = told.trained + 1
    return told._replace(trained=trained, ended="enough rounds" if trained == rounds else "")


def _noted(device: Device, told: Joined, error: Exception, *, final: bool) -> Joined:
    """What went wrong, in the ledger, before the owner, and in what is returned.

    A check-in that is refused for good ends it; a task that is does not: another one will come.
    """
    if isinstance(error, Refused):
        ledger.record(device.log, device.clock(), "refused", {"reason": str(error)})
        device.report(f"refused: {error}")
        return told._replace(refused=(*told.refused, str(error))[-_MOST_REASONS:])
    told = told._replace(failures=told.failures + 1)
    if isinstance(error, ServerRefuses):
        device.report(f"the server refuses: {error}")
        return told._replace(ended=str(error)) if final and not error.again else told
    device.report(f"no luck: {type(error).__name__}: {error}")
    return told


async def _check_in(device: Device, ask: Ask) -> Message:
    pending, now = states.pending(device.home), device.status()
    head: dict[str, Any] = {
        "pending": -1 if pending is None else pending.round,
        "attempt": 0 if pending is None else pending.attempt,
        "num_examples": device.num_examples,
        **now._asdict(),
        "program": device.home.program,
    }
    asked = moving.told(ask, device.home, device.clock)
    return moving.of_kind(await asked(Message("check_in", head, b"")), "wait", "task", "finished")


def _settled(device: Device, reply: Message, told: Joined) -> Joined:
    """Takes the server's word on the update that was sent."""
    settled, counted = reply.head["settled"], reply.head["counted"]
    if settled != -1:
        pending = states.pending(device.home)
        if pending is None or pending.round != settled:
            raise ServerMisbehaves(f"the server settles an update of round {settled}, which this device has not sent.")
        states.settle(device.home, settled, counted)
        device.report(f"round {settled}: the update {'counted' if counted else 'did not count'}")
        told = told._replace(counted=told.counted + counted)
    return told._replace(ended="finished") if reply.kind == "finished" else told


def _own_reason(device: Device) -> str | None:
    """Why the owner's rules would refuse any task: then the server is not even told that the device is there."""
    return tasks.verdict(device, None, None, goes_on=states.pending(device.home) is not None)


def backoff(troubles: int, *, draw: Callable[[], float] = random.random) -> float:
    """Seconds to wait after so many failures in a row: 1, 2, 4 ... 300, less a part that is drawn.

    Devices that failed together do not come back together.

    Example:
      >>> [backoff(n, draw=lambda: 1.0) for n in (1, 2, 3, 30)]
      [1.0, 2.0, 4.0, 300.0]
      >>> backoff(3, draw=lambda: 0.0)
      2.0
    """
    return min(2.0 ** (min(troubles, 16) - 1), 300.0) * (0.5 + 0.5 * draw())
