"""A judged rule and a fixed number of bad clients."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite import attacks, testing
from fedjaxlite.wire.aggregator import Stacked


def halves() -> fl.Aggregator:
    """Mixing before a rule: each message and its neighbor in the cohort become their mean."""
    mix = lambda v: (v + v[jnp.arange(v.shape[0]) ^ 1]) / 2  # noqa: E731
    return fl.restack(lambda s, rows, key: (rows._replace(values=jax.tree.map(mix, rows.values)), s), name="halves")


def one_round(row: fl.Aggregator, values: Any) -> tuple[Any, Any]:
    """What a chain decodes of these messages, and what it tells."""
    num = values.shape[0]
    state, _ = row.init(fl.wire_of(jnp.zeros(values.shape[1]), capacity=num))
    there, ones = jnp.ones(num, bool), jnp.ones(num)
    cohort = fl.Cohort(jnp.arange(num, dtype=jnp.int32), there, there, ones, ones, jnp.int32(0))

    @jax.jit
    def decoded(values: Any) -> tuple[Any, Any]:
        begun = row.begin(state, cohort, jax.random.key(0))
        aggregate, last = row.decode(begun, Stacked(fl.Message(values, ones, {}), there), jax.random.key(0))
        return aggregate.value, row.metrics(last)

    return decoded(values)


def test_a_judged_rule_computes_the_same_and_tells_how_far_it_was_moved() -> None:
    """The mean of six, of whom two send minus the honest mean, is a third of the honest mean; mixed or not."""
    values, bad = jnp.asarray(np.random.default_rng(0).normal(size=(6, 5)) + 1, jnp.float32), [1, 4]
    attack, rule = attacks.ipm(bad), fl.robust.mean()
    plain, _ = one_round(fl.chain(fl.mean(), attack, halves(), rule), values)
    value, told = one_round(fl.chain(fl.mean(), attack, attacks.judged([halves(), rule], bad)), values)
    np.testing.assert_array_equal(value, plain)
    honest = np.delete(np.asarray(values, np.float64), bad, 0)
    mean = honest.mean(0)
    distance, std = np.linalg.norm(mean / 3 - mean), np.sqrt(((honest - mean) ** 2).sum(1).mean())
    expected = {"distance": distance, "honest_std": std, "kappa": (distance / std) ** 2, "robust_mean_skipped": 0}
    assert {name: float(v) for name, v in told.items()} == {
        f"judged_{name}": pytest.approx(v, rel=1e-5) for name, v in expected.items()
    }


def test_where_honest_messages_agree_kappa_is_nothing_or_everything() -> None:
    judged = attacks.judged(fl.robust.mean(), [3])
    assert one_round(fl.chain(fl.mean(), judged), jnp.ones((4, 2)))[1]["judged_kappa"] == 0
    assert one_round(fl.chain(fl.mean(), attacks.ipm([3]), judged), jnp.ones((4, 2)))[1]["judged_kappa"] == np.inf


@pytest.mark.parametrize(
    ("size", "num", "bad"), [(6, 2, [1, 5, 7, 19]), pytest.param(5, 0, [0], marks=pytest.mark.slow), (4, 4, range(4))]
)
def test_a_fixed_number_of_bad_clients_is_in_each_round(size: int, num: int, bad: Any) -> None:
    sampler = attacks.fixed_number(size, bad, num)
    testing.check_sampler(sampler, num_clients=20)
    population = fl.Population({"x": np.zeros((20,), np.float32)}, np.arange(21, dtype=np.int32), 1)
    draw = jax.jit(jax.vmap(lambda r: sampler.sample(jax.random.key(1), r, population).ids))
    ids = np.asarray(draw(jnp.arange(2000, dtype=jnp.int32)))
    lying = np.isin(ids, list(bad))
    assert (lying.sum(1) == num).all()
    assert sampler.accounting.amplification is False
    assert sampler.accounting.cohort_size == size
    # At six standard deviations: clients of a kind are drawn alike, and no slot is of one kind.
    for kind, taken in ((list(bad), num), ([i for i in range(20) if i not in bad], size - num)):
        rate = taken / len(kind)
        counts = np.bincount(ids.ravel(), minlength=20)[kind]
        assert np.abs(counts - 2000 * rate).max() <= 6 * np.sqrt(2000 * rate * (1 - rate)) + 1e-9
    assert np.abs(lying.mean(0) - num / size).max() <= 6 * np.sqrt(0.25 / 2000)


def test_a_fixed_pool_drawn_at_random_is_there_by_chance() -> None:
    sampler = fl.sampling.uniform(5)
    population = fl.Population({"x": np.zeros((20,), np.float32)}, np.arange(21, dtype=np.int32), 1)
    ids = [sampler.sample(jax.random.key(1), r, population).ids for r in range(30)]
    assert len({int(np.isin(drawn, [0, 1, 2, 3]).sum()) for drawn in ids}) > 1


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: attacks.fixed_number(4, [1, 2], 3), "`num` is 3; expected at most 2"),
        (lambda: attacks.fixed_number(4, attacks.share(0.5), 1), "`bad` is a share of clients"),
        (lambda: attacks.fixed_number(4, [30], 1).check(20), "`bad` holds client 30, and the population has 20"),
        (lambda: attacks.fixed_number(8, range(15), 1).check(20), "needs 7 honest clients"),
        (lambda: attacks.judged(fl.mean(), [1]), "`rule` is mean; expected a rule"),
        (lambda: attacks.judged(fl.robust.mean(), attacks.share(0.1)), "expected a fixed pool"),
        (lambda: jax.eval_shape(lambda m: attacks.fixed_number(4, m, 1), np.ones(9, bool)), "`bad` is traced"),
    ],
)
def test_errors_say_what_was_given(make: Callable[[], Any], text: str) -> None:
    with pytest.raises((TypeError, ValueError)) as raised:
        make()
    assert text in str(raised.value)
