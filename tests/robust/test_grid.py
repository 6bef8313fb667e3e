"""Rules and attacks by number: each does what the chosen one does, and a grid's cell is the run of one's own."""

from functools import lru_cache
from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite.reproduce.studies import robust as study
from fedjaxlite.reproduce.studies import robust_grid as grid

PEOPLE = helpers.one_value_each([1.0, -2.0, 4.0, 8.0, 3.0])
SENDER = helpers.sender(helpers.first_value)
BAD = (1, 4)


def noisy(state: jax.Array, rows: fl.Rows, key: Any) -> tuple[Any, jax.Array]:
    """Draws at random, and counts its rounds."""
    return jax.tree.map(lambda v: v.mean(0) + jax.random.normal(key, v.shape[1:]) + state, rows.values), state + 1


def shaken(state: jax.Array, rows: fl.Rows, key: Any) -> tuple[fl.Rows, jax.Array]:
    """Draws at random, and counts its rounds."""
    values = jax.tree.map(lambda v: v + jax.random.normal(key, v.shape) * state, rows.values)
    return rows._replace(values=values), state + 1


def zero(update: Any) -> jax.Array:
    del update
    return jnp.float32(0)


RULES: list[Any] = [
    fl.robust.mean(),
    fl.robust.centered_clipping(0.7),
    fl.rule(noisy, name="noisy", init=zero),
    [fl.robust.nnm(f=1), fl.robust.trimmed_mean(f=1)],
]
ATTACKS = [fl.attacks.ipm([]), fl.attacks.mimic(BAD), fl.restack(shaken, name="shaken", init=zero)]


@lru_cache
def after_rounds_of(which: int) -> Any:
    """Of the rule of a number among all."""
    return after_rounds(fl.robust.one_of(RULES, which))


def after_rounds(*codecs: fl.Aggregator) -> Any:
    """The model, and what the aggregator tells, after three rounds."""
    chain = fl.chain(fl.mean(), *codecs)
    _, state, info = helpers.one_run(SENDER, PEOPLE, jnp.float32(0), aggregator=chain, num_rounds=3)
    return np.asarray(state.server_state), info.aggregator


class TestOneOf:
    @pytest.mark.parametrize("which", helpers.some_often(range(len(RULES)), 3))
    def test_several_rules_is_the_chosen_one_to_the_last_bit(self, which) -> None:
        alone = RULES[which] if isinstance(RULES[which], list) else [RULES[which]]
        expected, _ = after_rounds(*alone)
        found, told = after_rounds_of(which)
        assert found == expected
        assert int(told["one_of_skipped"]) == 0
        assert len({float(after_rounds_of(i)[0]) for i in range(len(RULES))}) == len(RULES)

    @pytest.mark.parametrize("which", helpers.some_often(range(len(ATTACKS)), 2))
    def test_several_attacks_is_the_chosen_one_to_the_last_bit(self, which) -> None:
        expected, _ = after_rounds(ATTACKS[which], fl.robust.mean())
        assert after_rounds(fl.attacks.one_of(ATTACKS, which), fl.robust.mean())[0] == expected

    def test_a_number_may_be_traced_and_vmapped(self) -> None:
        x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 7)), jnp.float32)
        rules = [RULES[0], RULES[1], RULES[3]]

        def of(attack: Any, rule: Any) -> jax.Array:
            return fl.robust.apply([fl.attacks.one_of(ATTACKS[:2], attack), fl.robust.one_of(rules, rule)], x)

        places = ((0, 0), (1, 1), (1, 2))

        @jax.jit
        def alone() -> list[jax.Array]:
            tails = [rule if isinstance(rule, list) else [rule] for rule in rules]
            return [fl.robust.apply([ATTACKS[attack], *tails[rule]], x) for attack, rule in places]

        found = jax.jit(jax.vmap(of))(*jnp.int32(places).T)
        for row, expected in zip(found, alone(), strict=True):
            np.testing.assert_allclose(row, expected, atol=1e-6)

    def test_refuses_what_is_none_of_them(self) -> None:
        for call, error, text in (
            (lambda: fl.robust.one_of([], 0), TypeError, r"`rules` is .*; expected a list of at least one"),
            (lambda: fl.robust.one_of(fl.robust.mean(), 0), TypeError, "`rules` is "),
            (lambda: fl.robust.one_of([fl.mean()], 0), ValueError, r"`rules\[0\]` is mean; expected a rule"),
            (lambda: fl.robust.one_of([[ATTACKS[0]]], 0), ValueError, r"`rules\[0\]` is ipm; expected a rule"),
            (lambda: fl.robust.one_of([RULES[0]], 1), ValueError, "`which` is 1; expected 0 to 0"),
            (lambda: fl.robust.one_of([RULES[0]], 0.5), TypeError, "`which` is 0.5"),
            (
                lambda: fl.attacks.one_of([RULES[0]], 0),
                ValueError,
                r"`attacks\[0\]` is robust_mean; expected an attack",
            ),
            (lambda: fl.attacks.one_of(ATTACKS[0], 0), TypeError, "`attacks` is "),
            (lambda: fl.attacks.one_of([3], 0), TypeError, r"`attacks\[0\]`"),
        ):
            with pytest.raises(error, match=text):
                call()
        with pytest.raises(ValueError, match="`trimmed_mean` needs at least 7 clients"):
            after_rounds(fl.robust.one_of([RULES[0], fl.robust.trimmed_mean(f=3)], 0))
        with pytest.raises(TypeError, match="`which` is .*; expected one int32"):
            jax.jit(lambda which: fl.robust.one_of(RULES, which) and which)(0.5)


class TestGrid:
    def test_messages_are_packed_and_unpacked(self) -> None:
        tree = {"a": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones((400, 300)), "c": jnp.float32(2)}
        arrays = grid.packed(tree)
        assert [array.shape for array in arrays] == [(120_000,), (7,)]
        jax.tree.map(np.testing.assert_array_equal, grid.unpacked(arrays, tree), tree)

    @pytest.mark.slow
    def test_a_cell_is_the_run_of_its_own(self) -> None:
        task = grid.task(smoke=True)._replace(num_rounds=3)
        rule, attack, f = "multi-Krum", "ALIE", 3
        places = list(study.ATTACKS).index(attack), list(study.RULES).index(rule)
        found = grid.player(task, study.tail(2))([grid.Run(*places, f, 1, 0.0, False, key) for key in (0, 4)])
        for accuracy, key in zip(found, (0, 4), strict=True):
            bad = fl.attacks.alie(range(12, 15), z=1.5)
            run = grid.rounds(
                task, jax.tree.map(jnp.asarray, task.train), [bad, fl.robust.multi_krum(f=f, neighbors="byzfl")]
            )
            first, own, _ = jax.random.split(jax.random.key(key), 3)
            population = grid.people(task, 1)
            state = run.init(task.model.init(first), population, key=own)
            state, _ = run.steps(state, population, 3)
            outputs = task.model.apply(run.params(state), task.test["x"], train=False)
            assert float((np.asarray(outputs).argmax(-1) == task.test["y"]).mean()) == pytest.approx(accuracy, abs=0.01)

    def test_a_rules_own_value_is_chosen_against_its_worst_attack(self) -> None:
        values = study.RULES["centered clipping"].values

        def play(runs: Any) -> np.ndarray:
            # The first value is best on average, and the last one against the worst attack.
            return np.asarray([0.9 * (run.attack > 0) if run.value == values[0] else run.value / 2 for run in runs])

        cells = study.cells_of(play, 0, 3, "centered clipping", 2)
        assert cells[study.CHOSEN] == values[-1]
        assert cells["none"] == [50.0, 50.0]
        assert cells["worst attack"] == "none"
        assert study.cells_of(play, 0, 3, "median", 2)[study.CHOSEN] == 0.0
