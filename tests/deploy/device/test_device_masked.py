"""Masked rounds on devices: the vector leaves in the secure sum alone, whatever the server asks."""

import asyncio
import contextlib
import json
import time
from functools import lru_cache

import jax.numpy as jnp
import numpy as np
import pytest
import toy_programs as toys
from fake_server import X, sha256

from fedjaxlite.deploy.device import home as homes
from fedjaxlite.deploy.device import program
from fedjaxlite.deploy.device.artifact import pack
from fedjaxlite.deploy.device.home import ledger
from fedjaxlite.deploy.device.link import ServerRefuses
from fedjaxlite.deploy.device.policy import Policy, Status
from fedjaxlite.deploy.device.protocol import Message, decode, encode
from fedjaxlite.deploy.device.work import masked, moving
from fedjaxlite.deploy.device.work.loop import attend
from fedjaxlite.deploy.device.work.needs import Device
from fedjaxlite.deploy.program.writing import artifact_of
from fedjaxlite.privacy import secagg
from fedjaxlite.transport.credentials import issue

LENGTH, CLIENTS = 3, 4
SUM = {"length": LENGTH, "num_clients": CLIENTS, "min_survivors": 3}
_load = lru_cache(program.load)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda number: None)
    monkeypatch.setattr(program, "load", _load)


def words(model, kept, x, num_examples, key, client, noise):
    vector = jnp.stack([client.astype(jnp.uint32) + 1, num_examples.astype(jnp.uint32), jnp.uint32(0xDEADBEEF)])
    return vector, kept + 1, jnp.bool_(True), model


def made_artifact(**changes):
    message = [toys.spec((LENGTH,), "uint32", "words")]
    return artifact_of(
        toys.manifest(masked=True, message=message, secure_sum=SUM | changes),
        toys.entries(program=toys.exported(words)),
    )[0]


class SumServer:
    """Masked rounds of all clients: one secure sum for each, and every message that came."""

    def __init__(self, artifact, *, known=None, rounds=2):
        self.artifact, self.known, self.rounds = artifact, known, rounds
        self.parameters = secagg.parameters(**program.load(artifact).manifest["secure_sum"])
        self.round, self.sums, self.seen, self.change = 0, [], [], lambda client, reply: reply
        self.begin()

    def begin(self):
        self.state = secagg.server.start(
            self.parameters, round_number=masked.number_of(self.round, 0), cohort=range(CLIENTS), known=self.known
        )
        self.told, self.done = {}, set()

    def connect(self, client):
        @contextlib.asynccontextmanager
        async def connected():
            async def ask(message):
                await asyncio.sleep(0)
                data = encode(message)
                self.seen.append((client, message, data))
                reply = self.change(client, getattr(self, f"on_{message.kind}")(client, message.head, message.body))
                return decode(encode(reply))

            yield ask

        return connected

    def on_check_in(self, client, head, body):
        pending = head["pending"]
        done = 0 <= pending < self.round
        settled = {"settled": pending if done else -1, "counted": done}
        if self.round == self.rounds:
            return Message("finished", {"rounds": self.rounds} | settled)
        if client in self.done:
            return Message("wait", {"seconds": 0.0, "reason": "the others", **settled})
        model = pack([np.float32(0)])
        task = {
            "round": self.round,
            "attempt": 0,
            "what": "train",
            "program": sha256(self.artifact),
            "program_bytes": len(self.artifact),
            "model": sha256(model),
            "model_bytes": 4,
            "key": [0, 0],
            "client": client,
            "upload_bytes": 4 * LENGTH,
            "masked": True,
            "seconds": 9.0,
        }
        return Message("task", task | settled)

    def on_get(self, client, head, body):
        whole = self.artifact if head["sha256"] == sha256(self.artifact) else pack([np.float32(0)])
        return Message("chunk", {"offset": 0, "total": len(whole), "packed": "raw"}, whole)

    def on_failed(self, client, head, body):
        return Message("taken", {"round": head["round"]})

    def on_secure(self, client, head, body):
        if head["round"] < self.round:
            return Message("taken", {"round": head["round"]})
        if body:
            self.told.pop(client, None)
            message = secagg.messages.decode_from(client, body, secagg.messages.limits(self.parameters))
            self.state = secagg.server.receive(self.state, message)
            if not secagg.server.waiting(self.state):
                self.state, outgoing = secagg.server.close(self.state)
                self.told = {u: secagg.messages.encode(message) for u, message in outgoing.items()}
                if self.state.result is not None:
                    self.sums.append(self.state.result)
                    self.round += 1
                    self.begin()
                    return Message("taken", {"round": head["round"]})
        if client in self.told:
            return Message("secure", {"stage": self.state.stage}, self.told[client])
        settled = {"settled": -1, "counted": False}
        return Message("wait", {"seconds": 0.0, "reason": "the others", **settled})


def devices(tmp_path, artifact, *, known=False, policy=None):
    _, clients = issue(range(CLIENTS))
    made = []
    for u, own in clients.items():
        home = homes.write(tmp_path / str(u), client=u, server="h:1", program=sha256(artifact), credentials=own)
        if known:
            keys = {str(v): other.public.hex() for v, other in clients.items()}
            (home.folder / "known.json").write_text(json.dumps(keys))
        lines, patience = [], time.monotonic() + 120

        # A device asks on while another one computes, on a busy machine often: time ends it, not the number of waits.
        async def wait(seconds, lines=lines, patience=patience):
            if time.monotonic() > patience:
                raise AssertionError(f"waits for ever: {lines[-3:]}")
            await asyncio.sleep(min(seconds, 0.002))

        device = Device(home, policy or Policy(), X, Status, lambda: 1.7e9, wait, lines.append, {})
        made.append(device)
    return made, {u: own.public for u, own in clients.items()}


def run(server, made):
    async def all_of_them():
        return await asyncio.gather(*(attend(device, server.connect(device.home.client)) for device in made))

    return asyncio.run(all_of_them())


@pytest.mark.parametrize("kind", ["semi-honest", "lying"])
def test_the_sum_is_that_of_the_vectors_and_nothing_else_leaves(tmp_path, kind):
    artifact = made_artifact(server=kind)
    made, public = devices(tmp_path, artifact, known=kind == "lying")
    server = SumServer(artifact, known=public if kind == "lying" else None)
    for told in run(server, made):
        assert (told.trained, told.counted, told.refused, told.failures) == (2, 2, (), 0)
    for result in server.sums:
        assert result.total.tolist() == [1 + 2 + 3 + 4, 3 * CLIENTS, CLIENTS * 0xDEADBEEF % 2**32]
    assert {message.kind for _, message, _ in server.seen} == {"check_in", "get", "secure"}
    plain = [np.uint32([u + 1, 3, 0xDEADBEEF]) for u in range(CLIENTS)]
    for _, _, data in server.seen:
        assert not [v for v in plain if v.tobytes() in data or v.astype(">u4").tobytes() in data]
    assert all(
        np.uint32(0xDEADBEEF).tobytes() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()
    )
    told = ledger.summary(made[0].log)
    assert (told.updates, told.sums, told.largest_norm) == (0, 2, None)
    assert homes.committed(made[0].home).message == ""


def test_a_task_that_says_it_is_not_masked_is_refused(tmp_path):
    artifact = made_artifact()
    made, _ = devices(tmp_path, artifact)
    server, times = SumServer(artifact, rounds=1), []

    def change(client, reply):
        if reply.kind != "task" or len(times) > 5:
            return reply
        times.append(client)
        return reply._replace(head=reply.head | {"masked": False})

    server.change = change
    told = run(server, made)
    refused = {reason for one in told for reason in one.refused}
    assert refused == {"the task says masked False, where this device and its program have True"}
    assert [one.counted for one in told] == [1] * CLIENTS
    assert "put" not in {message.kind for _, message, _ in server.seen}


@pytest.mark.parametrize(
    "reply",
    [Message("have", {"offset": 0}), Message("chunk", {"offset": 0, "total": 1, "packed": "raw"}, b"x")],
)
def test_an_answer_that_asks_for_the_vector_itself_gets_nothing(tmp_path, reply):
    artifact = made_artifact()
    made, _ = devices(tmp_path, artifact)
    server, times = SumServer(artifact, rounds=1), []

    def change(client, honest):
        if honest.kind in ("secure", "wait", "taken") and len(times) < 1:
            times.append(client)
            return reply
        return honest

    server.change = change
    with contextlib.suppress(AssertionError, secagg.SecureAggregationError):
        run(server, made)
    assert times
    assert "put" not in {message.kind for _, message, _ in server.seen}


def test_a_device_that_leaves_a_sum_says_whom_it_blames_and_shows_nothing(tmp_path):
    artifact = made_artifact()
    (device, *_), _ = devices(tmp_path, artifact)
    server, asked = SumServer(artifact, rounds=1), []

    def on_secure(client, head, body):
        asked.append(body)
        if len(asked) > 1:
            return Message("refused", {"reason": "it left", "again": True})
        empty = secagg.messages.Roster(masked.number_of(0, 0), secagg.errors.SERVER, b"s" * 32, (), ())
        return Message("secure", {"stage": "share"}, secagg.messages.encode(empty))

    server.on_secure, times = on_secure, []
    server.change = lambda client, reply: (
        times.append(1) or (Message("finished", {"rounds": 0, "settled": -1, "counted": False}))
        if len(asked) > 1 and reply.kind == "task"
        else reply
    )
    told = run(server, [device])[0]
    assert (told.failures, told.trained, told.ended) == (1, 0, "finished")
    abort = secagg.messages.decode(asked[1], secagg.messages.limits(server.parameters))
    assert isinstance(abort, secagg.messages.Abort)
    assert abort.offender == secagg.errors.SERVER
    assert len(asked) == 2


def test_a_sum_that_never_goes_on_is_left(tmp_path):
    artifact = made_artifact()
    waits = []

    async def wait(seconds):
        waits.append(seconds)

    async def ask(message):
        return Message("wait", {"seconds": 1e9, "reason": "", "settled": -1, "counted": False})

    given = {"round_number": 0, "attempt": 0, "client": 1, "wait": wait}
    manifest = program.load(artifact).manifest
    with pytest.raises(ServerRefuses, match="has not gone on for 3600 seconds"):
        asyncio.run(masked.take_part(ask, manifest, np.zeros(3, np.uint32), **given))
    assert set(waits) == {30.0}


def test_the_way_for_updates_in_the_clear_is_closed_in_a_masked_run():
    async def ask(message):
        raise RuntimeError("something was sent")

    with pytest.raises(AssertionError, match="masked run was about to be sent in the clear"):
        asyncio.run(moving.upload(ask, {"masked": True}, b"vector", round_number=0, attempt=0))


def test_a_sum_that_keeps_no_promise_is_refused():
    manifest = program.load(made_artifact()).manifest
    assert masked.refusal(manifest, known=False) is None
    assert "names no secure sum" in masked.refusal({**manifest, "secure_sum": None}, known=False)
    small = {**manifest, "secure_sum": SUM | {"min_survivors": 1}}
    assert "is somebody's input" in masked.refusal(small, known=False)
    assert "keeps no promise" in masked.refusal({**manifest, "secure_sum": SUM | {"other": 1}}, known=False)
    assert "and its message is another" in masked.refusal({**manifest, "secure_sum": SUM | {"length": 4}}, known=True)
    lying = {**manifest, "secure_sum": SUM | {"server": "lying"}}
    assert "knows no keys of the others: put known.json" in masked.refusal(lying, known=False)


def test_every_attempt_has_keys_of_its_own():
    numbers = {masked.number_of(r, a) for r in range(5) for a in range(5)}
    assert len(numbers) == 25
    with pytest.raises(ValueError, match="round 1, attempt 65536 has no secure sum"):
        masked.number_of(1, 2**16)


def test_known_keys_that_are_none_are_refused(tmp_path):
    path = tmp_path / "known.json"
    assert masked.identity(b"k" * 32, path) is None
    for text in ("[]", '{"0": "ab"}', "{", '{"x": "' + "ab" * 32 + '"}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="known.json' is damaged"):
            masked.identity(b"k" * 32, path)
