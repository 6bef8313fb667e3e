"""A device's loop against a server in memory: rounds, kills, lost answers, servers that change their minds."""

import asyncio
import contextlib
import re
from functools import lru_cache

import jax.numpy as jnp
import numpy as np
import pytest
import toy_programs as toys
from deploy_messages import MESSAGES
from fake_server import Server, X, made_device, sha256
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjaxlite.deploy.device import home as homes
from fedjaxlite.deploy.device import program
from fedjaxlite.deploy.device.artifact import pack
from fedjaxlite.deploy.device.home import ledger
from fedjaxlite.deploy.device.joining import join
from fedjaxlite.deploy.device.policy import Policy
from fedjaxlite.deploy.device.protocol import Message, encode
from fedjaxlite.deploy.device.work.loop import attend
from fedjaxlite.deploy.program.writing import artifact_of

_load = lru_cache(program.load)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The order of writes is looked at here, not the disk's; and a program is compiled once for all tests."""
    monkeypatch.setattr("os.fsync", lambda number: None)
    monkeypatch.setattr(program, "load", _load)


# The toy's update is the sum of (1, 2, 3) above the model, which is 1, 2, 3 in the three rounds.
UPDATES = {0: pack([np.float32(3)]), 1: pack([np.float32(0)]), 2: pack([np.float32(-3)])}


def state_of(device) -> int:
    return int(np.frombuffer(homes.committed(device.home).state, np.int32)[0])


def run(device, server, **options):
    return asyncio.run(attend(device, server.connect, **options))


def test_rounds_are_those_of_the_program_and_its_state_counts_them(tmp_path):
    server, device = Server(), made_device(tmp_path)
    told = run(device, server)
    assert (told.trained, told.counted, told.refused, told.failures, told.ended) == (3, 3, (), 0, "finished")
    assert server.taken == UPDATES
    assert state_of(device) == 7 + 3
    assert homes.read(tmp_path).program == sha256(toys.artifact())
    assert [m.kind for m in server.seen].count("get") == 1 + 3
    assert len(list((tmp_path / "models").iterdir())) == 1


def test_what_did_not_count_leaves_the_state_as_it_was(tmp_path):
    server, device = Server(), made_device(tmp_path)
    server.counts = False
    told = run(device, server)
    assert (told.trained, told.counted) == (3, 0)
    assert homes.committed(device.home) is None
    assert homes.pending(device.home) is None


def test_it_ends_after_as_many_rounds_as_its_owner_says_and_goes_on_later(tmp_path):
    server, device = Server(), made_device(tmp_path)
    assert run(device, server, rounds=1)._replace(failures=0) == (1, 0, 0, (), 0, "enough rounds")
    assert homes.pending(device.home).round == 0
    assert run(device, server)[:2] == (2, 3)
    assert server.taken == UPDATES
    assert state_of(device) == 10


@pytest.mark.parametrize("lost", ["question", "answer"])
def test_a_connection_that_breaks_anywhere_changes_nothing(tmp_path, lost):
    for number in range(9):
        server, device = Server(rounds=2), made_device(tmp_path / str(number))
        asked = []

        # Twice: a question that is lost once is asked again at once, and of that nothing is seen here.
        def hook(message, before, asked=asked, number=number):
            asked.append(message)
            first = 2 * number + (1 if lost == "question" else 2)
            if len(asked) in (first, first + (1 if lost == "question" else 2)):
                raise ConnectionResetError("gone")

        server.hook = hook
        told = run(device, server)
        assert told.ended == "finished"
        assert told.failures == (1 if number < 8 else told.failures)
        assert server.taken == {r: UPDATES[r] for r in range(2)}
        assert state_of(device) == 9


class Killed(BaseException):
    pass


@pytest.mark.parametrize("at", ["question", "answer", "disk"])
def test_a_kill_anywhere_changes_nothing(tmp_path, at, monkeypatch):
    for number in range(1, 60):
        server, path = Server(rounds=2), tmp_path / str(number)
        steps = []

        def step(*_, steps=steps, number=number):
            steps.append(1)
            if len(steps) == number:
                raise Killed

        with monkeypatch.context() as patched:
            if at == "disk":
                before = homes.states.write_whole
                patched.setattr(homes.states, "write_whole", lambda *a, before=before: (step(), before(*a), step()))
            else:
                server.hook = lambda message, before: step() if before == (at == "question") else None
            try:
                run(made_device(path), server)
                break
            except Killed:
                pass
        told = run(made_device(path), server)
        assert told.ended == "finished"
        assert server.taken == {r: UPDATES[r] for r in range(2)}
        assert state_of(made_device(path)) == 9
    assert number > 6


def noisy(model, kept, x, num_examples, key, client, noise):
    return noise[0].astype(jnp.float32), kept + 1, jnp.bool_(True), model


def test_noise_is_drawn_once_for_a_round_whatever_happens_to_it(tmp_path):
    artifact = artifact_of(toys.manifest(noise=True), toys.entries(program=toys.exported(noisy)))[0]
    server, device = Server(artifact=artifact, rounds=1), made_device(tmp_path)
    sent = []

    def hook(message, before):
        if message.kind == "put" and before and message.body:
            sent.append(message)
            if len(sent) == 1:
                server.attempt = 1  # the server was killed, and begins the round anew
                raise ConnectionResetError("gone")

    server.hook = hook
    assert run(device, server)[:2] == (1, 1)
    assert [message.head["attempt"] for message in sent] == [0, 0, 1]
    assert len({message.body for message in sent} - {bytes(4)}) == 1


def test_an_attempt_that_did_not_count_is_sent_again_as_it_was(tmp_path):
    artifact = artifact_of(toys.manifest(noise=True), toys.entries(program=toys.exported(noisy)))[0]
    server, device = Server(artifact=artifact, rounds=1), made_device(tmp_path)
    honest, sent = server.on_put, []

    def on_put(head, body):
        sent.append((head["attempt"], body))
        if len(sent) == 1:
            server.attempt = 1  # too few: the round begins anew, and this update did not count
            return Message("refused", {"reason": "too few", "again": False})
        return honest(head, body)

    server.on_put = on_put
    server.change = lambda m: m._replace(head=m.head | {"settled": 0}) if len(sent) == 1 else m
    told = run(device, server)
    assert (told.trained, told.counted, told.failures) == (1, 1, 1)
    assert [attempt for attempt, body in sent if body] == [0, 1]
    assert len({body for _, body in sent if body}) == 1


def test_a_connection_that_broke_once_is_made_anew_and_told_to_the_ledger(tmp_path):
    server, device, broken = Server(rounds=1), made_device(tmp_path), []

    def hook(message, before):
        if before and message.kind == "put" and not broken:
            server.bytes += 4 + len(encode(message))
            broken.append(message)
            raise ConnectionResetError("while it trained")

    server.hook = hook
    assert run(device, server) == (1, 1, 0, (), 0, "finished")
    assert ledger.summary(device.log).sent == server.bytes


def test_a_program_that_fails_is_a_refusal_and_no_end(tmp_path, monkeypatch):
    server, device, runs = Server(), made_device(tmp_path), []
    honest = program.run

    def failing(*inputs, **options):
        runs.append(1)
        if len(runs) == 2:
            raise MemoryError("out of memory")
        return honest(*inputs, **options)

    monkeypatch.setattr(program, "run", failing)
    told = run(device, server)
    assert told.refused == ("the program failed on this device: MemoryError: out of memory",)
    assert (told.trained, told.counted) == (3, 3)


def test_an_update_that_is_not_finite_is_not_sent(tmp_path):
    server = Server()
    server.model = np.float32(np.inf)
    device = made_device(tmp_path)
    with pytest.raises(AssertionError, match="waits for ever"):
        run(device, server)
    reasons = {line["reason"] for line in ledger.lines(device.log) if line["kind"] == "refused"}
    assert reasons == {"the update is not finite"}
    assert {message.kind for message in server.seen} == {"check_in", "get", "failed"}


FIELDS = (
    *("round", "attempt", "what", "program", "program_bytes", "model", "model_bytes", "client", "upload_bytes"),
    *("masked", "seconds", "settled", "counted", "offset", "total"),
)


@given(st.data())
def test_whatever_a_server_says_the_device_goes_on_unharmed(tmp_path_factory, data):
    fuzzed(tmp_path_factory, data)


@pytest.mark.slow
@settings(max_examples=1000)
@given(st.data())
def test_whatever_a_server_says_often(tmp_path_factory, data):
    fuzzed(tmp_path_factory, data)


def fuzzed(tmp_path_factory, data):
    server, device = Server(rounds=2), made_device(tmp_path_factory.mktemp("fuzz"))
    odd = st.sampled_from(
        [-1, 0, 1, 2, 3, 4, 5, 2**31 - 1, 2**40, 0.0, 1e9, True, False, "train", "evaluate", "ab" * 32]
    )
    changed = st.dictionaries(st.sampled_from(FIELDS), odd, min_size=1, max_size=2)
    places = data.draw(st.dictionaries(st.integers(0, 14), st.one_of(MESSAGES, changed), max_size=6))
    honest, said = server.answer, []

    def answer(message):
        said.append(message)
        reply = honest(message)  # it hears the question, and says something else
        change = places.get(len(said) - 1, {})
        if isinstance(change, Message):
            return change
        return reply._replace(head={name: change.get(name, value) for name, value in reply.head.items()})

    server.answer = answer
    with contextlib.suppress(AssertionError):  # "waits for ever", where it was told to in the middle of a task
        told = run(device, server)
        assert all(type(reason) is str for reason in told.refused)
    homes.read(device.home.folder)
    kept = homes.committed(device.home)
    # Its state is that of the updates that the server said are in a sum, and of no others.
    assert kept is None or (kept.round in server.taken and state_of(device) in (8, 9))
    assert {m.kind for m in said} <= {"check_in", "get", "put", "failed", "evaluated", "secure"}
    # What it sends are updates of the models that there are, whatever number their round was given.
    assert {m.body for m in said if m.kind == "put" and m.body} <= set(UPDATES.values())


def test_noise_is_the_devices_own(tmp_path):
    artifact = artifact_of(toys.manifest(noise=True), toys.entries(program=toys.exported(noisy)))[0]
    server = Server(artifact=artifact)
    run(made_device(tmp_path), server)
    assert len(set(server.taken.values())) == 3


def test_a_large_update_goes_on_where_the_servers_copy_ends(tmp_path):
    server, device = Server(rounds=1), made_device(tmp_path)
    asked = []

    def have_nothing(head, body, put=server.on_put):
        asked.append(head["offset"])
        return Message("have", {"offset": 2 if len(asked) % 2 else 0})

    server.on_put = have_nothing
    with pytest.raises(AssertionError, match="waits for ever"):
        run(device, server)
    assert "the server's copy of the update stays at" in str(list(device.report.__self__))


CHANGES = {
    "program": ({"program": "ab" * 32}, f"to run the program {'ab' * 32}, and this device has agreed to"),
    "shape": ({"model_bytes": 8}, "says model_bytes 8, where this device and its program have 4"),
    "upload": ({"upload_bytes": 5}, "says upload_bytes 5, where the program's message has 4"),
    "client": ({"client": 4}, "says client 4, where this device and its program have 3"),
    "masked": ({"masked": True}, "says masked True, where this device and its program have False"),
    "back": ({"round": 0}, "is for round 0 .attempt 0., and this device's update of round 0 is in a sum already"),
    "open end": ({"settled": -1, "counted": False}, "has not said whether the update of round 0 counted"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_server_that_changes_the_terms_in_mid_run_is_refused_and_the_device_goes_on(tmp_path, name):
    server, device, (changed, reason) = Server(), made_device(tmp_path), CHANGES[name]
    times = []

    def change(message):
        if message.head["round"] != 1 or len(times) == 3:
            return message
        times.append(len(server.seen))
        return message._replace(head=message.head | changed)

    server.change = change
    told = run(device, server)
    assert len(told.refused) == 3
    assert all(re.search(reason, text) for text in told.refused)
    assert (told.trained, told.counted, told.ended) == (3, 3, "finished")
    assert server.taken == UPDATES
    assert state_of(device) == 10
    # Between two refusals nothing leaves but a check-in, and that it refuses.
    assert {m.kind for m in server.seen[times[0] : times[-1]]} == {"check_in", "failed"}
    assert {m.head["reason"] for m in server.seen if m.kind == "failed"} == {"the device does not take the task"}
    assert ledger.summary(device.log).refused == 3


def test_a_round_that_was_settled_is_not_done_under_the_same_numbers(tmp_path):
    server, device = Server(), made_device(tmp_path)
    server.counts, times = False, []

    def change(message):
        if message.head["round"] != 1 or times:
            return message
        times.append(1)
        return message._replace(head=message.head | {"round": 0})

    server.change = change
    told = run(device, server)
    assert told.refused == ("the task is for round 0 (attempt 0), which the server has settled already",)


def test_a_settled_round_that_was_never_sent_is_out_of_order(tmp_path):
    server, device = Server(), made_device(tmp_path)
    times = []

    def change(message):
        times.append(1)
        return message._replace(head=message.head | {"settled": 5}) if len(times) == 1 else message

    server.change = change
    assert run(device, server)[:5] == (3, 3, 0, (), 1)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda head: head | {"total": head["total"] + 1}, "expected the one at 0 of"),
        (lambda head: head | {"offset": 1}, "a piece at 1 of"),
    ],
)
def test_a_download_that_changes_its_size_is_left(tmp_path, change, why):
    server, device = Server(rounds=1), made_device(tmp_path)
    honest, times = server.on_get, []

    def on_get(head, body):
        reply = honest(head, body)
        times.append(1)
        return reply._replace(head=change(reply.head)) if len(times) < 3 else reply

    server.on_get = on_get
    told = run(device, server)
    assert (told.failures, told.trained) == (2, 1)
    assert any(why in line for line in device.report.__self__)


def test_another_content_than_its_hash_says_is_left(tmp_path):
    server, device = Server(rounds=1), made_device(tmp_path)
    honest, times = server.on_get, []

    def on_get(head, body):
        reply = honest(head, body)
        times.append(1)
        return reply._replace(body=reply.body[:-1] + b"\x01") if len(times) == 2 else reply

    server.on_get = on_get
    told = run(device, server)
    assert (told.failures, told.trained) == (1, 1)


def test_an_owner_may_allow_other_programs_and_its_state_begins_anew(tmp_path):
    server, device = Server(), made_device(tmp_path, policy=Policy(new_programs=True))
    run(device, server)
    other = artifact_of(toys.manifest(algorithm="another"), toys.entries())[0]
    told = run(made_device(tmp_path, policy=Policy(new_programs=True)), Server(artifact=other, rounds=1))
    assert (told.trained, told.counted, told.refused) == (1, 1, ())
    assert state_of(device) == 8
    assert homes.read(tmp_path).program == sha256(other)


def test_metrics_leave_where_the_policy_lets_them(tmp_path):
    server = Server(evaluate=True)
    told = run(made_device(tmp_path / "yes"), server)
    assert (told.evaluated, told.trained) == (3, 3)
    assert [m["loss"] for m in server.metrics] == pytest.approx([5 / 3, 2 / 3, 5 / 3])
    server, device = Server(evaluate=True), made_device(tmp_path / "no", policy=Policy(evaluation=False))
    with pytest.raises(AssertionError, match="waits for ever"):
        run(device, server)
    assert server.metrics == []
    assert not server.taken


def test_a_program_that_breaks_a_rule_is_neither_run_nor_pinned(tmp_path):
    server, device = Server(), made_device(tmp_path, policy=Policy(masked_only=True))
    with pytest.raises(AssertionError, match="waits for ever"):
        run(device, server)
    assert homes.read(tmp_path).program == ""
    assert {message.kind for message in server.seen} == {"check_in", "get", "failed"}
    assert ledger.summary(device.log).programs == ()


def test_a_damaged_cache_is_fetched_anew(tmp_path):
    server = Server()
    run(made_device(tmp_path), server, rounds=1)
    for path in (*(tmp_path / "models").iterdir(), *(tmp_path / "programs").iterdir()):
        path.write_bytes(bytes(path.stat().st_size))
    server.model = np.float32(1)  # the model whose copy is damaged, once more
    assert run(made_device(tmp_path), server)[:2] == (2, 3)
    assert [m.kind for m in server.seen].count("get") == 2 + 3
    assert server.taken[1] == UPDATES[0]


def test_a_device_whose_owner_has_no_time_is_not_even_told_of(tmp_path):
    server, device = Server(), made_device(tmp_path, policy=Policy(least_examples=4))
    with pytest.raises(AssertionError, match="waits for ever"):
        run(device, server)
    assert server.seen == []


def test_data_that_do_not_fit_the_program_are_refused_in_words(tmp_path):
    arrays = {"x": np.float32([1, 2, 3, 4, 5])}
    server, device = Server(), made_device(tmp_path, arrays=arrays)
    with pytest.raises(AssertionError, match="waits for ever"):
        run(device, server)
    reasons = {line["reason"] for line in ledger.lines(device.log) if line["kind"] == "refused"}
    assert [reason for reason in reasons if reason.startswith("the data hold 5 examples, and the program takes 1 to 4")]


def test_the_ledger_has_every_byte_that_left(tmp_path):
    server, device = Server(evaluate=True), made_device(tmp_path)
    run(device, server)
    told = ledger.summary(device.log)
    assert told.sent == server.bytes
    assert told.messages == len(server.seen)
    assert (told.updates, told.sums, told.evaluations, told.largest_norm) == (3, 0, 3, 3.0)
    assert told.programs == (sha256(toys.artifact()),)
    puts = [line for line in ledger.lines(device.log) if line["kind"] == "put"]
    assert [line["sha256"] for line in puts] == [sha256(UPDATES[r]) for r in range(3)]
    assert [(line["norm"], line["num_examples"]) for line in puts] == [(3.0, 3), (0.0, 3), (3.0, 3)]


def test_join_locks_the_folder_and_reads_the_data_from_a_file(tmp_path):
    device, server = made_device(tmp_path / "home"), Server()
    np.savez(tmp_path / "data.npz", **X)
    told = join(device.home, tmp_path / "data.npz", connect=server.connect)
    assert told[:2] == (3, 3)
    assert server.taken == UPDATES
