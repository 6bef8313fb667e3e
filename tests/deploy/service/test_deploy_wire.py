"""What crosses the wire is what the simulation's ledger counts, and less than 2 % beside it, TLS among that."""

import asyncio
import contextlib
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from crowd import linked, serving
from machines import check_in

import fedjaxlite as fl
from fedjaxlite.benchmarks.deployed import transfers
from fedjaxlite.deploy.device import link, packing
from fedjaxlite.deploy.device.protocol import CHUNK

PARAMETERS, N = 300_000, 3  # more than one piece


def random_bits(seed):
    """Floats that nothing packs: finite ones of random bits."""
    words = np.random.default_rng(seed).integers(0, 2**32, PARAMETERS, np.uint32)
    return np.where((words >> 23 & 255) < 192, words, words & ~np.uint32(2**30)).view(np.float32)


KINDS = {
    "bits": random_bits,
    "floats": lambda seed: np.random.default_rng(seed).normal(size=PARAMETERS).astype(np.float32),
    "zeros": lambda seed: np.zeros(PARAMETERS, np.float32),
}


def loss(params, batch, key):
    return (params.sum() - batch["x"]) ** 2


@contextlib.asynccontextmanager
async def counted(port):
    """A way to the server that counts what passes, as bytes of TCP: [up, down]."""
    passed, tasks, writers = [0, 0], set(), []

    async def pass_on(reader, writer, which):
        with contextlib.suppress(OSError):
            while data := await reader.read(2**16):
                passed[which] += len(data)
                writer.write(data)
                await writer.drain()
            writer.close()

    async def connected(reader, writer):
        there, back = await asyncio.open_connection("127.0.0.1", port)
        writers.extend((writer, back))
        for pair in ((reader, back, 0), (there, writer, 1)):
            tasks.add(asyncio.create_task(pass_on(*pair)))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], passed
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def take_part(line, upload):
    task = await link.ask(line, check_in())
    model = await transfers.download(line, task.head["model"], task.head["model_bytes"])
    reply = await transfers.upload(line, 0, 0, upload)
    assert reply.kind == "taken"
    return model


@lru_cache
def played(kind, place):
    """One round of `N` clients with a model and updates of a kind: (bytes of TCP, the record, the server's traffic)."""
    method = fl.algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.1), batch_size=4, epochs=1)
    rounds = fl.rounds(method, sampler=fl.sampling.full(N), aggregator=fl.mean())
    spec = fl.deploy.DataSpec({"x": jax.ShapeDtypeStruct((), np.float32)}, num_clients=N, capacity=4)
    model = KINDS[kind](0)
    server = fl.deploy.Server(rounds, jnp.asarray(model), spec, key=jax.random.key(0), num_rounds=1)
    assert server.upload_bytes == server.traffic.up == 4 * PARAMETERS + 4

    async def work():
        async with serving(server, place, N) as served, counted(served.port) as (port, passed):
            lines = [linked(served._replace(port=port), u) for u in range(N)]
            for line in lines:
                await link.ask(line, check_in())
            uploads = [KINDS[kind](1 + u).tobytes() + np.float32(1).tobytes() for u in range(N)]
            models = await asyncio.gather(*map(take_part, lines, uploads))
            assert models == [model.tobytes()] * N
            sent = [line.counts[0] for line in lines]
            await asyncio.gather(*map(link.close, lines))
        (record,) = fl.observers.records.read(place / "run" / "records.jsonl")
        return passed, record, sent

    return *asyncio.run(work()), server.traffic


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return lambda kind: tmp_path_factory.getbasetemp() / f"wire-{kind}"


@pytest.mark.parametrize("kind", KINDS)
def test_the_wire_carries_what_the_ledger_says_and_less_than_two_percent_beside_it(place, kind):
    (up, down), record, sent, traffic = played(kind, place(kind))
    assert (record["bytes_up"], record["bytes_down"]) == (N * traffic.up, N * traffic.down)
    # What the server counts is what clients have sent; its last answer comes after the record.
    assert record["wire_up"] == sum(each.sent for each in sent)
    assert 0 <= sum(each.received for each in sent) - record["wire_down"] < 100 * N
    assert record["wire_up"] < up
    assert record["wire_down"] < down
    for wire, ledger in ((up, record["bytes_up"]), (down, record["bytes_down"])):
        if kind == "bits":
            assert 1.0 < wire / ledger < 1.02
        else:
            assert wire / ledger < (0.95 if kind == "floats" else 0.03)


def test_packing_only_ever_makes_it_less(place):
    for kind in KINDS:
        data = KINDS[kind](0).tobytes()
        pieces = [packing.pack(data[at : at + CHUNK]) for at in range(0, len(data), CHUNK)]
        assert all(len(piece) <= CHUNK for _, piece in pieces)
        assert {packed for packed, _ in pieces} == {"raw" if kind == "bits" else "zlib"}
    wires = [played(kind, place(kind))[0] for kind in KINDS]
    for which in (0, 1):
        assert wires[0][which] > wires[1][which] > wires[2][which]
