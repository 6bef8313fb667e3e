"""Rules and what stands before them: what they see of a round, what they keep, and what is refused."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjaxlite as fl

PEOPLE = helpers.one_value_each([1.0, -2.0, 4.0, 8.0], sizes=[1, 2, 3, 4])
SENDER = helpers.sender(helpers.first_value)


def first_round(*codecs: fl.Aggregator, sampler: fl.Sampler | None = None, rounds: int = 1) -> tuple[Any, Any, Any]:
    return helpers.one_run(
        SENDER, PEOPLE, jnp.float32(0), sampler=sampler, aggregator=fl.chain(*codecs), num_rounds=rounds
    )


def digits(values: jax.Array) -> jax.Array:
    """A number whose digits are a row of small whole numbers."""
    return (values * 10.0 ** jnp.arange(values.shape[0])[::-1].astype(jnp.float32)).sum()


def seen(what: str) -> fl.Aggregator:
    """A rule that returns what it sees, as digits."""

    def fn(state: Any, rows: fl.Rows, key: Any) -> tuple[Any, Any]:
        return jax.tree.map(lambda v: digits(getattr(rows, what).astype(jnp.float32))[None], rows.values), state

    return fl.rule(fn, name="seen", weighted=True)


def total(state: Any, rows: fl.Rows, key: Any) -> tuple[Any, Any]:
    return jax.tree.map(lambda v: v.sum(0), rows.values), state


class TestRules:
    def test_see_clients_in_cohort_order_by_id_weight_and_presence(self) -> None:
        sampler = fl.sampling.replay([[3, -1, 0, 2]])
        for what, expected in {"ids": 3000 - 100 + 2, "weights": 4013, "present": 1011}.items():
            _, state, _ = first_round(fl.weighted_mean(), seen(what), sampler=sampler)
            assert float(state.server_state) == expected, what

    def test_a_state_is_kept_and_a_key_is_the_runs(self) -> None:
        def fn(state: Any, rows: fl.Rows, key: Any) -> tuple[Any, Any]:
            noise = jax.random.normal(key, (1,))
            return jax.tree.map(lambda v: noise, rows.values), state + 1

        counting = fl.rule(fn, name="counting", init=lambda update: jnp.zeros_like(update))
        _, one, _ = first_round(fl.mean(), counting, rounds=2)
        _, again, _ = first_round(fl.mean(), counting, rounds=2)
        assert float(one.aggregator_state[1].own) == 2.0
        assert float(one.server_state) == float(again.server_state) != 0.0

    def test_a_round_with_too_few_clients_changes_nothing_and_is_counted(self) -> None:
        def fn(state: Any, rows: fl.Rows, key: Any) -> tuple[Any, Any]:
            return total((), rows, key)[0], state + 1

        three = fl.rule(fn, name="three", minimum=3, init=lambda update: jnp.int32(0))
        sampler = fl.sampling.replay([[0, 1, 2], [0, 1, -1], [3, -1, -1]])
        for rounds, skipped, value in ((1, 0, 1.0 - 2.0 + 4.0), (3, 2, 0.0)):
            _, state, info = first_round(fl.mean(), three, sampler=sampler, rounds=rounds)
            assert int(info.aggregator["three_skipped"]) == skipped
            assert float(state.server_state) == value  # of the last round, and nothing where it was skipped
            assert int(state.aggregator_state[1].own) == 1

    def test_what_is_before_them_runs_in_the_order_of_the_chain(self) -> None:
        def change(fn: Any) -> Any:
            return lambda state, rows, key: (rows._replace(values=jax.tree.map(fn, rows.values)), state)

        add, double = fl.restack(change(lambda v: v + 1.0), name="add"), fl.restack(change(lambda v: 2 * v), name="dbl")
        rule = fl.rule(total, name="total")
        values = jnp.float32([1, 2])
        orders = ([add, double, rule], [double, add, rule])
        first, second = jax.jit(lambda x: [fl.robust.apply(order, x) for order in orders])(values)
        assert float(first) == 2 * (2 + 3)
        assert float(second) == 2 * (1 + 2) + 2
        _, state, _ = first_round(fl.mean(), fl.clip_by_value(3.0), add, double, rule)
        assert float(state.server_state) == 2 * (1 - 2 + 3 + 3 + 4)

    def test_fewer_rows_may_come_out_than_went_in(self) -> None:
        def halves(state: Any, rows: fl.Rows, key: Any) -> tuple[Any, Any]:
            half = lambda v: v.reshape(2, -1, *v.shape[1:]).sum(1)  # noqa: E731
            return (
                rows._replace(
                    values=jax.tree.map(half, rows.values),
                    weights=half(rows.weights),
                    present=jnp.ones(2, bool),
                    ids=jnp.full(2, -1, jnp.int32),
                ),
                state,
            )

        def largest(values: Any, weights: Any, present: Any) -> Any:
            return jax.tree.map(lambda v: v.max(0), values)

        _, state, _ = first_round(fl.mean(), fl.restack(halves, name="halves"), fl.stack(largest))
        assert float(state.server_state) == 12.0

    def test_their_mean_is_the_mean(self) -> None:
        rng = np.random.default_rng(0)
        values = {"w": rng.normal(size=(5, 3, 2)).astype(np.float32), "b": rng.normal(size=5).astype(np.float32)}
        weights, present = np.float32([1, 2, 3, 4, 5]), np.array([True, True, False, True, True])
        found = jax.jit(lambda v: fl.robust.apply(fl.robust.mean(), v, weights=weights, present=present))(values)
        for name, leaf in values.items():
            expected = np.average(leaf[present].astype(np.float64), axis=0, weights=weights[present])
            np.testing.assert_allclose(np.asarray(found[name]), expected, rtol=1e-6, atol=1e-7)

    def test_one_program_for_all_seeds(self) -> None:
        values = jnp.arange(24, dtype=jnp.float32).reshape(4, 3, 2)
        together = jax.jit(jax.vmap(lambda v: fl.robust.apply(fl.robust.mean(), v)))(values)
        np.testing.assert_allclose(np.asarray(together), np.asarray(values).mean(1), rtol=1e-6)


class TestRefusals:
    def refuses(self, *codecs: fl.Aggregator, text: str, sampler: fl.Sampler | None = None) -> None:
        with pytest.raises(ValueError, match=text):
            first_round(*codecs, sampler=sampler)

    def test_weights_that_a_rule_would_ignore(self) -> None:
        rule = fl.rule(total, name="total")
        self.refuses(
            fl.weighted_mean(),
            rule,
            text=r"`total` counts every client as one: it takes no weights, and .*Use fl.mean\(\)",
        )
        scaled = fl.sampling.weighted(2, [1.0, 2.0, 3.0, 4.0])
        self.refuses(fl.mean(), rule, sampler=scaled, text="the sampler scales them.*does not scale")

    def test_fewer_clients_than_it_needs(self) -> None:
        text = r"`five` needs at least 5 clients in a round, and there are at most 4. Draw more"
        self.refuses(fl.mean(), fl.rule(total, name="five", minimum=5), text=text)
        before = fl.restack(lambda state, rows, key: (rows, state), name="five", minimum=5)
        self.refuses(fl.mean(), before, fl.robust.mean(), text=text)

    def test_what_is_no_rule_by_hand(self) -> None:
        with pytest.raises(
            ValueError, match=r"`codecs` is clip_by_value, whose messages are summed; expected a rule at the end"
        ):
            fl.robust.apply(fl.clip_by_value(1.0), jnp.ones((2, 3)))
        with pytest.raises(ValueError, match=r"`values` has leaves of shapes \[\[2, 3\], \[3\]\]; expected \[K, ...\]"):
            fl.robust.apply(fl.robust.mean(), [jnp.ones((2, 3)), jnp.ones(3)])
        with pytest.raises(TypeError, match="`fn` is 3; expected a function"):
            fl.rule(3, name="three")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="`fn` is 3; expected a function"):
            fl.restack(3, name="three")  # type: ignore[arg-type]
