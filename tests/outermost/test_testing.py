"""The checkers find what breaks a law, and say what."""

from collections.abc import Callable
from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite import testing

PEOPLE = helpers.one_value_each([1.0, 2.0, 3.0, 4.0, 5.0], sizes=[1, 4, 2, 3, 2])
ZERO = jnp.float32(0)


def held(update: Callable[[fl.ClientData], Any], **options: Any) -> testing.Case:
    layouts = (fl.Execution(lanes=2, devices=1),)
    return testing.case(helpers.sender(update), ZERO, PEOPLE, **{"layouts": layouts, "num_rounds": 2, **options})


def test_an_algorithm_that_reads_its_neighbors_breaks_the_layout_law() -> None:
    case = held(lambda data: data.wave.num_examples.sum().astype(jnp.float32))
    with pytest.raises(
        AssertionError,
        match=r"law 1 \(layout\): lanes=2 on 1 device against lanes=1 on 1 device, after 2 rounds: "
        r"\['server_state'\] differs: got .*, expected .* largest difference is .*, the tolerance",
    ):
        testing.check_layout_invariance(case)


def test_an_algorithm_that_reads_other_clients_data_breaks_the_padding_law() -> None:
    case = held(lambda data: data.features["x"].sum(), layouts=())
    with pytest.raises(
        AssertionError, match=r"law 2 \(padding\): NaN in the examples of clients \[3, 4\].* differs: got 0"
    ):
        testing.check_padding(case)


def test_the_padding_law_needs_someone_who_never_reports() -> None:
    case = held(helpers.first_value, layouts=(), sampler=fl.sampling.full(5))
    with pytest.raises(AssertionError, match="every client reports in some round, so nothing can be poisoned"):
        testing.check_padding(case)


def test_a_hidden_counter_breaks_the_law_of_many_rounds() -> None:
    traced = []

    def update(data: fl.ClientData) -> jax.Array:
        traced.append(None)
        return jnp.float32(len(traced))

    with pytest.raises(AssertionError, match=r"law 6 \(steps\): steps\(2\) against 2 times step"):
        testing.check_steps(held(update, layouts=()))


def test_an_integer_operation_has_the_derivatives_that_agree() -> None:
    testing.check_derivatives(held(lambda data: jnp.floor(helpers.first_value(data)), layouts=()))


def test_a_weight_for_a_client_that_is_left_out_breaks_law_7() -> None:
    encode = lambda state, own, message, client: (message._replace(weight=jnp.float32(1)), own)  # noqa: E731
    with pytest.raises(
        AssertionError, match=r"law 7 \(non-finite\): a NaN in the update of client 2, against .* does not report"
    ):
        testing.check_nonfinite(held(helpers.first_value, aggregator=fl.mean()._replace(encode=encode), layouts=()))


def test_the_name_of_a_law_is_checked() -> None:
    with pytest.raises(ValueError, match="`laws` is 'speed'; expected one of 'layout'"):
        testing.check_algorithm(helpers.fed_avg(), ZERO, PEOPLE, laws=["speed"])


def test_a_case_needs_clients_enough_to_leave_some_out() -> None:
    with pytest.raises(ValueError, match="has 3 clients; expected at least 4"):
        testing.case(helpers.fed_avg(), ZERO, helpers.one_value_each([1, 2, 3]))
    with pytest.raises(TypeError, match="`population` is a dict"):
        testing.case(helpers.fed_avg(), ZERO, {"x": 1})  # type: ignore[arg-type]


def test_comparison_says_what_differs() -> None:
    want = {"a": np.float32([1, 2]), "n": np.int32(3)}
    with pytest.raises(AssertionError, match="here: the tree structure differs"):
        testing.assert_close({"a": np.float32([1, 2])}, want, what="here")
    with pytest.raises(AssertionError, match=r"here: \['n'\] is float32\[\], expected int32\[\]"):
        testing.assert_close({**want, "n": np.float32(3)}, want, what="here")
    with pytest.raises(AssertionError, match=r"\['n'\] differs: got 4, expected 3. The largest difference is 1; bit"):
        testing.assert_close({**want, "n": np.int32(4)}, want, what="here", tolerance=testing.Tolerance(1.0, 1.0))
    with pytest.raises(AssertionError, match=r"\['a'\] differs at \[1\]: got 2.5, .* difference is 0.5, the tolerance"):
        testing.assert_close({**want, "a": np.float32([1, 2.5])}, want, what="here", tolerance=testing.Tolerance())
    with pytest.raises(AssertionError, match=r"got nan, expected 2.0"):
        testing.assert_close({**want, "a": np.float32([1, np.nan])}, want, what="", tolerance=testing.Tolerance(9, 9))
    nan = {"a": np.float32([np.nan, np.inf]), "k": jax.random.key(1)}
    testing.assert_close(nan, nan, what="equal")


class TestAggregators:
    TEMPLATE = {"w": jnp.zeros((3, 2)), "b": jnp.zeros(())}

    def refuses(self, codec: fl.Aggregator, text: str, **options: Any) -> None:
        with pytest.raises(AssertionError, match=text):
            testing.check_aggregator(codec, self.TEMPLATE, **{"laws": [], **options})

    def test_a_decode_that_is_not_linear(self) -> None:
        squash = fl.Aggregator(
            decode=lambda state, total, key: (total._replace(value=jax.tree.map(jnp.tanh, total.value)), state),
            name="squash",
        )
        self.refuses(fl.chain(fl.mean(), squash), r"aggregator law, chain\(mean, squash\): decode of the sum, .*linear")

    def test_an_offset_where_nobody_reported(self) -> None:
        shift = fl.Aggregator(
            decode=lambda state, total, key: (total._replace(value=jax.tree.map(lambda x: x + 1, total.value)), state),
            name="shift",
        )
        self.refuses(fl.chain(fl.mean(), shift), r"nobody reported: \[0\]\['b'\] differs: got 1.0, expected 0.0")

    def test_a_bound_that_is_not_kept(self) -> None:
        boast = fl.Aggregator(init=lambda wire: ((), wire._replace(bounds=fl.Bounds(l2=1e-3, linf=1e-3))), name="boast")
        self.refuses(fl.chain(fl.mean(), boast), r"a message of l2 norm .* is beyond the wire's bound 0.001")

    def test_a_message_of_another_shape_than_the_wire_says(self) -> None:
        cut = fl.Aggregator(
            encode=lambda state, own, message, client: (message._replace(value={"w": message.value["w"]}), own),
            name="cut",
        )
        self.refuses(fl.chain(fl.mean(), cut), r"what encode returned, against its wire: `value` has the structure")

    def test_a_state_that_changes_its_dtype(self) -> None:
        count = fl.Aggregator(
            init=lambda wire: (jnp.int32(0), wire),
            decode=lambda state, total, key: (total, state.astype(jnp.float32)),
            name="count",
        )
        self.refuses(fl.chain(fl.mean(), count), r"the state that decode returned, against init: .* float32\[\]")

    def test_sums_are_right_in_the_rounds_of_a_sender(self) -> None:
        testing.check_aggregator(
            fl.chain(fl.mean(over=5), fl.clip_by_value(1.0), fl.quantize(bits=12)),
            {"w": jnp.zeros((2,))},
            laws=["layout", "order"],
            layouts=(fl.Execution(lanes=3, devices=2),),
        )


class TestSamplers:
    def sampler(self, sample: Callable[[Any, Any], fl.Cohort], **facts: Any) -> fl.Sampler:
        accounting = fl.sampling.Accounting(**{"kind": "replay", **facts})
        return fl.Sampler(lambda key, r, population: sample(key, r), capacity=3, accounting=accounting, name="mine")

    def cohort(self, ids: Any, selected: Any = None) -> fl.Cohort:
        ids = jnp.asarray(ids, jnp.int32)
        return fl.sampling.cohort(ids, jnp.ones((3,), bool) if selected is None else jnp.asarray(selected))

    @pytest.mark.parametrize(
        ("sample", "text"),
        [
            (lambda self, key, r: self.cohort([1, 2, 1]), "an id is selected twice: round 0, slot 2"),
            (lambda self, key, r: self.cohort([1, 2, 9]), "an id is out of range: round 0, slot 2"),
            (lambda self, key, r: self.cohort([1, 2, 3])._replace(work=jnp.zeros(3)), r"work is outside \(0, 1\]"),
            (
                lambda self, key, r: self.cohort([1, 2, 3], [True, True, False])._replace(reported=jnp.ones(3, bool)),
                "a client reports that was not selected: round 0, slot 2",
            ),
            (
                lambda self, key, r: self.cohort([1, 2, 3], [True, True, False])._replace(ids=jnp.int32([1, 2, 3])),
                "a spare slot does not hold id 0",
            ),
            (lambda self, key, r: self.cohort([1, 2, 3])._replace(scale=2 * jnp.ones(3)), "`scaled` is False"),
            (lambda self, key, r: self.cohort([1, 2, 3])._replace(overflow=jnp.int32(1)), "may_overflow is False"),
            (lambda self, key, r: self.cohort([1, 2, 3])._replace(work=jnp.ones(2)), r"`work` is float32\[2\]"),
        ],
    )
    def test_a_broken_form_is_found(self, sample: Any, text: str) -> None:
        with pytest.raises(AssertionError, match=f"sampler law, mine on 9 clients: .*{text}"):
            testing.check_sampler(self.sampler(lambda key, r: sample(self, key, r)), 9, num_rounds=4)

    def test_a_draw_that_depends_on_how_it_is_compiled_is_found(self) -> None:
        impure = self.sampler(lambda key, r: self.cohort([1, 2, 3] if isinstance(r, int) else [3, 2, 1]))
        with pytest.raises(AssertionError, match=r"round 3 without jit: .*ids"):
            testing.check_sampler(impure, 9, num_rounds=4)

    def test_a_false_account_is_found(self) -> None:
        always = lambda key, r: self.cohort([1, 2, 3])  # noqa: E731
        for facts, text in (
            ({"max_participations": 2}, "client 1 takes part in 60 of 60 rounds; the accounting allows 2"),
            (
                {"kind": "cyclic", "min_separation": 2},
                "client 1 takes part in 60 of 60 rounds; the accounting allows 30",
            ),
            ({"kind": "without_replacement", "cohort_size": 3}, "the accounting says 0.3333 a round"),
        ):
            with pytest.raises(AssertionError, match=text):
                testing.check_sampler(self.sampler(always, **facts), 9, num_rounds=60)
        early = lambda key, r: self.cohort([1, 2, 3], (jnp.asarray(r) % 6 < 2) & jnp.ones(3, bool))  # noqa: E731
        with pytest.raises(
            AssertionError, match="takes part in rounds 0 and 1; the accounting promises a separation of 3"
        ):
            testing.check_sampler(self.sampler(early, kind="cyclic", min_separation=3), 9, num_rounds=30)

    def test_a_right_sampler_passes(self) -> None:
        layered = fl.sampling.with_dropout(fl.sampling.with_stragglers(fl.sampling.uniform(5), 0.3, 0.2), 0.2)
        for sampler in (layered, fl.sampling.poisson(0.1, 20), fl.sampling.replay([[1, 2], [3, -1]])):
            testing.check_sampler(sampler, 20, num_rounds=50)

    def remembering(self, sample: Any) -> fl.Sampler:
        memory = fl.sampling.Memory(lambda setting: jnp.int32(0), lambda state, key, r, people: sample(state))
        return self.sampler(lambda key, r: sample(jnp.int32(0))[0])._replace(memory=memory)

    def test_of_a_memory_the_cohorts_are_its_own(self) -> None:
        right = self.remembering(lambda state: (self.cohort([state % 2, 3, 4]), state + 1))
        testing.check_sampler(right, 9, num_rounds=4)
        twice = self.remembering(lambda state: (self.cohort([state, 3, 4]), state + 1))
        with pytest.raises(AssertionError, match="mine on 9 clients: an id is selected twice: round 3, slot 1"):
            testing.check_sampler(twice, 9, num_rounds=6)
        other = twice._replace(
            sample=lambda key, r, people: self.cohort([0, 1, 2])._replace(ids=jnp.zeros(2, jnp.int32))
        )
        with pytest.raises(AssertionError, match="`sample` gives a cohort of another form than that of its memory"):
            testing.check_sampler(other, 9, num_rounds=2)


class TestCrossExample:
    BATCH = {"x": np.float32([1, 2, 4, 4])}

    def test_an_undeclared_loss_is_found(self) -> None:
        def centered(params: Any, batch: Any, key: Any) -> jax.Array:
            return (batch["x"] - batch["x"].mean()) ** 2

        with pytest.raises(
            AssertionError, match=r"the loss `centered` of row \d changes by .* when row 0 is replaced .*losses.declare"
        ):
            testing.check_cross_example(centered, (), self.BATCH)
        assert testing.check_cross_example(fl.losses.declare(centered, cross_example=True), (), self.BATCH)

    def test_rows_that_are_apart_pass(self) -> None:
        assert not testing.check_cross_example(lambda p, batch, key: batch["x"] ** 2, (), self.BATCH)

    def test_a_batch_that_shows_nothing_is_refused(self) -> None:
        with pytest.raises(ValueError, match="has 1 rows; expected at least 2"):
            testing.check_cross_example(lambda p, batch, key: batch["x"], (), {"x": np.float32([1])})
        with pytest.raises(ValueError, match="holds one row over and over"):
            testing.check_cross_example(lambda p, batch, key: batch["x"], (), {"x": np.float32([1, 1])})
