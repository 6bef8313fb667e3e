"""Masked rounds of a deployed server: secure sums that clients drive, and what becomes of them."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from machines import PLAIN, SPEC, Desk, N, check_in, composed, put
from playing import secure

import fedjaxlite as fl
from fedjaxlite import privacy
from fedjaxlite.deploy.device.protocol import Message, encode
from fedjaxlite.deploy.server import masked
from fedjaxlite.deploy.server.answering import answer
from fedjaxlite.deploy.server.building import Server
from fedjaxlite.deploy.server.disk.journal import carry_out
from fedjaxlite.deploy.server.settings import checked
from fedjaxlite.deploy.server.state import Keep, ServerHalf
from fedjaxlite.privacy import secagg

K = 4


@lru_cache(maxsize=1)
def hidden() -> ServerHalf:
    chain = fl.chain(fl.mean(), fl.clip_by_value(1.0), fl.quantize(bits=8), privacy.mask(min_survivors=3))
    rounds = composed(aggregator=chain, sampler=fl.sampling.uniform(K))
    settings = PLAIN._replace(stage=10.0, min_reports=None)
    return Server(rounds, jnp.float32(0), SPEC, key=jax.random.key(1), num_rounds=3, settings=settings)


def vector(value: int) -> np.ndarray:
    return np.full(hidden().secure.length, value, np.uint32)


class Table:
    """The clients of a sum, each with its generator and what it is to send next."""

    def __init__(self, desk: Desk, clients: Any, known: Any = None) -> None:
        self.desk, self.ended, self.next = desk, {}, {}
        self.parts = {}
        for u in clients:
            task = desk.ask(u, check_in())
            assert task.kind == "task"
            self.parts[u] = secure(u, desk.server, task.head, vector(u + 1), known[u] if known else None)
            self.next[u] = next(self.parts[u])

    def turn(self, clients: Any) -> None:
        """One message of each of these clients."""
        for u in clients:
            if u in self.ended:
                continue
            reply = self.desk.ask(u, self.next[u])
            try:
                step = self.parts[u].send(reply)
                while isinstance(step, float):
                    step = self.parts[u].send(None)
                self.next[u] = step
            except StopIteration:
                self.ended[u] = reply

    def play(self, clients: Any, turns: int = 12) -> None:
        for _ in range(turns):
            self.turn(clients)


def begun(server: ServerHalf | None = None, num: int = K) -> Desk:
    desk = Desk(server or hidden())
    for u in range(num):
        desk.ask(u, check_in())
    return desk


def test_a_masked_round_opens_the_sum_of_all_and_takes_nothing_in_the_clear() -> None:
    desk = begun()
    table = Table(desk, range(K))
    assert desk.ask(0, put(1.0)).head == {
        "reason": "this is a masked run: no update is taken in the clear.",
        "again": False,
    }
    found = []
    own = desk.server.halves.of_sum
    desk.server = desk.server._replace(halves=desk.server.halves._replace(of_sum=lambda w: found.append(w) or own(w)))
    table.play(range(K))
    assert {u: reply.kind for u, reply in table.ended.items()} == dict.fromkeys(range(K), "taken")
    np.testing.assert_array_equal(found[0], vector(1 + 2 + 3 + 4))
    assert (desk.state.number, desk.records[0]["clients"]) == (1, [0, 1, 2, 3])
    for u in range(K):
        head = desk.ask(u, check_in(pending=0)).head
        assert (head["settled"], head["counted"]) == (0, True)
    assert not [name for name in desk.files if name.startswith(("sums", "uploads"))]


def test_a_client_that_leaves_in_the_middle_is_not_in_the_sum() -> None:
    desk = begun()
    table = Table(desk, range(K))
    table.turn(range(K))
    table.turn(range(K))
    table.play((0, 1, 3), 4)  # 2 has shown its keys, and is gone
    assert desk.state.number == 0
    desk.tick(10.0)
    table.play((0, 1, 3))
    assert desk.state.number == 1
    assert desk.records[0]["clients"] == [0, 1, 3]
    head = desk.ask(2, check_in(pending=0)).head
    assert (head["settled"], head["counted"]) == (0, False)
    assert desk.ask(2, table.next[2]).kind == "refused"


def test_too_few_survivors_are_another_attempt_with_another_number() -> None:
    desk = begun()
    first = masked.number_of(desk.state.number, desk.state.attempt)
    table = Table(desk, range(K))
    table.turn(range(K))
    table.turn(range(K))
    for _ in range(2):  # shares, and then vectors
        table.play((0, 1), 4)
        desk.tick(10.0)
    assert (desk.state.phase, desk.state.attempt, desk.state.number) == ("waiting", 1, 0)
    assert desk.ask(0, table.next[0]).kind == "refused"
    assert masked.number_of(desk.state.number, desk.state.attempt) == first + 1
    again = begun_again(desk)
    again.play(range(K))
    assert desk.records[0]["attempt"] == 1
    assert desk.state.number == 1


def begun_again(desk: Desk) -> Table:
    for u in range(K):
        desk.ask(u, check_in(pending=desk.state.number))
    return Table(desk, range(K))


def test_a_server_that_is_killed_before_the_sum_is_open_begins_the_next_attempt() -> None:
    desk = begun()
    table = Table(desk, range(K))
    table.play(range(K), 3)
    desk.killed()
    assert (desk.state.phase, desk.state.attempt) == ("waiting", 1)
    desk.killed()
    assert desk.state.attempt == 1
    begun_again(desk).play(range(K))
    assert desk.state.number == 1


def test_a_sum_that_was_opened_counts_although_the_server_is_killed_before_its_step() -> None:
    desk = begun()
    table = Table(desk, range(K))
    while True:
        for u in range(K):
            state, _, effects = answer(desk.server, desk.state, u, table.next[u], desk.now)
            if any(isinstance(effect, Keep) and effect.path.startswith("sums") for effect in effects):
                carry_out(desk.journal, effects[:1])
                desk.killed()
                assert desk.state.number == 1
                assert desk.records[0]["clients"] == [0, 1, 2, 3]
                want = [np.asarray(leaf) for leaf in jax.tree.leaves(state.rounds.params)]
                got = [np.asarray(leaf) for leaf in jax.tree.leaves(desk.state.rounds.params)]
                np.testing.assert_array_equal(got, want)
                assert desk.ask(u, table.next[u]) == Message("taken", {"round": 0})
                return
            table.turn((u,))


def test_a_message_that_comes_twice_is_answered_twice_and_counts_once() -> None:
    desk = begun()
    table = Table(desk, range(K))
    table.turn((0,))
    body = desk.state.open.secure
    said = Message("secure", {"round": 0, "attempt": 0}, b"")
    assert desk.ask(0, said).kind == "wait"
    assert desk.state.open.secure == body
    assert desk.ask(0, check_in(pending=0)).kind == "wait"  # its keys went with the process that showed them
    table.turn((1, 2))
    before = table.next[3]
    table.turn((3,))
    told = desk.ask(3, before)  # the answer was lost: it hears the same again
    assert told.kind == "secure"
    assert told.head["stage"] == "share"
    assert desk.ask(3, before) == told
    table.play(range(K))
    assert desk.state.number == 1


def test_garbage_in_a_sum_is_refused_and_harms_nobody() -> None:
    desk = begun()
    table = Table(desk, range(K))
    table.turn(range(2))
    garbage = [b"x", encode(check_in())[:30], table.next[3].body[:-1], table.next[3].body + b"0"]
    for u in range(K):
        for body in (*garbage, table.next[3].body if u != 3 else b"y"):
            reply = desk.ask(u, Message("secure", {"round": 0, "attempt": 0}, body))
            assert reply.kind == "refused"
            assert reply.head["reason"].startswith(("Malformed", "UnknownClient"))
    assert desk.ask(0, Message("secure", {"round": 0, "attempt": 1}, b"x")).kind == "refused"
    assert desk.ask(N - 1, Message("secure", {"round": 0, "attempt": 0}, b"x")).head["reason"].startswith("this client")
    table.play(range(K))
    assert desk.records[0]["clients"] == [0, 1, 2, 3]


def test_the_first_that_show_keys_are_the_cohort_and_the_others_are_late() -> None:
    settings = PLAIN._replace(stage=10.0, min_reports=None, over_select=6)
    numbers = checked(settings, capacity=K, num_clients=N, masked=True)
    desk = begun(hidden()._replace(numbers=numbers), 6)
    table = Table(desk, range(6))
    table.turn(range(4))
    table.turn((4, 5))
    assert table.ended[4].head["reason"] == "the sum began without client 4: it is late."
    assert desk.ask(4, check_in(pending=0)).kind == "wait"
    table.play(range(4))
    assert desk.records[0]["clients"] == [0, 1, 2, 3]
    assert desk.records[0]["late"] == 2


def test_nobody_shows_keys_before_the_deadline() -> None:
    desk = begun()
    desk.tick(100.0)
    assert (desk.state.phase, desk.state.attempt) == ("waiting", 1)


def test_the_parameters_of_the_sum_are_those_of_the_masks() -> None:
    told = masked.arguments_of(hidden().template, server="semi-honest")
    assert told == {
        "length": hidden().secure.length,
        "num_clients": 4,
        "neighbors": 3,
        "threshold": None,
        "colluders": 0,
        "min_survivors": 3,
        "server": "semi-honest",
    }


def test_keys_are_signed_where_the_server_may_lie_also_those_of_who_enrolled_since() -> None:
    arguments = masked.arguments_of(hidden().template, server="lying")
    who = secagg.identities(range(K))
    public = dict(who[0].known)
    server = hidden()._replace(secure=secagg.parameters(**arguments), known={0: public[0]})
    desk = begun(server)
    table = Table(desk, range(K), who)
    table.turn((0,))
    table.turn((0,))
    forged = table.next[1].body[:-1] + bytes([table.next[1].body[-1] ^ 1])
    desk.server = desk.server._replace(known=public)
    reply = desk.ask(1, Message("secure", {"round": 0, "attempt": 0}, forged))
    assert reply.head["reason"].startswith("BadSignature")
    table.play(range(K), 15)
    assert desk.records[0]["clients"] == [0, 1, 2, 3]


def test_a_sum_that_is_never_opened_is_refused_when_it_is_built() -> None:
    rounds = composed(aggregator=hidden().template.program.aggregator, sampler=fl.sampling.uniform(K))
    settings = PLAIN._replace(min_waiting=2)
    with pytest.raises(ValueError, match="a secure sum is of 3 clients at least: one of 2 is never opened"):
        Server(rounds, jnp.float32(0), SPEC, key=jax.random.key(1), num_rounds=3, settings=settings)


def test_a_server_that_may_lie_has_to_know_its_clients() -> None:
    rounds = composed(aggregator=hidden().template.program.aggregator, sampler=fl.sampling.uniform(K))
    settings = PLAIN._replace(server="lying")
    with pytest.raises(ValueError, match="`known` is missing; expected"):
        Server(rounds, jnp.float32(0), SPEC, key=jax.random.key(1), num_rounds=3, settings=settings)
