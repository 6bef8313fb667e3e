"""Over TLS, from enrolment on: a device runs the program that it was enrolled with, on the terms of its run, and no
other whatever its server says; and it goes on once the server is right again."""

import asyncio
import re
from functools import lru_cache

import pytest
import toy_programs as toys
from fake_server import Server, X, serving, sha256

from fedjaxlite.deploy import device as devices
from fedjaxlite.deploy.device import home as homes
from fedjaxlite.deploy.device import program
from fedjaxlite.deploy.device.artifact import pack
from fedjaxlite.deploy.device.joining import connector
from fedjaxlite.deploy.device.policy import Policy, Status
from fedjaxlite.deploy.device.protocol import Message
from fedjaxlite.deploy.device.work.loop import attend
from fedjaxlite.deploy.device.work.needs import Device
from fedjaxlite.deploy.program.writing import artifact_of
from fedjaxlite.transport import authority

OWN = toys.artifact()
OTHER = artifact_of(toys.manifest(algorithm="another"), toys.entries())[0]
_load = lru_cache(program.load)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda number: None)
    monkeypatch.setattr(program, "load", _load)


def joined(home, *, policy=Policy(), most_waits=40):  # noqa: B008
    """What came of a device that joins over TLS, waiting for nothing; and its reports."""
    lines, waits = [], []

    async def wait(seconds):
        waits.append(seconds)
        if len(waits) > most_waits:
            raise asyncio.CancelledError

    device = Device(home, policy, X, Status, lambda: 1.7e9 + len(waits), wait, lines.append, {})
    try:
        return asyncio.run(attend(device, connector(home))), lines
    except asyncio.CancelledError:
        return None, lines


def test_another_program_than_the_enrolled_one_is_never_fetched(tmp_path):
    folder, server = authority.create(tmp_path / "authority"), Server(client=0, artifact=OTHER)
    with serving(server.answer, folder, pinned=sha256(OWN)) as where:
        home = devices.enroll(tmp_path / "device", where, authority.new_token(folder))
        told, lines = joined(home)
    assert told is None  # it would wait for ever
    words = f"to run the program {sha256(OTHER)}, and this device has agreed to {sha256(OWN)}"
    assert [line for line in lines if line.startswith("refused: ") and words in line]
    assert {message.kind for message in server.seen} == {"check_in", "failed"}
    assert server.taken == {}
    assert homes.read(home.folder).program == sha256(OWN)


def test_another_program_runs_where_the_owners_policy_says_so(tmp_path):
    folder, server = authority.create(tmp_path / "authority"), Server(client=0, artifact=OTHER)
    with serving(server.answer, folder, pinned=sha256(OWN)) as where:
        home = devices.enroll(tmp_path / "device", where, authority.new_token(folder))
        told, _ = joined(home, policy=Policy(new_programs=True))
    assert (told.trained, told.counted, told.refused, told.ended) == (3, 3, (), "finished")


def test_other_bytes_under_the_enrolled_hash_are_not_run(tmp_path):
    folder, server = authority.create(tmp_path / "authority"), Server(client=0, rounds=1)
    honest, times = server.on_get, []

    def on_get(head, body):
        if head["sha256"] == sha256(OWN) and len(times) < 2:
            times.append(1)
            whole = OTHER.ljust(len(OWN), b"\0")[: len(OWN)]
            return Message("chunk", {"offset": 0, "total": len(whole), "packed": "raw"}, whole)
        return honest(head, body)

    server.on_get = on_get
    with serving(server.answer, folder, pinned=sha256(OWN)) as where:
        home = devices.enroll(tmp_path / "device", where, authority.new_token(folder))
        told, _ = joined(home)
    assert (told.trained, told.failures, told.ended) == (1, 2, "finished")


def test_a_server_that_changes_its_terms_in_mid_run_is_refused_and_the_device_goes_on(tmp_path):
    """Program, shape of the model, bytes of the update, whose task it is, masks and the number of the round."""
    changes = {
        1: ({"program": sha256(OTHER), "program_bytes": len(OTHER)}, "to run the program"),
        2: ({"model": sha256(pack([X["x"]])), "model_bytes": 12}, "the task says model_bytes 12, where .* have 4"),
        3: ({"upload_bytes": 8}, "the task says upload_bytes 8, where the program's message has 4"),
        4: ({"client": 1}, "the task says client 1, where .* have 0"),
        5: ({"masked": True}, "the task says masked True, where .* have False"),
        6: (
            {"round": 2},
            "the task is for round 2 .attempt 0., and this device's update of round 5 is in a sum already",
        ),
    }
    folder, server = authority.create(tmp_path / "authority"), Server(client=0, rounds=8)
    changed = []

    def change(message):
        number = message.head["round"]
        if number not in changes or changed.count(number) == 2:
            return message
        changed.append(number)
        return message._replace(head=message.head | changes[number][0])

    server.change = change
    with serving(server.answer, folder, pinned=sha256(OWN)) as where:
        home = devices.enroll(tmp_path / "device", where, authority.new_token(folder))
        told, _ = joined(home)
    assert (told.trained, told.counted, told.ended) == (8, 8, "finished")
    assert changed == [number for number in changes for _ in range(2)]
    assert all(re.search(changes[n][1], text) for n, text in zip(changed, told.refused, strict=True))
    # The toy's update is the sum of (1, 2, 3) above the model, which grows by one in every round.
    assert [float(program.unpack(server.taken[r], [toys.spec((), "float32")])[0]) for r in range(8)] == [
        3.0 - 3.0 * r for r in range(8)
    ]
    gets = [message.head["sha256"] for message in server.seen if message.kind == "get"]
    assert sha256(OTHER) not in gets
    assert len(gets) == 1 + 8
