"""The server's state machine, message by message."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from machines import PLAIN, SPEC, Desk, N, check_in, composed, plain, put, update, with_settings

import fedjaxlite as fl
from fedjaxlite import privacy
from fedjaxlite.deploy.device.protocol import Message
from fedjaxlite.deploy.server import tables
from fedjaxlite.deploy.server.building import Server
from fedjaxlite.deploy.server.disk.journal import carry_out, open_at
from fedjaxlite.deploy.server.settings import checked
from fedjaxlite.deploy.server.turning import draw


def drawn(desk: Desk) -> list[int]:
    return list(desk.state.open.selected)


def test_a_round_begins_once_enough_have_checked_in_and_closes_with_their_mean() -> None:
    desk = Desk(plain())
    assert desk.ask(4, check_in()).kind == desk.ask(2, check_in()).kind == "wait"
    assert desk.state.phase == "waiting"
    task = desk.ask(7, check_in())
    assert (task.kind, desk.state.phase, sorted(drawn(desk))) == ("task", "open", [2, 4, 7])
    assert (task.head["round"], task.head["attempt"], task.head["client"]) == (0, 0, 7)
    others = [desk.ask(u, check_in()) for u in (2, 4)]
    assert [reply.kind for reply in others] == ["task", "task"]
    assert len({tuple(reply.head["key"]) for reply in (task, *others)}) == 3
    model = desk.ask(7, Message("get", {"sha256": task.head["model"], "offset": 0}))
    assert (model.kind, len(model.body), model.head["total"]) == ("chunk", 4, 4)
    for u, value in ((4, 1.0), (7, 2.0), (2, 6.0)):
        assert desk.ask(u, put(value)) == Message("taken", {"round": 0})
    assert (desk.state.phase, desk.state.number) == ("waiting", 1)
    assert float(desk.state.rounds.params) == -3.0
    (record,) = desk.records
    assert (record["round"], record["clients"], record["examples"], record["late"]) == (1, [4, 7, 2], 6, 0)
    assert record["bytes_up"] == 3 * len(update(0.0))
    assert record["bytes_down"] == 3 * 4


def test_a_step_that_leaves_no_finite_model_is_not_made() -> None:
    desk = Desk(plain())
    desk.all_in((2, 4, 7))
    for u in (2, 4, 7):
        desk.ask(u, put(3e38))  # finite each, and not in a sum
    assert (desk.state.phase, desk.state.number, desk.state.attempt) == ("waiting", 0, 1)
    assert float(desk.state.rounds.params) == 0.0
    assert desk.records == []
    desk.all_in((2, 4, 7))
    for u, value in ((2, 1.0), (4, 2.0), (7, 6.0)):
        assert desk.ask(u, put(value, attempt=1)) == Message("taken", {"round": 0})
    assert (desk.state.number, float(desk.state.rounds.params)) == (1, -3.0)


def test_the_draw_is_a_function_of_round_and_set() -> None:
    forward, backward = Desk(with_settings(min_waiting=N)), Desk(with_settings(min_waiting=N))
    forward.all_in(range(N))
    backward.all_in(reversed(range(N)))
    assert drawn(forward) == drawn(backward)
    assert len(drawn(forward)) == 3


def test_every_client_is_drawn_as_often() -> None:
    """300 draws of 3 of 9: each count is binomial(300, 1/3), and 5 standard deviations are 41."""
    state, counts = Desk(plain()).state, np.zeros(N, int)
    for number in range(300):
        counts[list(draw(state._replace(number=number), range(N), 3))] += 1
    assert counts.sum() == 900
    assert np.abs(counts - 100).max() < 41


def test_an_attempt_draws_anew() -> None:
    state = Desk(plain()).state
    assert len({draw(state._replace(attempt=a), range(N), 3) for a in range(20)}) > 10


def test_who_is_not_eligible_waits_and_hears_why() -> None:
    desk = Desk(plain())
    reply = desk.ask(0, check_in(charging=False))
    assert reply.head["reason"] == "clients take part that are idle, charging, wireless; this one is not charging"
    reply = desk.ask(0, check_in(num_examples=5))
    assert reply.head["reason"] == "clients take part that have 1 to 4 examples; this one has 5"
    assert len(desk.state.presence) == 0
    assert Desk(with_settings(eligible=("idle",))).ask(0, check_in(charging=False)).head["reason"].startswith("a round")


def test_a_check_in_counts_for_a_while() -> None:
    desk = Desk(with_settings(presence=10.0))
    desk.ask(0, check_in())
    desk.ask(1, check_in())
    desk.now = 11.0
    assert desk.ask(2, check_in()).kind == "wait"
    assert list(tables.numbers(desk.state.presence)) == [2]


def test_waits_are_spread() -> None:
    desk = Desk(plain())
    seconds = [desk.ask(u % 2, check_in()).head["seconds"] for u in range(2)]
    assert len(set(seconds)) == 2
    assert all(0.5 <= s <= 1.5 for s in seconds)


def test_the_first_that_report_are_in_and_the_others_are_late() -> None:
    desk = Desk(with_settings(over_select=5))
    desk.all_in(range(5))
    first, late = drawn(desk)[:3], drawn(desk)[3:]
    for u in first:
        assert desk.ask(u, put(1.0)).kind == "taken"
    reply = desk.ask(late[0], put(1.0))
    assert reply.head == {"reason": "round 0 (attempt 0) is closed, without this update: it is late.", "again": False}
    assert desk.records[0]["late"] == 2
    assert desk.records[0]["selected"] == 5
    for u, counted in ((first[0], True), (late[0], False)):
        head = desk.ask(u, check_in(pending=0)).head
        assert (head["settled"], head["counted"]) == (0, counted)
    assert desk.ask(first[0], put(1.0)).kind == "taken"  # its answer may have been lost
    assert desk.ask(first[0], put(2.0)).head["reason"] == "another update of this client is in the sum already."


def test_an_update_is_not_settled_while_its_round_goes_on() -> None:
    desk = Desk(plain())
    desk.all_in(range(3))
    desk.ask(1, put(1.0))
    reply = desk.ask(1, check_in(pending=0))
    assert (reply.kind, reply.head["settled"], reply.head["reason"]) == (
        "wait",
        -1,
        "the update is here; the round goes on",
    )


def test_a_deadline_closes_with_those_who_reported() -> None:
    desk = Desk(plain())
    desk.all_in(range(3))
    desk.ask(0, put(1.0))
    desk.ask(2, put(3.0))
    desk.tick(99.0)
    assert desk.state.phase == "open"
    desk.tick(1.0)
    assert float(desk.state.rounds.params) == -2.0
    assert desk.records[0]["late"] == 1


def test_too_few_reports_are_another_attempt_and_nothing_of_the_first_counts() -> None:
    desk = Desk(plain())
    desk.all_in(range(3))
    desk.ask(0, put(1.0))
    desk.tick(100.0)
    assert (desk.state.phase, desk.state.number, desk.state.attempt) == ("waiting", 0, 1)
    assert not [name for name in desk.files if name.startswith("uploads")]
    for u in (0, 1, 2):
        head = desk.ask(u, check_in(pending=0)).head
        assert (head["settled"], head["counted"]) == (0, False)
    assert desk.ask(1, check_in()).head["attempt"] == 1
    desk.all_in(range(3))
    for u in (0, 1, 2):
        assert desk.ask(u, put(2.0)).kind == "refused"
        assert desk.ask(u, put(4.0, attempt=1)).kind == "taken"
    assert float(desk.state.rounds.params) == -4.0
    assert desk.records[0]["attempt"] == 1


def test_a_client_that_was_killed_gets_the_same_task() -> None:
    desk = Desk(plain())
    first = desk.all_in(range(3))
    again = desk.ask(1, check_in(pending=0))
    assert again.kind == "task"
    assert again.head | {"seconds": 0.0} == first[1].head | {"seconds": 0.0}


def test_a_client_that_fails_gives_its_place_away() -> None:
    desk = Desk(with_settings(min_waiting=5))
    desk.all_in(range(5))
    one = drawn(desk)[0]
    assert desk.ask(one, Message("failed", {"round": 0, "attempt": 0, "reason": "no memory"})).kind == "taken"
    assert len(drawn(desk)) == 4
    assert drawn(desk)[3] not in drawn(desk)[:3]
    assert desk.ask(one, check_in()).head["reason"] == "it left the round: no memory"
    new = drawn(desk)[3]
    assert desk.ask(new, check_in()).kind == "task"
    for u in drawn(desk)[1:]:
        assert desk.ask(u, put(1.0)).kind == "taken"
    assert desk.records[0]["failed"] == 1
    assert one not in desk.records[0]["clients"]
    assert desk.ask(one, Message("failed", {"round": 0, "attempt": 0, "reason": ""})).kind == "refused"


def test_nobody_is_left_so_the_round_does_not_wait() -> None:
    desk = Desk(plain())
    desk.all_in(range(3))
    for u in (0, 1):
        desk.ask(u, put(float(u)))
    desk.ask(2, Message("failed", {"round": 0, "attempt": 0, "reason": ""}))
    assert desk.state.number == 1
    assert desk.records[0]["clients"] == [0, 1]


def test_uploads_go_on_where_they_ended_also_after_a_kill() -> None:
    desk, data = Desk(plain()), update(7.0)
    desk.all_in(range(3))
    assert desk.ask(1, put(7.0, size=3)).head == {"offset": 3}
    assert desk.ask(1, put(7.0, at=2, size=2)).head == {"offset": 3}  # out of order: where it goes on
    assert desk.ask(1, put(7.0, size=0)).head == {"offset": 3}  # asked
    desk.killed()
    assert desk.ask(1, put(7.0, size=0)).head == {"offset": 3}
    assert desk.ask(1, put(8.0, size=2)).head == {"offset": 2}  # another update in its place
    assert desk.ask(1, put(7.0, at=3)).head == {"offset": 0}
    assert desk.ask(1, put(7.0)).kind == "taken"
    assert not [name for name in desk.files if name.startswith("parts")]
    assert desk.ask(0, put(7.0, total=len(data) + 1)).head["reason"] == (
        f"an update of {len(data) + 1} bytes; expected {len(data)}, as the program says."
    )
    reply = desk.ask(0, put(7.0, sha256="0" * 64))
    assert reply.head == {"reason": "the bytes are not those of their hash; send them again.", "again": True}
    assert desk.ask(0, put(7.0, packed="zlib")).kind == "refused"
    assert desk.ask(0, put(7.0)).kind == "taken"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_in_no_sum(value: float) -> None:
    desk = Desk(plain())
    desk.all_in(range(3))
    reply = desk.ask(1, put(value))
    assert reply.head["reason"] == "the update holds what is no finite number; it is not in the sum."
    assert desk.ask(1, put(1.0)).head["reason"] == "this client left the round: an update that is not finite."
    desk.ask(0, put(1.0))
    desk.ask(2, put(2.0))
    assert float(desk.state.rounds.params) == -1.5
    assert (desk.records[0]["nonfinite"], desk.records[0]["reported"]) == (1, 3)


def test_strangers_and_those_without_a_task_move_nothing() -> None:
    desk = Desk(plain())
    tasks = desk.all_in(range(4))
    (odd,) = set(range(4)) - set(drawn(desk))
    assert desk.ask(N, check_in()).head["reason"] == f"client {N} is none of this run's."
    assert desk.ask(-1, check_in()).kind == "refused"
    assert desk.ask(odd, put(1.0)).head["reason"] == "this client has no task in the round."
    assert desk.ask(odd, Message("failed", {"round": 0, "attempt": 0, "reason": ""})).kind == "refused"
    model = tasks[drawn(desk)[0]].head["model"]
    assert desk.ask(odd, Message("get", {"sha256": model, "offset": 0})).kind == "refused"
    assert desk.ask(drawn(desk)[0], put(1.0, number=1)).head["reason"] == "round 1 (attempt 0) has not begun."
    assert desk.ask(0, Message("secure", {"round": 0, "attempt": 0})).head["reason"] == "this run has no secure sums."
    assert not desk.state.open.taken


def test_a_run_ends() -> None:
    desk = Desk(plain()._replace(num_rounds=1))
    desk.all_in(range(3))
    for u in range(3):
        desk.ask(u, put(1.0))
    assert desk.ask(1, check_in(pending=0)).head == {"rounds": 1, "settled": 0, "counted": True}
    desk.killed()
    assert desk.ask(1, check_in(pending=0)).head == {"rounds": 1, "settled": 0, "counted": True}
    assert len(desk.records) == 1


def test_an_evaluation_is_a_mean_over_examples_and_survives_a_kill() -> None:
    desk = Desk(with_settings(evaluate_every=2, evaluate_clients=2))
    for number in range(2):
        desk.all_in(range(3))
        for u in range(3):
            desk.ask(u, put(1.0, number))
    assert desk.state.phase == "evaluating"
    assert len(desk.records) == 1
    replies = [desk.ask(u, check_in()) for u in range(3)]
    assert [reply.kind for reply in replies] == ["task", "task", "wait"]
    assert (replies[0].head["what"], replies[0].head["round"]) == ("evaluate", 2)
    told = {"round": 2, "metrics": {"loss": 1.0}, "num_examples": 1}
    assert desk.ask(0, Message("evaluated", told)).kind == "taken"
    assert desk.ask(0, Message("evaluated", told)).kind == "taken"
    assert desk.ask(0, Message("evaluated", told | {"num_examples": 2})).kind == "refused"
    desk.killed()
    assert desk.ask(2, check_in()).kind == "task"
    assert desk.ask(2, Message("evaluated", told | {"metrics": {"loss": 4.0}, "num_examples": 2})).kind == "taken"
    assert (desk.state.phase, desk.records[1]["client_loss"], desk.records[1]["evaluated"]) == ("waiting", 3.0, 2)
    desk.killed()
    assert desk.state.phase == "waiting"
    assert len(desk.records) == 2


def test_metrics_that_no_device_computes_are_refused_and_the_mean_stays_a_number() -> None:
    desk = Desk(with_settings(evaluate_every=1, evaluate_clients=2))
    desk.all_in(range(3))
    for u in range(3):
        desk.ask(u, put(1.0))
    for u in (0, 1):
        assert desk.ask(u, check_in(pending=0)).head["what"] == "evaluate"
    told = {"round": 1, "num_examples": 4}
    for u, value in ((0, 1.7e308), (1, -1.7e308)):  # their sum would be none, and the server would end
        reply = desk.ask(u, Message("evaluated", told | {"metrics": {"loss": value}}))
        assert reply.head["reason"] == f"a metric of {value:.3g}; expected numbers of float32."
    for u, value in ((0, 3.4e38), (1, -3.4e38)):
        assert desk.ask(u, Message("evaluated", told | {"metrics": {"loss": value}})).kind == "taken"
    assert desk.records[0]["client_loss"] == 0.0


def test_who_does_not_evaluate_leaves_it_to_the_next() -> None:
    desk = Desk(with_settings(evaluate_every=1, evaluate_clients=1))
    desk.all_in(range(3))
    for u in range(3):
        desk.ask(u, put(1.0))
    assert desk.ask(1, check_in()).head["what"] == "evaluate"
    assert desk.ask(2, check_in()).kind == "wait"
    for _ in range(2):
        assert desk.ask(1, Message("failed", {"round": 1, "attempt": 0, "reason": "no"})).kind == "taken"
    assert desk.ask(1, check_in()).kind == "wait"
    assert desk.ask(2, check_in()).head["what"] == "evaluate"


def test_an_evaluation_that_nobody_answers_ends() -> None:
    desk = Desk(with_settings(evaluate_every=1))
    desk.all_in(range(3))
    for u in range(3):
        desk.ask(u, put(1.0))
    desk.tick(100.0)
    assert desk.state.phase == "waiting"
    assert desk.records[0]["evaluated"] == 0


def test_a_server_that_is_killed_between_any_two_effects_goes_on_as_if_not(tmp_path) -> None:
    """The last update closes a round: the upload, the record, the checkpoint, and what is dropped."""
    from fedjaxlite.deploy.server.answering import answer

    for cut in range(7):
        desk = Desk(plain(), open_at(tmp_path / str(cut)))
        for number in range(2):
            desk.all_in(range(3))
            for u in range(3):
                if (number, u) == (1, 2):
                    _, _, effects = answer(desk.server, desk.state, u, put(0.5, number), desk.now)
                    assert cut <= len(effects)
                    carry_out(desk.journal, effects[:cut])
                    desk.killed()
                    if desk.state.open is not None:
                        assert list(desk.state.open.taken) == ([0, 1] if cut == 0 else [0, 1, 2])
                assert desk.ask(u, put(0.25 * 2**u * (number + 1) if u < 2 else 0.5, number)).kind == "taken"
        desk.tick()
        assert desk.state.number == 2
        assert float(desk.state.rounds.params) == -np.float32(np.float32(1.25) / 3 + np.float32(2.0) / 3)
        lines = fl.observers.records.read(tmp_path / str(cut) / "records.jsonl")
        assert [line["round"] for line in lines] == [1, 2]


def test_an_upload_that_is_damaged_on_the_disk_did_not_count() -> None:
    desk = Desk(plain())
    desk.all_in(range(3))
    desk.ask(0, put(1.0))
    (path,) = [name for name in desk.files if name.startswith("uploads")]
    desk.files[path] = bytes(len(desk.files[path]))
    desk.killed()
    assert not desk.state.open.taken
    assert desk.ask(0, put(1.0)).kind == "taken"


def test_a_folder_of_another_run_is_refused(tmp_path) -> None:
    journal = open_at(tmp_path)
    Desk(plain(), journal)
    other = plain()._replace(first=plain().first._replace(server_state=(np.zeros(3, np.float32),)))
    with pytest.raises(ValueError, match="the folder is of another run: its state has the arrays"):
        Desk(other, journal)
    rounds = composed(sampler=fl.sampling.uniform(4))
    with pytest.raises(
        ValueError, match="its sampler is checked_in\\(3\\), and that of these rounds checked_in\\(4\\)"
    ):
        Desk(Server(rounds, jnp.float32(0), SPEC, key=jax.random.key(1), num_rounds=5), journal)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"over_select": 2}, "`over_select` of the ServerSettings is 2; expected 3 to 9"),
        ({"min_reports": 4}, "`min_reports` of the ServerSettings is 4; expected 1 to 3"),
        ({"min_waiting": 1}, "a round counts with 2 reports at least: one of 1 clients never would"),
        ({"deadline": 0.0}, "`deadline` of the ServerSettings is 0.0; expected seconds above 0"),
        ({"presence": 1.0}, "clients would be forgotten before they ask again"),
        ({"eligible": ("rich",)}, "expected a tuple of some of idle, charging, wireless"),
        ({"eligible": "idle"}, "expected a tuple of some of idle"),
        ({"server": "kind"}, "`server` is 'kind'"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, words) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        checked(PLAIN._replace(**changes), capacity=3, num_clients=9, masked=False)


def test_metrics_of_a_masked_run_have_to_be_wanted() -> None:
    with pytest.raises(ValueError, match="asks clients of a masked run for metrics, which no mask hides"):
        checked(PLAIN._replace(evaluate_every=1), capacity=3, num_clients=9, masked=True)


def test_what_cannot_be_drawn_from_those_present_is_refused() -> None:
    rounds = composed(sampler=fl.sampling.poisson(0.3, capacity=5))
    with pytest.raises(ValueError, match="decides who is drawn from the whole population"):
        Server(rounds, jnp.float32(0), SPEC, key=jax.random.key(0), num_rounds=1)


def test_no_accountant_is_told_of_amplification() -> None:
    noised = fl.chain(fl.mean(over=3), privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0))
    server = Server(composed(aggregator=noised), jnp.float32(0), SPEC, key=jax.random.key(0), num_rounds=3)
    told = server.first.ledger.last.told()
    assert told["sampler"]["accounting"]["kind"] == "availability"
    assert told["sampler"]["accounting"]["amplification"] is False
    page = str(privacy.report(server.rounds, N, num_rounds=3, delta=1e-5, state=server.first))
    assert "no amplification is claimed" in page
    with pytest.raises(ValueError, match="made by another composition than the one that is asked about"):
        privacy.report(composed(aggregator=noised), N, num_rounds=3, delta=1e-5, state=server.first)
