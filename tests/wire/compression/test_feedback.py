"""Error feedback: published values, what is conserved when clients come and go, and the model on its way down."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.wire.compression.feedback.downlink import downlink
from fedjaxlite.wire.compression.feedback.error_feedback import KINDS, error_feedback

Codec = Callable[[], fl.Aggregator]


def largest_entry() -> fl.Aggregator:
    """The entry of largest magnitude of an update that is one vector: top-1."""

    def encode(state: Any, own: Any, message: fl.Message, client: fl.ClientInfo) -> Any:
        one = jnp.argmax(jnp.abs(message.value))
        return message._replace(value=jnp.zeros_like(message.value).at[one].set(message.value[one])), own

    return fl.Aggregator(encode=encode, read=lambda state, message, client: message, sum_safe=False, name="largest")


def everything() -> fl.Aggregator:
    """A codec that loses nothing."""
    return fl.clip_by_value(1e30)


def coarse() -> tuple[fl.Aggregator, ...]:
    return fl.clip_by_value(2.0), fl.quantize(bits=2)


class TestThreeQuadratics:
    """f_i = <a_i, x>^2 + |x|^2 / 4 from x = (1, 1, 1): Beznosikov et al. (2020), https://arxiv.org/abs/2002.12410."""

    PEOPLE = fl.Population.from_arrays({"a": np.float32([[-3, 2, 2], [2, -3, 2], [2, 2, -3]])}, client_ids=np.arange(3))

    def run_of(self, *codecs: fl.Aggregator) -> tuple[fl.Rounds, Any]:
        def gradient(shared: jax.Array, own: Any, data: fl.ClientData, key: Any) -> fl.ClientOutput:
            a = data.features["a"][data.offset]
            return fl.ClientOutput(2.0 * jnp.dot(a, shared) * a + shared / 2.0)

        descent = fl.Algorithm(
            lambda params: params,
            gradient,
            lambda params, aggregate, key: params - 0.02 * aggregate.value,
            params=lambda params: params,
        )
        chain = fl.chain(fl.mean(), *codecs)
        run = fl.rounds(descent, sampler=fl.sampling.full(3), aggregator=chain, execution=helpers.ONE)
        return run, run.init(jnp.ones(3), self.PEOPLE, key=jax.random.key(0))

    def length(self, *codecs: fl.Aggregator) -> float:
        run, state = self.run_of(*codecs)
        state, _ = run.steps(state, self.PEOPLE, 300)
        return float(np.linalg.norm(np.float64(run.params(state))))

    @pytest.mark.parametrize(
        ("codecs", "value"),
        [
            pytest.param((), 0.00145369, marks=pytest.mark.slow),
            pytest.param((largest_entry(),), 85_172.799, marks=pytest.mark.slow),
            ((error_feedback(largest_entry()),), 0.00118704),
            ((error_feedback(largest_entry(), kind="ef21"),), 0.00134474),
        ],
        ids=["no compression", "no feedback", "ef14", "ef21"],
    )
    def test_the_values_after_300_steps(self, codecs: tuple[fl.Aggregator, ...], value: float) -> None:
        assert self.length(*codecs) == pytest.approx(value, rel=1e-7, abs=1e-8 if value < 1 else 0.1)

    def test_without_feedback_every_step_makes_it_longer_by_the_same(self) -> None:
        (run, state), few = self.run_of(largest_entry()), []
        for _ in range(3):
            state, _ = run.step(state, self.PEOPLE)
            few.append(np.linalg.norm(np.float64(run.params(state))))
        np.testing.assert_allclose(np.divide(few[1:], few[:-1]), 1 + 11 * 0.02 / 6, rtol=1e-6)

    def test_the_momentum_of_ef21_does_not_diverge_either(self) -> None:
        assert self.length(error_feedback(largest_entry(), kind="ef21_sgdm", momentum=0.5)) < 0.01


SIZES = [3, 1, 4, 2, 5, 1]
PEOPLE = helpers.one_value_each([1.0, -0.5, 0.25, 0.75, -1.0, 0.1], SIZES)
START = jnp.zeros((3,))


def total_of_rounds() -> fl.Algorithm:
    """Clients send a vector of their own; the server adds up what it gets."""
    update = lambda data: helpers.first_value(data) * jnp.float32([1.0, 0.3, -0.7])  # noqa: E731
    one = helpers.sender(update)
    return one._replace(server_update=lambda total, aggregate, key: total + aggregate.value * aggregate.weight)


@lru_cache
def unsteady(kind: str, lanes: int = 1, devices: int = 1) -> tuple[fl.Rounds, Any, Any]:
    """Eight rounds of three in six clients, of which many drop out."""
    run = fl.rounds(
        total_of_rounds(),
        sampler=fl.sampling.uniform(3, dropout=0.4),
        aggregator=fl.chain(fl.mean(), error_feedback(*coarse(), kind=kind, momentum=0.3 if kind == "dasha" else None)),
        execution=fl.Execution(lanes=lanes, devices=devices),
    )
    state = run.init(START, PEOPLE, key=jax.random.key(5))
    return run, *run.steps(state, PEOPLE, 8)


def times(info: fl.PassInfo) -> np.ndarray:
    """How often each client was in a sum."""
    ids = np.asarray(info.clients["id"])[np.asarray(info.clients["in_sum"])]
    return np.bincount(ids, minlength=len(SIZES))


def test_ef14_keeps_what_the_server_did_not_get() -> None:
    run, state, info = unsteady("ef14")
    assert 0 < int(info.num_reported.sum()) < int(info.num_selected.sum())
    values = np.float64([1.0, -0.5, 0.25, 0.75, -1.0, 0.1])[:, None] * [1.0, 0.3, -0.7]
    kept = np.float64(state.clients.codec[1].sent).sum(0)
    np.testing.assert_allclose(np.float64(run.params(state)) + kept, times(info) @ values, atol=1e-5)
    assert np.abs(kept).max() > 0.01  # the codec is coarse: something was left out


@pytest.mark.parametrize("kind", [pytest.param("ef21", marks=pytest.mark.slow), *KINDS[2:]])
def test_the_server_has_the_sum_of_what_clients_keep(kind: str) -> None:
    _, state, info = unsteady(kind)
    sent = np.float64(state.clients.codec[1].sent)
    np.testing.assert_allclose(np.float64(state.aggregator_state[1].total), sent.sum(0), atol=1e-5)
    assert not sent[times(info) == 0].any()
    assert np.abs(sent).max() > 0


@pytest.mark.parametrize(
    ("kind", "lanes", "devices"),
    [("ef14", 3, 1), ("ef21_sgdm", 1, 4)]
    + [pytest.param(*one, marks=pytest.mark.slow) for one in (("ef14", 1, 4), ("ef21_sgdm", 3, 1))],
)
def test_clients_keep_the_same_on_any_lanes_and_devices(kind: str, lanes: int, devices: int) -> None:
    _, one, _ = unsteady(kind)
    _, other, _ = unsteady(kind, lanes, helpers.available(devices))
    for a, b in zip(jax.tree.leaves(one.clients), jax.tree.leaves(other.clients), strict=True):
        np.testing.assert_array_equal(a, b[: len(a)])


@pytest.mark.parametrize("late", [False, True], ids=["dropped", "late"])
def test_a_client_that_is_cut_off_keeps_what_it_had(late: bool) -> None:
    """The server does not have what it sent, so its memory must not say that it does."""
    sampler = fl.sampling.uniform(4, dropout=0.5)
    sampler = fl.sampling.with_deadline(fl.sampling.uniform(4), reports=2) if late else sampler
    chain = fl.chain(fl.mean(), error_feedback(*coarse(), kind="ef21"))
    run = fl.rounds(total_of_rounds(), sampler=sampler, aggregator=chain, execution=helpers.ONE)
    state, cut_off = run.init(START, PEOPLE, key=jax.random.key(1)), 0
    for _ in range(6):
        new, info = run.step(state, PEOPLE)
        before, after = (np.asarray(s.clients.codec[1].sent) for s in (state, new))
        in_sum = np.asarray(info.clients["id"])[np.asarray(info.clients["in_sum"])]
        others = np.setdiff1d(np.arange(6), in_sum)
        np.testing.assert_array_equal(before[others], after[others])
        sent, down = np.asarray(info.clients["bytes_up"]) > 0, np.asarray(info.clients["bytes_down"]) > 0
        assert down.sum() == 4
        assert sent.sum() == (4 if late else len(in_sum))  # who is late has sent for nothing
        cut_off += 4 - len(in_sum)
        state = new
    assert cut_off > 3


@pytest.mark.whole
def test_a_killed_run_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    def run_of(num_rounds: int, out: Path, resume: bool = False) -> Any:
        rounds = fl.rounds(
            helpers.fed_avg(),
            sampler=fl.sampling.uniform(4, dropout=0.2),
            aggregator=fl.chain(fl.mean(), error_feedback(fl.clip_by_value(0.5), fl.quantize(bits=3))),
        )
        people = helpers.regression()
        state = rounds.init(helpers.linear_params(), people, key=jax.random.key(0))
        history = fl.train(rounds, state, people, num_rounds=num_rounds, out_dir=out, checkpoint_every=1, resume=resume)
        return history.state

    whole = run_of(5, tmp_path / "whole")
    run_of(3, tmp_path / "parts")
    parts = run_of(5, tmp_path / "parts", resume=True)
    assert np.abs(np.asarray(jax.tree.leaves(whole.clients.codec)[0])).max() > 0
    for a, b in zip(
        jax.tree.leaves((whole.clients, whole.server_state)), jax.tree.leaves((parts.clients, parts.server_state)),
        strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(a, b)


def test_ef21_around_nothing_is_descent_along_the_mean() -> None:
    plain = helpers.one_run(helpers.fed_avg(), helpers.regression(), helpers.linear_params(), aggregator=fl.mean())
    chain = fl.chain(fl.mean(), error_feedback(everything(), kind="ef21"))
    tracked = helpers.one_run(helpers.fed_avg(), helpers.regression(), helpers.linear_params(), aggregator=chain)
    assert helpers.max_difference(plain[0].params(plain[1]), tracked[0].params(tracked[1])) < 1e-6


def test_a_secure_sum_takes_feedback_around_what_survives_it() -> None:
    inside = error_feedback(fl.clip_by_value(1.0), fl.quantize(bits=8, rounding="nearest"))
    results = []
    for codecs in ((inside,), (inside, fl.privacy.mask())):
        chain = fl.chain(fl.mean(), *codecs)
        _, state, _ = helpers.one_run(total_of_rounds(), PEOPLE, START, aggregator=chain, num_rounds=2)
        results.append(state)
    assert np.abs(results[0].server_state).max() > 0.1
    assert helpers.max_difference(results[0].server_state, results[1].server_state) == 0
    assert helpers.max_difference(results[0].clients, results[1].clients) == 0


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: error_feedback(), "`error_feedback` got no codec; expected what compresses"),
        (lambda: error_feedback(fl.mean()), "got mean, a mean; expected codecs that compress"),
        (lambda: error_feedback(error_feedback(everything())), "which keeps a state at clients itself"),
        (lambda: error_feedback(fl.privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0)), "works on the sum"),
        (lambda: error_feedback(everything(), kind="ef20"), "`kind` is 'ef20'; expected"),
        (lambda: error_feedback(everything(), momentum=0.5), "`momentum` is 0.5 under kind='ef14', which has none"),
        (lambda: error_feedback(everything(), kind="dasha"), r"expected 1 / \(2 w \+ 1\) for a codec of variance"),
        (lambda: error_feedback(everything(), kind="ef21_sgdm", momentum=2.0), "above 0 and at most 1"),
        (lambda: downlink(3, everything()), "`algorithm` is 3; expected an Algorithm"),  # type: ignore[arg-type]
        (lambda: downlink(helpers.fed_avg(), everything(), feedback="ef99"), "`feedback` is 'ef99'; expected"),
    ],
)
def test_what_cannot_be_fed_back_is_refused(make: Callable[[], Any], text: str) -> None:
    with pytest.raises((ValueError, TypeError), match=text):
        make()


@pytest.mark.parametrize(
    ("head", "text"),
    [(fl.weighted_mean(), "needs every client to weigh 1"), (fl.mean(over=3), None)],
)
def test_the_kinds_with_a_memory_at_the_server_need_equal_weights(head: fl.Aggregator, text: str | None) -> None:
    chain = fl.chain(head, error_feedback(everything(), kind="ef21"))
    wire = fl.wire_of(START, weight=1, capacity=3, num_clients=6)
    if text is None:
        assert float(chain.init(wire)[0][1].share) == 0.5
        return
    with pytest.raises(ValueError, match=text):
        chain.init(wire)
    with pytest.raises(ValueError, match="needs the number of clients"):
        fl.chain(fl.mean(), error_feedback(everything(), kind="ef21")).init(wire._replace(num_clients=None))


def test_a_sum_at_the_server_and_messages_apart_are_refused_together() -> None:
    mean_of = fl.stack(lambda values, weights, present: jax.tree.map(lambda leaf: leaf.mean(0), values))
    chain = fl.chain(fl.mean(), error_feedback(everything(), kind="ef21"), mean_of)
    with pytest.raises(ValueError, match=r"keeps the sum of what all clients sent .* needs every message apart"):
        chain.init(fl.wire_of(START, capacity=3, num_clients=6))
    both = fl.chain(fl.mean(), error_feedback(largest_entry()), mean_of)
    run, state, _ = helpers.one_run(total_of_rounds(), PEOPLE, START, aggregator=both)
    values = np.float32([1.0, -0.5, 0.25, 0.75, -1.0, 0.1])
    np.testing.assert_allclose(run.params(state)[0], values.sum(), atol=1e-6)


@pytest.mark.whole
class TestDownlink:
    PEOPLE = helpers.regression()
    PARAMS = helpers.linear_params()

    def run_of(self, algorithm: fl.Algorithm, rounds: int = 6, **options: Any) -> tuple[fl.Rounds, Any, Any]:
        run = fl.rounds(
            algorithm, sampler=fl.sampling.uniform(4, dropout=0.25), aggregator=fl.weighted_mean(),
            execution=fl.Execution(**options),
        )  # fmt: skip
        state = run.init(self.PARAMS, self.PEOPLE, key=jax.random.key(2))
        return run, *run.steps(state, self.PEOPLE, rounds)

    @pytest.mark.parametrize(
        ("feedback", "make"),
        [
            ("ef21p", helpers.scaffold),
            ("ef14", helpers.fed_avg),
            *(
                pytest.param(kind, make, marks=pytest.mark.slow)
                for kind, make in (
                    ("ef21p", helpers.fed_avg),
                    ("none", helpers.fed_avg),
                    ("ef14", helpers.scaffold),
                    ("none", helpers.scaffold),
                )
            ),
        ],
    )
    def test_a_codec_that_loses_nothing_changes_nothing(self, feedback: str, make: Any) -> None:
        plain = self.run_of(make())
        through = self.run_of(downlink(make(), everything(), feedback=feedback))
        assert helpers.max_difference(plain[0].params(plain[1]), through[0].params(through[1])) < 1e-5

    @pytest.mark.slow
    def test_clients_train_from_what_they_hold(self) -> None:
        """With a codec that sends nothing, everybody trains from the first model for ever."""
        nothing = largest_entry()._replace(
            encode=lambda state, own, message, client: (
                message._replace(value=jax.tree.map(jnp.zeros_like, message.value)),
                own,
            )
        )
        _, state, _ = self.run_of(downlink(helpers.fed_avg(), nothing))
        assert not np.any(state.server_state.held[1])
        one_round = self.run_of(helpers.fed_avg(), 1)
        first, second = (one_round[1].server_state.params["w"], state.server_state.inner.params["w"])
        assert np.abs(np.asarray(second)).max() > np.abs(np.asarray(first)).max()  # six times a first step

    def test_what_each_client_downloads(self) -> None:
        """Against a walk through the cohorts in Python."""
        algorithm = downlink(helpers.fed_avg(), fl.clip_by_value(1.0), fl.quantize(bits=8))
        for options in ({"lanes": 1, "devices": 1}, {"lanes": 3, "devices": helpers.available(4)}):
            run, _, info = self.run_of(algorithm, rounds=12, **options)
            whole, message = 16, run.traffic(self.PARAMS, self.PEOPLE).down - 4
            assert message == 4
            last: dict[int, int] = {}
            for r in range(12):
                for k, client in enumerate(np.asarray(info.clients["id"])[r].tolist()):
                    missed = whole if client not in last else min(whole, message * (r - last[client]))
                    assert int(info.clients["bytes_down"][r, k]) == 4 + missed, (r, client)
                    if info.clients["in_sum"][r, k]:
                        last[client] = r
            assert len({int(b) for b in np.ravel(info.clients["bytes_down"])}) > 2

    def test_a_whole_model_each_round_costs_everyone_the_same(self) -> None:
        algorithm = downlink(helpers.fed_avg(), fl.clip_by_value(4.0), fl.quantize(bits=8), feedback="ef14")
        run, state, info = self.run_of(algorithm)
        assert set(np.ravel(info.clients["bytes_down"]).tolist()) == {run.traffic(self.PARAMS, self.PEOPLE).down}
        server = state.server_state
        exact = jax.tree.leaves(run.params(state))
        for w, held, error in zip(exact, server.held, server.error, strict=True):
            assert np.abs(np.asarray(held) - np.asarray(w)).max() <= 2 * 4 / 127 + 1e-6
            assert np.abs(np.asarray(error)).max() <= 4 / 127 + 1e-6

    def test_what_clients_have_already_is_left_alone(self) -> None:
        """A frozen base is neither compressed nor counted."""
        make = lambda loss: algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.02), batch_size=8)  # noqa: E731
        part = fl.partition_params(make, helpers.linear_loss, frozen=lambda path, leaf: path[0] == "w")
        through = downlink(part, everything())
        run, state, _ = self.run_of(through)
        assert [leaf.shape for leaf in state.server_state.held] == [()]
        assert run.traffic(self.PARAMS, self.PEOPLE).down == 4 + 4
