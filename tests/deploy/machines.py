"""A server of means of one number, which needs no training: what a client sends is made by hand."""

import hashlib
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from playing import in_memory

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.deploy.device.artifact import pack
from fedjaxlite.deploy.device.protocol import Message, decode, encode
from fedjaxlite.deploy.program.template import DataSpec
from fedjaxlite.deploy.server.answering import answer, tick
from fedjaxlite.deploy.server.building import Server
from fedjaxlite.deploy.server.disk.journal import Journal, carry_out
from fedjaxlite.deploy.server.disk.resuming import resume
from fedjaxlite.deploy.server.settings import ServerSettings, checked
from fedjaxlite.deploy.server.state import ServerHalf

N, K = 9, 3
SPEC = DataSpec({"x": jax.ShapeDtypeStruct((), np.float32)}, num_clients=N, capacity=4)
PLAIN = ServerSettings(deadline=100.0, wait=1.0, presence=1000.0, min_reports=2)


def composed(**changes: Any) -> fl.Rounds:
    def loss(params: Any, batch: Any, key: Any) -> Any:
        return (params - batch["x"]) ** 2 / 2

    method = algorithms.fed_avg(loss, client_optimizer=optax.sgd(1.0), batch_size=None, epochs=1)
    parts: dict[str, Any] = {"sampler": fl.sampling.uniform(K), "aggregator": fl.mean()} | changes
    return fl.rounds(method, **parts)


@lru_cache(maxsize=1)
def plain() -> ServerHalf:
    return Server(composed(), jnp.float32(0), SPEC, key=jax.random.key(1), num_rounds=5, settings=PLAIN)


def with_settings(**changes: Any) -> ServerHalf:
    """The same server, compiled once, with other settings."""
    settings = PLAIN._replace(**changes)
    return plain()._replace(numbers=checked(settings, capacity=K, num_clients=N, masked=False))


class Desk:
    """A server with its newest state and a journal in memory; the replies of clients' messages."""

    def __init__(self, server: ServerHalf, journal: Journal | None = None) -> None:
        self.journal, self.files, self.records = in_memory() if journal is None else (journal, {}, [])
        self.server = server._replace(read=self.journal.read)
        self.now = 0.0
        self.state = resume(self.server, self.journal, self.now)

    def ask(self, client: int, message: Message) -> Message:
        self.state, reply, effects = answer(self.server, self.state, client, decode(encode(message)), self.now)
        carry_out(self.journal, effects)
        return decode(encode(reply), most_body=2**30)

    def tick(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.state, effects = tick(self.server, self.state, self.now)
        carry_out(self.journal, effects)

    def killed(self) -> None:
        self.state = resume(self.server, self.journal, self.now)

    def all_in(self, clients: Any = range(N)) -> dict[int, Message]:
        """Checks clients in, twice, so that all that are drawn have the task; what they hear."""
        for u in clients:
            self.ask(u, check_in())
        return {u: self.ask(u, check_in()) for u in clients}


def check_in(pending: int = -1, attempt: int = 0, num_examples: int = 2, **flags: bool) -> Message:
    head = {"pending": pending, "attempt": attempt, "num_examples": num_examples, "program": ""}
    return Message("check_in", head | {"idle": True, "charging": True, "wireless": True} | flags)


def update(value: float) -> bytes:
    """What a client sends whose update is that number: `fl.mean` sends it alone, or with a weight of 1."""
    specs = plain().specs
    return pack([np.full(spec["shape"], value if i == 0 else 1, spec["dtype"]) for i, spec in enumerate(specs)])


def put(
    value: float, number: int = 0, attempt: int = 0, *, at: int = 0, size: int | None = None, **changes: Any
) -> Message:
    data = update(value)
    piece = data[at:] if size is None else data[at : at + size]
    head = {"round": number, "attempt": attempt, "sha256": hashlib.sha256(data).hexdigest(), "offset": at}
    return Message("put", head | {"total": len(data), "packed": "raw"} | changes, piece)
