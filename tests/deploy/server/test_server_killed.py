"""A server in a process of its own that is killed, by SIGKILL, in the middle of rounds, and what its clients were told."""

import asyncio
import os
import random
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deploy_toy import QUICK
from machines import check_in, put

import fedjaxlite as fl
from fedjaxlite.deploy.device import link
from fedjaxlite.transport import authority, client_context, enrolment
from fedjaxlite.transport.credentials import Credentials

ROUNDS, CLIENTS = 12, 5
SERVE = f"""
import asyncio, sys
from pathlib import Path
from machines import with_settings
from fedjaxlite.deploy.server.run import serve

server = with_settings(over_select=4, wait=0.05, presence=30.0, deadline=20.0)._replace(num_rounds={ROUNDS})
home = Path(sys.argv[1])
asyncio.run(serve(server, home / "run", home / "authority", port=int(sys.argv[2]), every=0.1, stay=1.0))
"""


def value(client: int, number: int) -> float:
    return float((client + 1) * (number % 4 + 1))


async def take_part(line: link.Link, client: int, draw: random.Random) -> tuple[list[int], int]:
    """A client that keeps what it has sent, as a device does on its disk; the rounds that counted."""
    counted, pending, taken = [], (-1, 0), 0
    while True:
        reply = await link.ask(line, check_in(*pending))
        if reply.head["settled"] >= 0:
            assert reply.head["settled"] == pending[0]
            counted += [pending[0]] if reply.head["counted"] else []
            pending = (-1, 0)
        if reply.kind == "finished":
            await link.close(line)
            return counted, taken
        if reply.kind == "wait":
            await asyncio.sleep(0.02 + 0.05 * draw.random())
            continue
        pending = (reply.head["round"], reply.head["attempt"])
        await asyncio.sleep(0.05 * draw.random())
        for size in (3, 0, None):  # a piece, a question, the rest from where the server says
            reply = await link.ask(line, put(value(client, pending[0]), *pending, size=size))
            if reply.kind == "have" and size == 0:
                at = reply.head["offset"]
                reply = await link.ask(line, put(value(client, pending[0]), *pending, at=at))
            taken += reply.kind == "taken"
            if reply.kind != "have":
                break


async def killed_and_begun_again(
    arguments: list[str], environment: dict[str, str], draw: random.Random, lines: Path
) -> None:
    for kill in range(4):
        process = await asyncio.create_subprocess_exec(*arguments, env=environment)
        try:
            if kill < 3:
                while not lines.exists() or len(lines.read_bytes().splitlines()) < 3 * (kill + 1):
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.3 * draw.random())
                assert process.returncode is None
                process.kill()
            else:
                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


@pytest.mark.slow
def test_what_clients_were_told_holds_whenever_the_server_is_killed(tmp_path: Path) -> None:
    folder = authority.create(tmp_path / "authority")
    keys = []
    for _ in range(CLIENTS):
        asked = enrolment.request()
        signed = authority.sign(folder, authority.new_token(folder), asked.pem)
        own = authority.own_certificate(folder)
        keys.append(Credentials(asked.private, asked.public, signed.certificate, own))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    draw = random.Random(1)
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": path}
    arguments = [sys.executable, "-c", SERVE, str(tmp_path), str(port)]
    backoff = link.Backoff(tries=200, first=0.05, most=0.3)

    async def all_of_them() -> Any:
        servers = asyncio.create_task(
            killed_and_begun_again(arguments, environment, draw, tmp_path / "run" / "records.jsonl")
        )
        lines = [
            link.link_to("127.0.0.1", port, client_context(own), random=draw.random, timeouts=QUICK, backoff=backoff)
            for own in keys
        ]
        found = await asyncio.gather(*(take_part(line, u, draw) for u, line in enumerate(lines)))
        await servers
        return found

    found = asyncio.run(all_of_them())
    records = fl.observers.records.read(tmp_path / "run" / "records.jsonl")
    assert [record["round"] for record in records] == list(range(1, ROUNDS + 1))
    for u, (counted, taken) in enumerate(found):
        assert counted == [record["round"] - 1 for record in records if u in record["clients"]]
        assert taken <= len(counted)  # what was `taken` counts: no attempt was given up here
    model = np.float32(0)
    for record in records:
        assert record["attempt"] == 0
        sent = [np.float32(value(u, record["round"] - 1)) for u in record["clients"]]
        model -= np.float32(sum(sent) / np.float32(len(sent)))
    program = (
        "import sys, machines, jax; from machines import *; from fedjaxlite.deploy.server.disk.journal import open_at\n"
    )
    program += "print(float(Desk(with_settings()._replace(num_rounds=12), open_at(sys.argv[1])).state.rounds.params))"
    told = subprocess.run([sys.executable, "-c", program, str(tmp_path / "run")], env=environment, capture_output=True)
    np.testing.assert_allclose(float(told.stdout), model, rtol=1e-6)
