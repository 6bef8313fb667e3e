"""A model to many clients and their updates back: `python -m fedjaxlite.benchmarks.deployed.models --clients 200`.

Every client fetches the model and sends as many bytes, all at once. The server only hashes what comes in,
so that its time and memory are the service's; with `--rounds` it is `fl.deploy.Server` in a round of FedAvg, which
keeps every update on its disk, adds them up and steps, and bytes are compared with the ledger of the simulation. Bytes
on the wire are counted before TLS, which adds 22 to every 16 KiB.
"""

import argparse
import asyncio
import hashlib
import multiprocessing
import os
import platform
import random
import resource
import ssl
import tempfile
import time
from typing import Any

import numpy as np

from fedjaxlite.benchmarks.deployed import transfers
from fedjaxlite.benchmarks.deployed.check_ins import CHECK_IN
from fedjaxlite.benchmarks.deployed.figures import shown
from fedjaxlite.deploy import service
from fedjaxlite.deploy.device import link, packing
from fedjaxlite.deploy.device.protocol import CHUNK, Message, refused
from fedjaxlite.transport import Timeouts, client_context, server_context
from fedjaxlite.transport.credentials import Credentials, issue
from fedjaxlite.transport.limits import Limits, Rate


def model_of(parameters: int, seed: int = 0) -> bytes:
    """So many random float32 of which zlib saves nothing (of a model's, some 7 %): exponents too are random."""
    words = np.random.default_rng(seed).integers(0, 2**32, parameters, np.uint32)
    # Finite, and so is a sum of thousands of them: of exponents from 192 on, the highest bit is taken away.
    return np.where((words >> 23 & 255) < 192, words, words & ~np.uint32(2**30)).tobytes()


def trivial(parameters: int) -> Any:
    """The answers of a server that hands out a model and hashes what comes back."""
    model = model_of(parameters)
    try_it = packing.worth_packing(model)
    pieces = [packing.pack(model[at : at + CHUNK], try_it=try_it) for at in range(0, len(model), CHUNK)]
    coming: dict[int, Any] = {}

    def answer(client: int, message: Message) -> Message:
        head = message.head
        if message.kind == "get":
            packed, piece = pieces[head["offset"] // CHUNK]
            return Message("chunk", {"offset": head["offset"], "total": len(model), "packed": packed}, piece)
        if message.kind != "put":
            return refused("models only.")
        size, digest = coming.get(client, (0, hashlib.sha256()))
        if message.body and head["offset"] == size:
            piece = packing.unpack(message.body, head["packed"])
            digest.update(piece)
            size += len(piece)
        coming[client] = (size, digest)
        if size < head["total"]:
            return Message("have", {"offset": size})
        return Message("taken", {"round": 0}) if digest.hexdigest() == head["sha256"] else refused("another hash.")

    return answer


def serve(credentials: Credentials, clients: int, parameters: int, rounds: bool, pipe: Any):
    """The server's process, until it is told to stop."""
    if not rounds:
        serve_with(credentials, trivial(parameters), pipe)
        return
    from fedjaxlite.benchmarks.deployed.real_server import run_in, server_of

    server = server_of(
        clients=clients, params=np.frombuffer(model_of(parameters), np.float32), cohort=clients, waiting=clients
    )
    with tempfile.TemporaryDirectory() as folder:
        run = run_in(folder, server)
        serve_with(credentials, run.answer, pipe)
        state, parts = run.state(), server.traffic
        pipe.send({"rounds": state.number, "up": parts.up * clients, "down": parts.down * clients})


def serve_with(credentials: Credentials, answer: Any, pipe: Any):
    """Serves with these answers."""

    async def work():
        stop, counters = asyncio.Event(), {}
        asyncio.get_running_loop().add_reader(pipe.fileno(), stop.set)
        before = resource.getrusage(resource.RUSAGE_SELF)
        await service.serve(
            server_context(credentials),
            answer,
            limits=Limits(requests=Rate(1e6, 1e6), bytes=Rate(1e12, 1e12), handshakes=1000),
            counters=counters,
            stop=stop,
            on_listening=pipe.send,
        )
        used = resource.getrusage(resource.RUSAGE_SELF)
        pipe.send(
            {
                "bytes_in": sum(c.bytes_in for c in counters.values()),
                "bytes_out": sum(c.bytes_out for c in counters.values()),
                "cpu_seconds": round(used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime, 2),
                "peak_mb": used.ru_maxrss // 1024,
                "of_these_before": before.ru_maxrss // 1024,
            }
        )

    asyncio.run(work())


async def task_of(mine: link.Link) -> dict[str, Any]:
    """The head of the task of a client, once the round has begun."""
    while (reply := await link.ask(mine, CHECK_IN)).kind != "task":
        await asyncio.sleep(reply.head["seconds"])
    return reply.head


def take_part(credentials: list[Credentials], port: int, parameters: int, rounds: bool, pipe: Any):
    """The clients' process: what they send is random, and no weight is below zero."""
    model = model_of(parameters)
    task: dict[str, Any] = {"model": hashlib.sha256(model).hexdigest(), "model_bytes": len(model)}
    # Of a weighted mean the weight of the client comes last, a float32.
    upload = model_of(parameters, seed=1) + np.float32(1).tobytes() if rounds else model

    timeouts = Timeouts(connect=120.0, frame=120.0, patience=600.0)

    async def one(mine: link.Link, own: dict[str, Any]):
        await transfers.download(mine, own["model"], own["model_bytes"])
        reply = await transfers.upload(mine, 0, 0, upload)
        if reply.kind != "taken":
            raise RuntimeError(f"the update was not taken: {reply}.")
        await link.close(mine)

    async def work():
        links = [
            link.link_to("127.0.0.1", port, client_context(who), random=random.random, timeouts=timeouts)
            for who in credentials
        ]
        tasks = await asyncio.gather(*map(task_of, links)) if rounds else [task] * len(links)
        begin = time.perf_counter()
        await asyncio.gather(*map(one, links, tasks))
        return time.perf_counter() - begin

    seconds = asyncio.run(work())
    used = resource.getrusage(resource.RUSAGE_SELF)
    pipe.send((seconds, used.ru_utime + used.ru_stime))


def measure(clients: int, parameters: int, rounds: bool) -> dict[str, Any]:
    """The figures of one run."""
    server, credentials = issue(range(clients))
    context = multiprocessing.get_context("spawn")
    (pipe, theirs), (mine, other) = context.Pipe(), context.Pipe()
    serving = context.Process(target=serve, args=(server, clients, parameters, rounds, theirs))
    serving.start()
    port = pipe.recv()
    asking = context.Process(target=take_part, args=(list(credentials.values()), port, parameters, rounds, other))
    asking.start()
    wall, cpu = mine.recv()
    pipe.send("stop")
    of_server = pipe.recv()
    payload = dict.fromkeys(("up", "down"), 4 * parameters * clients)
    if rounds:
        payload = pipe.recv()
        if payload["rounds"] != 1:
            raise RuntimeError("the round was not closed.")
    for process in (asking, serving):
        process.join()
    return {
        "clients": clients,
        "state_machine": "fl.deploy.Server" if rounds else "none",
        "model_bytes": 4 * parameters,
        "seconds": round(wall, 1),
        "overhead_percent": {
            "down": round(100 * (of_server["bytes_out"] / payload["down"] - 1), 3),
            "up": round(100 * (of_server["bytes_in"] / payload["up"] - 1), 3),
        },
        "clients_cpu_seconds": round(cpu, 1),
        "server": of_server | {"peak_mb_above_start": of_server["peak_mb"] - of_server["of_these_before"]},
        "machine": f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "versions": f"Python {platform.python_version()}, {ssl.OPENSSL_VERSION}",
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--parameters", type=int, default=1_660_000)
    parser.add_argument("--json", action="store_true", help="JSON in place of a table")
    parser.add_argument("--rounds", action="store_true", help="with the state machine of a run")
    options = parser.parse_args()
    print(shown(measure(options.clients, options.parameters, options.rounds), as_json=options.json))
