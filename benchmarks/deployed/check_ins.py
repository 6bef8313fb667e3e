"""How many check-ins a second a service answers: `python -m fedjaxlite.benchmarks.deployed.check_ins`.

One process serves a trivial state machine, or, with `--rounds`, `fl.deploy.Server` of a run whose clients all wait for
one more to come. Others hold a connection for each client and ask at a fixed rate, whether
answers come or not. The server's process reports its time and its memory. Numbers depend on the machine and on what
else it does; nothing here is a test.
"""

import argparse
import asyncio
import multiprocessing
import os
import platform
import resource
import ssl
import tempfile
import time
from typing import Any

import numpy as np

from fedjaxlite.benchmarks.deployed.figures import shown
from fedjaxlite.deploy import service
from fedjaxlite.deploy.device import link
from fedjaxlite.deploy.device.protocol import Message
from fedjaxlite.transport import Timeouts, client_context, server_context
from fedjaxlite.transport.credentials import Credentials, issue
from fedjaxlite.transport.limits import Limits, Rate

CHECK_IN = Message(
    "check_in",
    {"pending": -1, "attempt": 0, "num_examples": 7, "idle": True, "charging": True, "wireless": True, "program": ""},
)
WAIT = Message("wait", {"seconds": 60.0, "reason": "nothing to do", "settled": -1, "counted": False})


def serve(credentials: Credentials, clients: int, rounds: bool, pipe: Any):
    """The server's process, until it is told to stop."""
    with tempfile.TemporaryDirectory() as folder:
        serve_with(credentials, answers(clients, folder) if rounds else lambda client, message: WAIT, pipe)


def answers(clients: int, folder: str) -> Any:
    """The answers of a server whose round begins with one client more than there are."""
    from fedjaxlite.benchmarks.deployed.real_server import run_in, server_of

    return run_in(
        folder, server_of(clients=clients + 1, params=np.zeros(1000, np.float32), cohort=10, waiting=clients + 1)
    ).answer


def serve_with(credentials: Credentials, answer: Any, pipe: Any):
    """Serves with these answers."""

    async def work():
        stop, counters, loop = asyncio.Event(), {}, asyncio.get_running_loop()
        before, connected = resource.getrusage(resource.RUSAGE_SELF), []

        def heard():
            if pipe.recv() == "stop":
                stop.set()
            else:  # all are connected
                connected.append(resource.getrusage(resource.RUSAGE_SELF))
                connected.append(sum(c.questions for c in counters.values()))

        loop.add_reader(pipe.fileno(), heard)
        await service.serve(
            server_context(credentials),
            answer,
            limits=Limits(requests=Rate(1e6, 1e6), connections=10_000, per_address=10_000, handshakes=1000),
            counters=counters,
            stop=stop,
            on_listening=pipe.send,
        )
        used, (ready, first) = resource.getrusage(resource.RUSAGE_SELF), connected
        questions = sum(c.questions for c in counters.values())
        cpu = used.ru_utime + used.ru_stime - ready.ru_utime - ready.ru_stime
        connecting = ready.ru_utime + ready.ru_stime - before.ru_utime - before.ru_stime
        pipe.send(
            {
                "questions": questions - first,
                "bytes_in": sum(c.bytes_in for c in counters.values()),
                "bytes_out": sum(c.bytes_out for c in counters.values()),
                "cpu_seconds": round(cpu, 2),
                "cpu_microseconds_per_question": round(1e6 * cpu / (questions - first)),
                "cpu_microseconds_per_connection": round(1e6 * connecting / first),
                "peak_mb": used.ru_maxrss // 1024,
                "of_these_before": before.ru_maxrss // 1024,
            }
        )

    asyncio.run(work())


def ask(credentials: list[Credentials], port: int, rate: float, seconds: float, pipe: Any):
    """A process of clients, which ask at `rate` questions a second together; it sends the seconds of every answer."""

    async def one(mine: link.Link, period: float, first: float, took: list[float]):
        loop = asyncio.get_running_loop()
        due, end = loop.time() + first, loop.time() + seconds
        while due < end:
            await asyncio.sleep(max(0.0, due - loop.time()))
            if (await link.ask(mine, CHECK_IN)).kind != "wait":
                raise RuntimeError("not the answer that was expected.")
            took.append(loop.time() - due)  # from when it was to be asked: a server that lags is not let off
            due += period

    async def work():
        timeouts = Timeouts(connect=60.0, patience=60.0)
        links = [
            link.link_to("127.0.0.1", port, client_context(c), random=lambda: 0.5, timeouts=timeouts)
            for c in credentials
        ]
        begin = time.perf_counter()
        for some in range(0, len(links), 20):
            await asyncio.gather(*(link.ask(each, CHECK_IN) for each in links[some : some + 20]))
        pipe.send(time.perf_counter() - begin)
        pipe.recv()
        period, took = len(links) / rate, []
        await asyncio.gather(*(one(each, period, period * i / len(links), took) for i, each in enumerate(links)))
        cpu = resource.getrusage(resource.RUSAGE_SELF)
        pipe.send((took, cpu.ru_utime + cpu.ru_stime))
        await asyncio.gather(*map(link.close, links))

    asyncio.run(work())


def measure(clients: int, rate: float, seconds: float, processes: int, rounds: bool) -> dict[str, Any]:
    """The figures of one run."""
    server, credentials = issue(range(clients))
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    serving = context.Process(target=serve, args=(server, clients, rounds, theirs))
    serving.start()
    port = pipe.recv()
    asking, pipes = [], []
    for i in range(processes):
        mine, other = context.Pipe()
        some = [credentials[u] for u in range(i, clients, processes)]
        asking.append(context.Process(target=ask, args=(some, port, rate / processes, seconds, other)))
        asking[-1].start()
        pipes.append(mine)
    connecting = max(p.recv() for p in pipes)
    pipe.send("connected")
    begin = time.perf_counter()
    for p in pipes:
        p.send("go")
    answers = [p.recv() for p in pipes]
    wall = time.perf_counter() - begin
    pipe.send("stop")
    of_server = pipe.recv()
    for process in (*asking, serving):
        process.join()
    took = sorted(t for some, _ in answers for t in some)

    def at(part: float) -> float:
        return round(1000 * took[min(len(took) - 1, int(part * len(took)))], 1)

    return {
        "clients": clients,
        "state_machine": "fl.deploy.Server" if rounds else "none",
        "asked_per_second": rate,
        "answered_per_second": round(len(took) / wall),
        "milliseconds": {"median": at(0.5), "p99": at(0.99), "most": at(1.0)},
        "seconds_to_connect_all": round(connecting, 2),
        "server": of_server,
        "clients_cpu_seconds": round(sum(cpu for _, cpu in answers), 2),
        "machine": f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "versions": f"Python {platform.python_version()}, {ssl.OPENSSL_VERSION}",
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--rate", type=float, default=1000.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="JSON in place of a table")
    parser.add_argument("--rounds", action="store_true", help="with the state machine of a run")
    o = parser.parse_args()
    print(shown(measure(o.clients, o.rate, o.seconds, o.processes, o.rounds), as_json=o.json))
