"""Devices and a server over TLS, with the real programs, beside the simulated run: killed, come back, and equal."""

import asyncio
import contextlib
import json
import random

import jax
import numpy as np
import pytest
from small_deployments import CHAINS, PARAMS, chosen, method, people

import fedjaxlite as fl
from fedjaxlite.deploy import device as devices
from fedjaxlite.deploy.device import home as homes
from fedjaxlite.deploy.device.artifact import unpack
from fedjaxlite.deploy.device.joining import connector
from fedjaxlite.deploy.device.policy import Policy, Status
from fedjaxlite.deploy.device.work.loop import attend
from fedjaxlite.deploy.device.work.needs import Device
from fedjaxlite.deploy.server.run import serve
from fedjaxlite.transport import authority

SETTINGS = fl.deploy.ServerSettings(wait=0.05, presence=30.0, deadline=60.0, stage=1.0, poll=0.02)


class Killed(BaseException):
    pass


async def device_of(home, arrays, loaded, draw, chance):
    """A device that is killed at random messages, and begins again from its folder each time."""
    reports, connected = [], connector(home)

    @contextlib.asynccontextmanager
    async def connect():
        async with connected() as ask:

            async def asked(message):
                if draw.random() < chance:
                    raise Killed
                reply = await ask(message)
                if draw.random() < chance:
                    raise Killed
                return reply

            yield asked

    while True:
        device = Device(home, Policy(), arrays, Status, lambda: 1.7e9, asyncio.sleep, reports.append, loaded)
        try:
            return home, await attend(device, connect), reports
        except Killed:
            reports.append("killed")


async def played(server, tmp_path, arrays, chance):
    folder, stop, port = authority.create(tmp_path / "authority"), asyncio.Event(), asyncio.Event()
    where = []

    def listening(number):
        where.append(f"127.0.0.1:{number}")
        port.set()

    serving = asyncio.create_task(serve(server, tmp_path / "run", folder, stop=stop, on_listening=listening, every=0.1))
    await asyncio.wait([serving, asyncio.create_task(port.wait())], return_when=asyncio.FIRST_COMPLETED)
    loaded, draw = {}, random.Random(3)
    try:
        # One after the other, so that device u is client u. `enroll` has a loop of its own.
        enrolled = [
            await asyncio.to_thread(devices.enroll, tmp_path / str(u), where[0], authority.new_token(folder))
            for u in range(len(arrays))
        ]
        pairs = zip(enrolled, arrays, strict=True)
        ended = await asyncio.gather(*(device_of(home, own, loaded, draw, chance) for home, own in pairs))
    finally:
        stop.set()
    return await serving, ended


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "chain", "chance"),
    [("fed_avg", "mean", 0.0), ("scaffold", "mean", 0.1), ("fed_avg", "quantize", 0.1), ("fed_avg", "mask", 0.01)],
)
def test_devices_that_are_killed_end_where_the_simulation_ends(tmp_path, monkeypatch, name, chain, chance):
    num, num_rounds = 4, 4
    monkeypatch.setattr("os.fsync", lambda number: None)
    data = people(num)
    parts = {"aggregator": CHAINS[chain](), "execution": fl.Execution(lanes=1, devices=1)}
    rounds = fl.rounds(method(name, num), sampler=fl.sampling.full(num), **parts)
    keys = {"key": jax.random.key(7), "noise_key": jax.random.key(8)}
    made = fl.deploy.client_program(rounds, PARAMS, data)
    server = fl.deploy.Server(rounds, PARAMS, data, program=made, num_rounds=num_rounds, settings=SETTINGS, **keys)
    arrays = [{k: np.asarray(v) for k, v in data.client(u).items()} for u in range(num)]
    state, ended = asyncio.run(played(server, tmp_path, arrays, chance))
    for _, told, reports in ended:
        assert told.ended == "finished", reports
        assert told.failures == 0 or chance, reports
    assert any("killed" in reports for _, _, reports in ended) == (chance > 0)
    lines = (tmp_path / "run" / "records.jsonl").read_text().splitlines()
    cohorts = [json.loads(line)["clients"] for line in lines]
    assert len(cohorts) == num_rounds
    again = fl.rounds(method(name, num), sampler=chosen(cohorts, num), **parts)
    want = again.init(PARAMS, data, **keys)
    for _ in cohorts:
        want, _ = again.step(want, data)
    exact = chain in ("quantize", "mask")
    for a, b in zip(jax.tree.leaves(state.rounds.params), jax.tree.leaves(want.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=0 if exact else 1e-6)
    bank = [np.asarray(leaf) for leaf in jax.tree.leaves((want.clients.algorithm, want.clients.codec))]
    for home, _, _ in ended:
        kept = homes.committed(home)
        assert kept.round == max(r for r, cohort in enumerate(cohorts) if home.client in cohort)
        for leaf, rows in zip(unpack(kept.state, made.manifest["state"]), bank, strict=True):
            np.testing.assert_allclose(leaf, rows[home.client], rtol=0, atol=1e-6)
