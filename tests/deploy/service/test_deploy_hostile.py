"""A run with hostile clients among and around its own: each is refused with a reason, memory stays bounded, and the
model is that of the honest ones."""

import asyncio
import contextlib
import gc
import hashlib
import logging
import random
import re
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest
from crowd import KEYS, compiled, composed, heard, honest, linked, mutated, raw, serving, simulated
from deploy_messages import GOOD
from deploy_toy import OTHER_CLIENTS
from machines import check_in
from small_deployments import PARAMS, people

import fedjaxlite as fl
from fedjaxlite import privacy
from fedjaxlite.deploy.device import link
from fedjaxlite.deploy.device.protocol import CHUNK, BadMessage, Message, decode, encode, is_question
from fedjaxlite.transport import authority, frames

HONEST, INSIDERS, HALF, OUTSIDERS, SLOW = (0, 1, 2), (3, 4, 5), 6, (7, 8), (9, 10)
DRAWN, N = 7, 11
SETTINGS = fl.deploy.ServerSettings(
    over_select=DRAWN, min_waiting=DRAWN, wait=0.02, presence=1000.0, deadline=1000.0, eligible=("idle",)
)

pytestmark = pytest.mark.usefixtures("little_garbage")  # memory is measured without it


@pytest.fixture(autouse=True)
def unheard(caplog):
    """Records of the log hold what was refused, and pytest would keep every one of them."""
    caplog.set_level(logging.CRITICAL, "fedjaxlite.deploy")


def memory() -> int:
    """Bytes that this process, server and clients, has in memory now."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def attacks(task, size):
    """What a drawn client may ask that it has no right to, and the words with which that is refused."""
    number, attempt = task["round"], task["attempt"]
    data = bytes(size)

    def put(body=data, **changes):
        head = {"round": number, "attempt": attempt, "sha256": "1" * 64, "offset": 0, "total": size, "packed": "raw"}
        return Message("put", head | changes, body)

    evaluated = {"round": number, "metrics": {"loss": 1.7e308}, "num_examples": 4}
    before = [(put(round=number - 1), "is closed, without this update: it is late")] if number else []
    return [
        *before,
        (put(round=number + 1), "has not begun"),
        (put(attempt=attempt + 1), "has not begun"),
        (put(round=2**53 - 1, attempt=2**31 - 1), "has not begun"),
        (put(), "the bytes are not those of their hash"),
        (put(total=2**40), f"an update of {2**40} bytes; expected {size}, as the program says"),
        (put(b"", total=size + 1), f"an update of {size + 1} bytes; expected {size}"),
        (put(bytes(CHUNK)), "a piece of more than"),
        (put(b"abc", packed="zlib"), "does not unpack|zlib"),
        (Message("secure", {"round": number, "attempt": attempt}, b"x" * 99), "this run has no secure sums"),
        (Message("evaluated", evaluated), "an evaluation after . rounds is not asked of this client"),
        (Message("evaluated", evaluated | {"round": number + 1}), "is not asked of this client"),
        (Message("get", {"sha256": "2" * 64, "offset": 0}), "neither this run's program nor the model of your task"),
        (Message("get", {"sha256": task["model"], "offset": 5}), "pieces begin at multiples of"),
        (Message("get", {"sha256": task["model"], "offset": 2**40}), "pieces begin at multiples of"),
        (Message("failed", {"round": number + 1, "attempt": 0, "reason": ""}), "has no task in that round"),
        (Message("enroll", {"token": "guess", "csr": ""}), "this is no enrolment token"),
    ]


BYTES = [
    (b'{"kind":"evaluated","round":0,"metrics":{"loss":NaN},"num_examples":1}', "NaN, which is no number"),
    (b'{"kind":"evaluated","round":0,"metrics":{"loss":1e999},"num_examples":1}', "`metrics` is"),
    (b'{"kind":"put","kind":"put"}', "names a field twice"),
    (b'{"kind":"have","offset":1}', "only the server says that"),
    (b'{"kind":"get","sha256":"","offset":-1}', "`sha256` is"),
    (b"[" * 9999, "not JSON"),
]


def is_good(data):
    try:
        return is_question(decode(data))
    except BadMessage:
        return False


class Crowd:
    """What the clients of a run share."""

    def __init__(self, served, num_rounds, seed):
        self.served, self.num_rounds, self.rng = served, num_rounds, random.Random(seed)
        self.said = [encode(message) for message in GOOD if is_question(message)]
        self.replies = Counter()
        self.done = {number: [asyncio.Event() for _ in (*INSIDERS, HALF)] for number in range(num_rounds)}
        self.outside = asyncio.Event()

    async def before_put(self, number):
        """Honest clients wait until all have done what they wanted in the round: every attack falls into an open one."""
        for event in self.done[number]:
            await event.wait()
        if number == self.num_rounds - 1:
            await self.outside.wait()

    async def fuzz(self, client, count):
        """Sends so many hostile messages, over a new connection whenever the server has hung up."""
        while count > 0:
            async with raw(self.served, client) as (reader, writer):
                strikes = 0  # of which the eighth ends the connection
                while count > 0 and strikes < 8:
                    count -= 1
                    data = mutated(self.rng, self.said)
                    strikes += not is_good(data)
                    await frames.write_frame(writer, data, seconds=30)
                    reply = await heard(reader)
                    self.replies[reply.kind] += 1
                    assert reply.kind == "refused" or is_good(data)
                    assert reply.kind != "refused" or reply.head["reason"]

    async def task_of(self, line, client, number):
        """The task of a round, or None once the run is finished."""
        while True:
            reply = await link.ask(line, check_in(num_examples=1))
            if reply.kind == "finished":
                return None
            if reply.kind == "task" and reply.head["round"] == number:
                return reply.head
            await asyncio.sleep(0.01)


async def insider(crowd, client, size, count):
    """A client that is drawn in every round, and does whatever it should not."""
    for number in range(crowd.num_rounds):
        line = linked(crowd.served, client)
        task = await crowd.task_of(line, client, number)
        for message, words in attacks(task, size):
            reply = await link.ask(line, message)
            assert reply.kind == "refused", (message, reply)
            assert re.search(words, reply.head["reason"]), (message, reply)
            crowd.replies["attack"] += 1
        for _ in range(20):  # what was said before is answered as before
            assert (await link.ask(line, check_in(num_examples=1))).head["round"] == number
        await link.close(line)
        async with raw(crowd.served, client) as (reader, writer):
            for head, words in BYTES:
                await frames.write_frame(writer, b"FJD\1" + len(head).to_bytes(4) + head, seconds=30)
                assert words in (await heard(reader)).head["reason"]
            writer.write(b"\xff\xff\xff\xff")
            assert "expected at most" in (await heard(reader)).head["reason"]
        await crowd.fuzz(client, count)
        if client == INSIDERS[0]:  # an update that is no number, under the right hash: it is out of the round
            line = linked(crowd.served, client)
            reply = await link.ask(line, nan_of(size, number))
            assert "no finite number" in reply.head["reason"] or "left the round" in reply.head["reason"]
            await link.close(line)
        crowd.done[number][client - INSIDERS[0]].set()


def nan_of(size, number):
    data = np.full(size // 4, np.nan, np.float32).tobytes()
    head = {"round": number, "attempt": 0, "sha256": hashlib.sha256(data).hexdigest(), "offset": 0, "total": size}
    return Message("put", head | {"packed": "raw"}, data)


async def half_way(crowd, size):
    """A client that sends half an update in every round, and is revoked in the middle of the last one."""
    for number in range(crowd.num_rounds):
        line = linked(crowd.served, HALF)
        await crowd.task_of(line, HALF, number)
        half = nan_of(size, number)
        half = half._replace(body=half.body[: size // 2])
        assert (await link.ask(line, half)).head == {"offset": size // 2}
        if number == crowd.num_rounds - 1:
            authority.revoke(crowd.served.authority, HALF)
            for _ in range(2):  # on this connection, and on another one
                rest = half._replace(head=half.head | {"offset": size // 2})
                reply = await link.ask(line, rest)
                assert reply.head == {"reason": "this client's certificate was revoked.", "again": False}
                await link.close(line)
        await link.close(line)
        crowd.done[number][-1].set()


async def outsiders(crowd, count):
    """Clients that were not drawn, strangers, and those that are slow, until the last round may end."""
    reader_of, writer_of = SLOW

    async def slow_reader():
        async with raw(crowd.served, reader_of) as (_, writer):
            writer.transport.pause_reading()
            with contextlib.suppress(OSError, TimeoutError):
                for _ in range(1000):
                    await frames.write_frame(writer, encode(check_in(idle=False)), seconds=2)

    async def slow_writer():
        async with raw(crowd.served, writer_of) as (reader, writer):
            writer.write(b"\0\0\1\0")
            with contextlib.suppress(OSError):
                for _ in range(1000):
                    writer.write(b"F")
                    await asyncio.sleep(0.05)
                    if reader.at_eof():
                        break
            with contextlib.suppress(OSError):
                assert await reader.read() == b""

    async def flood(client):
        line = linked(crowd.served, client)
        for _ in range(count):
            crowd.replies[(await link.ask(line, check_in(idle=False))).kind] += 1
        await link.close(line)

    async def foreign():
        other = OTHER_CLIENTS[0]._replace(authority=crowd.served.clients[0].authority)
        for _ in range(5):
            with pytest.raises((OSError, EOFError)):
                async with raw(crowd.served, other) as (reader, writer):
                    await frames.write_frame(writer, encode(check_in()), seconds=5)
                    await heard(reader)

    await asyncio.gather(slow_reader(), slow_writer(), flood(OUTSIDERS[0]), foreign())
    await asyncio.gather(*(crowd.fuzz(u, count) for u in OUTSIDERS))
    crowd.outside.set()


def attacked(place, *, num_rounds, count, seed):
    """Plays a run; the replies to fuzzed messages, and by how many bytes the process grew after its first round."""
    data = people(N)
    server = fl.deploy.Server(composed(3), PARAMS, data, num_rounds=num_rounds, settings=SETTINGS, **KEYS)
    size, grown = server.upload_bytes, []

    async def work():
        short = frames.Timeouts(connect=20.0, stage=60.0, frame=1.0)
        async with serving(server, place, N, timeouts=short) as served:
            crowd, half = Crowd(served, num_rounds, seed), compiled(server)

            async def before_put(number):
                await crowd.before_put(number)
                grown.append(memory())

            runs = [
                *(honest(served, u, server, half, data.client(u), before_put, crowd.said) for u in HONEST),
                *(insider(crowd, u, size, count) for u in INSIDERS),
                *(half_way(crowd, size), outsiders(crowd, count)),
            ]
            async with asyncio.timeout(3000), asyncio.TaskGroup() as group:
                tasks = [group.create_task(each) for each in runs]
            disks = [task.result() for task in tasks[: len(HONEST)]]
        return served.task.result(), served.records, disks, crowd.replies

    state, records, disks, replies = asyncio.run(work())
    assert [sorted(record["clients"]) for record in records] == [list(HONEST)] * num_rounds
    assert [disk["counted"] for disk in disks] == [list(range(num_rounds))] * len(HONEST)
    want = simulated([record["clients"] for record in records], data, 3)
    for ours, theirs in zip(jax.tree.leaves(state.rounds.params), jax.tree.leaves(want.params), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    return replies, max(grown) - grown[0]


def test_hostile_clients_change_nothing_for_the_honest_ones(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda number: None)
    replies, grown = attacked(tmp_path, num_rounds=3, count=25, seed=1)
    assert replies["refused"] > 100
    assert replies["attack"] == 3 * (3 * 16 + 2)
    assert grown < 48 * 2**20
    print(dict(replies), f"{grown / 2**20:.1f} MiB")


@pytest.mark.slow
def test_ten_thousand_hostile_messages_change_nothing_for_the_honest_ones(tmp_path):
    replies, grown = attacked(tmp_path, num_rounds=10, count=310, seed=2)
    assert sum(replies.values()) > 10_000
    assert grown < 48 * 2**20
    print(dict(replies), f"{grown / 2**20:.1f} MiB")


MASKS = fl.chain(
    fl.weighted_mean(weight_cap=8), fl.clip_by_value(1.0), fl.quantize(bits=12), privacy.mask(min_survivors=3)
)


async def in_a_sum(crowd, client, size, count):
    """A drawn client of a masked run: says what it has no right to, replays others' messages, and leaves in the end."""
    for number in range(crowd.num_rounds):
        line = linked(crowd.served, client)
        task = await crowd.task_of(line, client, number)
        assert task["masked"]
        for body in (b"", bytes(size), bytes(size // 2)):
            reply = await link.ask(line, nan_of(size, number)._replace(body=body))
            assert reply.head["reason"] == "this is a masked run: no update is taken in the clear."
        # What the others have said in rounds before, whole and with bytes changed, in their place and in its own.
        bodies = [decode(data).body for data in crowd.said]
        bodies = [body for body in bodies if body] or [b"x" * 99]
        for _ in range(count):
            body = bytearray(crowd.rng.choice(bodies))
            for _ in range(crowd.rng.randint(0, 3)):
                body[crowd.rng.randrange(len(body))] ^= 1 << crowd.rng.randrange(8)
            reply = await link.ask(line, Message("secure", {"round": number, "attempt": 0}, bytes(body)))
            assert reply.kind == "refused"
            assert re.search("Malformed|UnknownClient|WrongRound|WrongStage", reply.head["reason"])
        for head in ({"round": number + 1, "attempt": 0}, {"round": number, "attempt": 1}):
            reply = await link.ask(line, Message("secure", head, b"x"))
            assert "is not at hand; check in again" in reply.head["reason"]
        await link.ask(line, Message("failed", {"round": number, "attempt": 0, "reason": "enough"}))
        reply = await link.ask(line, Message("secure", {"round": number, "attempt": 0}, bytes(bodies[0])))
        assert reply.head["reason"] == "this client has no task in the round, or left it."
        await link.close(line)
        crowd.done[number][0].set()


@pytest.mark.parametrize("num_rounds", [pytest.param(1, id="once"), pytest.param(4, id="long", marks=pytest.mark.slow)])
def test_a_masked_run_takes_no_update_in_the_clear_and_no_garbage_into_its_sums(tmp_path, num_rounds):
    data = people(4)
    settings = fl.deploy.ServerSettings(wait=0.02, poll=0.02, presence=1000.0, deadline=1000.0, stage=100.0)
    rounds = composed(4, aggregator=MASKS)
    server = fl.deploy.Server(rounds, PARAMS, data, num_rounds=num_rounds, settings=settings, **KEYS)

    async def work():
        async with serving(server, tmp_path, 4) as served:
            crowd, half = Crowd(served, num_rounds, seed=5), compiled(server)
            crowd.said.clear()

            async def before(number):
                await crowd.done[number][0].wait()

            async with asyncio.timeout(600), asyncio.TaskGroup() as group:
                for u in HONEST:
                    group.create_task(honest(served, u, server, half, data.client(u), before, crowd.said))
                group.create_task(in_a_sum(crowd, 3, server.upload_bytes, 100))
        return served.task.result(), served.records

    state, records = asyncio.run(work())
    assert [(sorted(record["clients"]), record["failed"]) for record in records] == [(list(HONEST), 1)] * num_rounds
    want = simulated([record["clients"] for record in records], data, 4, MASKS)
    for ours, theirs in zip(jax.tree.leaves(state.rounds.params), jax.tree.leaves(want.params), strict=True):
        np.testing.assert_array_equal(ours, theirs)
