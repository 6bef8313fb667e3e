"""A server of the toy program in memory, one client's: it does what a test tells it to, over the real encoding."""

import asyncio
import contextlib
import hashlib
import threading
from typing import Any

import numpy as np
import toy_programs as toys

from fedjaxlite.deploy import service
from fedjaxlite.deploy.device import home as homes
from fedjaxlite.deploy.device import packing
from fedjaxlite.deploy.device.artifact import pack
from fedjaxlite.deploy.device.policy import Policy, Status
from fedjaxlite.deploy.device.protocol import Message, decode, encode
from fedjaxlite.deploy.device.work.needs import Device
from fedjaxlite.transport import authority, credentials
from fedjaxlite.transport.credentials import Credentials

X = {"x": np.float32([1, 2, 3])}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def made_device(path: Any, *, arrays: Any = X, policy: Policy | None = None, **changes: Any) -> Device:
    """A device of client 3; its waits take no time."""
    if not (path / "device.json").exists():
        own = Credentials(b"k" * 32, b"p" * 32, b"certificate", b"authority")
        homes.write(path, client=3, server="localhost:1", credentials=own, program=changes.pop("program", ""))
    waits, lines = [], []

    async def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) > 60:
            raise AssertionError(f"the device waits for ever: {lines[-5:]}")

    clock = changes.pop("clock", lambda: 1.7e9 + len(waits))
    fields = {"status": Status, "clock": clock, "wait": wait, "report": lines.append, "loaded": {}, **changes}
    return Device(homes.read(path), policy or Policy(), arrays, **fields)


@contextlib.contextmanager
def serving(answer, folder, *, revoked=lambda client: False, pinned=""):
    """A server of an authority in a thread; its address."""
    context = credentials.server_context(authority.server_credentials(folder), strangers=True)
    loop, stop, port = asyncio.new_event_loop(), asyncio.Event(), []
    up = threading.Event()

    def listening(number):
        port.append(number)
        up.set()

    work = service.serve(
        context,
        lambda client, message: answer(message),
        service.enrolling(folder, most=9, program=lambda: pinned),
        is_revoked=revoked,
        stop=stop,
        on_listening=listening,
    )
    thread = threading.Thread(target=loop.run_until_complete, args=(work,))
    thread.start()
    up.wait(20)
    try:
        yield f"127.0.0.1:{port[0]}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        loop.close()


class Server:
    """Rounds of one client: task, update, settled at the next check-in. `change` rewrites a task, `hook` sees all."""

    def __init__(
        self, *, rounds: int = 3, artifact: bytes | None = None, evaluate: bool = False, client: int = 3
    ) -> None:
        self.client = client
        self.artifact = toys.artifact() if artifact is None else artifact
        self.rounds, self.round, self.attempt = rounds, 0, 0
        self.model, self.evaluate = np.float32(1), evaluate
        self.arrived: dict[tuple[int, int], bytearray] = {}
        self.taken: dict[int, bytes] = {}
        self.seen: list[Message] = []
        self.bytes = 0
        self.metrics: list[Any] = []
        self.counts = True
        self.chunk = 1 << 20
        self.change: Any = lambda task: task
        self.hook: Any = lambda message, before: None

    @contextlib.asynccontextmanager
    async def connect(self):
        async def ask(message: Message) -> Message:
            data = encode(message)
            self.hook(message, True)
            self.bytes += 4 + len(data)
            reply = self.answer(decode(data, most_body=1 << 20))
            self.hook(message, False)
            return decode(encode(reply), most_body=1 << 20)

        yield ask

    def answer(self, message: Message) -> Message:
        self.seen.append(message)
        head = message.head
        return getattr(self, f"on_{message.kind}")(head, message.body)

    def on_check_in(self, head: dict[str, Any], body: bytes) -> Message:
        pending = head["pending"]
        done = pending >= 0 and (pending < self.round or self.round >= self.rounds)
        settled = {"settled": pending if done else -1, "counted": bool(done and self.counts and pending in self.taken)}
        if self.round >= self.rounds:
            return Message("finished", {"rounds": self.rounds} | settled)
        if pending == self.round and pending in self.taken:
            raise AssertionError("the round is over once its one update is there")
        task = {
            "round": self.round,
            "attempt": self.attempt,
            "what": "evaluate" if self.evaluate and len(self.metrics) <= self.round else "train",
            "program": sha256(self.artifact),
            "program_bytes": len(self.artifact),
            "model": sha256(pack([self.model])),
            "model_bytes": 4,
            "key": [7, self.round],
            "client": self.client,
            "upload_bytes": 4,
            "masked": False,
            "seconds": 60.0,
        }
        return self.change(Message("task", task | settled))

    def on_get(self, head: dict[str, Any], body: bytes) -> Message:
        held = {sha256(c): c for c in (self.artifact, pack([self.model]))}
        if head["sha256"] not in held:
            return Message("refused", {"reason": "nothing of this hash is here", "again": False})
        whole = held[head["sha256"]]
        packed, piece = packing.pack(whole[head["offset"] :][: self.chunk])
        return Message("chunk", {"offset": head["offset"], "total": len(whole), "packed": packed}, piece)

    def on_put(self, head: dict[str, Any], body: bytes) -> Message:
        if head["round"] in self.taken:
            return Message("taken", {"round": head["round"]})
        if (head["round"], head["attempt"]) != (self.round, self.attempt):
            return Message("refused", {"reason": "the round is over", "again": True})
        there = self.arrived.setdefault((head["round"], head["attempt"]), bytearray())
        if head["offset"] == len(there):
            there += packing.unpack(body, head["packed"])
        if len(there) < head["total"]:
            return Message("have", {"offset": len(there)})
        if sha256(bytes(there)) != head["sha256"]:
            raise AssertionError("an update that was put together from two")
        self.taken[self.round] = bytes(there)
        self.model = self.model + np.float32(1)
        self.round += 1
        return Message("taken", {"round": head["round"]})

    def on_failed(self, head: dict[str, Any], body: bytes) -> Message:
        return Message("taken", {"round": head["round"]})

    def on_evaluated(self, head: dict[str, Any], body: bytes) -> Message:
        self.metrics.append(head["metrics"])
        return Message("taken", {"round": head["round"]})
