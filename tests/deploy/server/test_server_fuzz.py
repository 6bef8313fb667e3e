"""Whatever arrives in whichever order, and whenever the server is killed: what holds of its state and its sums."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from deploy_messages import MESSAGES
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import Desk, K, N, check_in, put, with_settings

from fedjaxlite.deploy.device.protocol import Message, is_question
from fedjaxlite.deploy.server import tables

CLIENTS = st.integers(0, N - 1)
NEAR = st.integers(-1, 1)
QUESTIONS = MESSAGES.map(lambda message: message if is_question(message) else check_in())
VALUES = st.sampled_from((0.0, 1.0, 2.0, 5.0, np.nan))

STEPS = st.one_of(
    st.tuples(st.just("gather"), st.integers(2, N)),
    st.tuples(st.just("gather"), st.integers(2, N)),
    st.tuples(st.just("all work"), VALUES, st.integers(1, 4)),
    st.tuples(st.just("all work"), VALUES, st.integers(1, 4)),
    st.tuples(st.just("check_in"), CLIENTS, NEAR, NEAR, st.booleans()),
    st.tuples(st.just("work"), CLIENTS, VALUES),
    st.tuples(st.just("work"), CLIENTS, VALUES),
    st.tuples(st.just("put"), st.integers(-1, N), VALUES, NEAR, NEAR, st.integers(0, 7)),
    st.tuples(st.just("again")),
    st.tuples(st.just("failed"), CLIENTS, NEAR),
    st.tuples(st.just("evaluated"), CLIENTS, NEAR),
    st.tuples(st.just("any"), st.integers(-5, N + 5), QUESTIONS),
    st.tuples(st.just("later"), st.sampled_from((0.1, 5.0, 101.0))),
    st.tuples(st.just("killed")),
)


def messages_of(desk: Desk, step: tuple[Any, ...]) -> list[tuple[int, Message]]:
    """What is sent in a step: a few messages that bring a round on, or one of any kind."""
    number, attempt = desk.state.number, desk.state.attempt
    match step:
        case ("gather", clients):
            return [(u, check_in()) for _ in range(2) for u in range(clients)]
        case ("all work", value, clients):
            drawn = desk.state.open.selected if desk.state.open else range(clients)
            asked = sorted(desk.state.evaluation.asked) if desk.state.evaluation else []
            told = {"round": number, "metrics": {"loss": 1.0}, "num_examples": 2}
            return [
                *((u, put(value, number, attempt)) for u in drawn[:clients]),
                *((u, Message("evaluated", told)) for u in asked),
            ]
    return [message_of(number, attempt, step)]


def message_of(number: int, attempt: int, step: tuple[Any, ...]) -> tuple[int, Message]:
    match step:
        case ("check_in", client, rounds, attempts, fits):
            return client, check_in(max(-1, number + rounds), max(0, attempt + attempts), idle=fits)
        case ("work", client, value):
            return client, put(value, number, attempt)
        case ("put", client, value, rounds, attempts, size):
            at = {"number": max(0, number + rounds), "attempt": max(0, attempt + attempts)}
            return client, put(value, **at, size=size)
        case ("failed", client, rounds):
            return client, Message("failed", {"round": max(0, number + rounds), "attempt": attempt, "reason": ""})
        case ("evaluated", client, rounds):
            head = {"round": max(0, number + rounds), "metrics": {"loss": 1.0}, "num_examples": 2}
            return client, Message("evaluated", head)
        case (_, client, message):
            return client, message
    raise AssertionError(step)


def check(desk: Desk, before: tuple[int, int]) -> None:
    state = desk.state
    assert (state.number, state.attempt) >= before
    assert len(state.presence) <= N
    assert len(state.counted) <= N
    if state.open is not None:
        one = state.open
        assert set(one.taken) <= one.told <= set(one.selected)
        assert len(set(one.selected)) == len(one.selected)
        assert len(one.taken) <= K
        assert not one.taken.keys() & one.out.keys()
        assert all(one.awaits(u) for u in one.partial)
        held = [name for name in desk.files if name.startswith("uploads/")]
        assert [int(name.split("/")[2].split("-")[1]) for name in sorted(held)] == list(one.taken)
    assert len(desk.files) <= 2 * N + 5


@settings(max_examples=25, deadline=None)
@given(st.lists(STEPS, min_size=15, max_size=60), st.sampled_from((3, 4)))
def test_no_message_breaks_what_holds(steps: list[Any], over: int) -> None:
    hold(steps, over)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.lists(STEPS, min_size=30, max_size=120), st.sampled_from((3, 4, 6)))
def test_no_message_breaks_what_holds_in_long_runs(steps: list[Any], over: int) -> None:
    hold(steps, over)


def hold(steps: list[Any], over: int) -> None:
    desk = Desk(with_settings(over_select=over, evaluate_every=2, evaluate_clients=1))
    last: list[tuple[int, Message]] = []
    values: dict[tuple[int, int, int], float] = {}
    sums: list[float] = []
    for step in steps:
        before = (desk.state.number, desk.state.attempt)
        if step[0] == "later":
            desk.tick(step[1])
        elif step[0] == "killed":
            open_, phase = desk.state.open, desk.state.phase
            desk.killed()
            assert desk.state.phase == phase
            assert open_ is None or list(desk.state.open.taken.items()) == list(open_.taken.items())
        else:
            for client, message in messages_of(desk, step) if step[0] != "again" else last:
                last = [(client, message)]
                reply = desk.ask(client, message)
                if reply.kind == "taken" and message.kind == "put":
                    key = (client, message.head["round"], message.head["attempt"])
                    sent = values.setdefault(key, message.head["sha256"])
                    assert sent == message.head["sha256"]  # one update of a client in an attempt
        check(desk, before)
    # Every record's clients were each taken, once, in that attempt; and the model is the sum of their updates.
    model = np.float32(0)
    by_hash = {put(v).head["sha256"]: v for v in (0.0, 1.0, 2.0, 5.0)}
    numbers = [record["round"] for record in desk.records]
    assert numbers == list(range(1, len(numbers) + 1))
    every = [*desk.records, *([desk.state.record] if desk.state.record else [])]
    for record in every:
        clients = record["clients"]
        assert max(Counter(clients).values()) == 1
        assert len(clients) >= 2
        sent = [by_hash[values[u, record["round"] - 1, record["attempt"]]] for u in clients]
        sums.append(sum(sent))
        model -= np.float32(sum(sent)) / np.float32(len(sent))
    assert len(every) == desk.state.number
    np.testing.assert_allclose(desk.state.rounds.params, model, rtol=1e-6, atol=1e-6)
    for client in tables.numbers(desk.state.counted):
        told = tables.get(desk.state.counted, client)
        assert client in every[told.round]["clients"]
        assert told.attempt == every[told.round]["attempt"]
