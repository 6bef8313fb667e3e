"""Training to a target accuracy: one run after the other in folders of their own, and side by side."""

import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.reproduce import to_target

RATES, TARGET = (0.1, 0.3), 0.6


@pytest.fixture(scope="module")
def task():
    train, test = fl.datasets.load("digits", partition=fl.partition.iid(10, seed=0))
    model = fl.models.mlp(features=(10,), input_shape=(8, 8, 1))
    loss_fn = fl.losses.cross_entropy(model)

    def make(rate):
        return fl.rounds(
            algorithms.fed_avg(loss_fn, client_optimizer=optax.sgd(rate), batch_size=10, epochs=1),
            sampler=fl.sampling.uniform(4),
            aggregator=fl.weighted_mean(),
            execution=fl.Execution(devices=1),
        )

    return make, model, train, fl.evaluate(model, test)


@pytest.fixture(scope="module")
def one_by_one(task):
    return to_target.train_all(*task, rates=RATES, num_seeds=2, target=TARGET, most=10)


def test_runs_side_by_side_are_those_one_after_the_other(task, one_by_one) -> None:
    together = to_target._side_by_side(*task, RATES, 2, TARGET, 10)
    assert set(together) == set(one_by_one) == set(RATES)
    for rate in RATES:
        for a, b in zip(together[rate], one_by_one[rate], strict=True):
            assert len(a) == len(b)  # both end where the target is reached
            np.testing.assert_allclose(a, b, atol=0.006)  # two of 359 images


def test_a_run_ends_at_its_target_or_where_it_is_given_up(task, one_by_one) -> None:
    for curve in (curve for curves in one_by_one.values() for curve in curves):
        assert curve[-1] >= TARGET
        assert all(accuracy < TARGET for accuracy in curve[:-1])
    short = to_target.train_all(*task, rates=(0.1,), num_seeds=1, target=2.0, most=2)
    assert len(short[0.1][0]) == 2


@pytest.mark.whole
def test_a_run_that_was_cut_off_goes_on_and_one_that_is_done_is_not_run(task, tmp_path, monkeypatch) -> None:
    whole = to_target.train_all(*task, rates=(0.1,), num_seeds=1, target=2.0, most=4)
    asked = {"rates": (0.1,), "num_seeds": 1, "target": 2.0, "folder": tmp_path}
    assert to_target.train_all(*task, most=2, **asked)[0.1][0] == whole[0.1][0][:2]
    # as if two of four rounds had been done when it was stopped
    assert to_target.train_all(*task, most=4, **asked) == whole
    monkeypatch.setattr(fl, "train", lambda *args, **options: pytest.fail("it was run again"))
    assert to_target.train_all(*task, most=4, **asked) == whole


def test_the_best_rate_is_that_of_most_seeds_and_then_fewest_rounds() -> None:
    reached, slower, never = [0.2, 0.8], [0.1, 0.2, 0.8], [0.1, 0.1]
    assert to_target.best_rate({0.1: [reached, never], 0.3: [slower, slower], 1.0: [never, never]}, 0.5)[0] == 0.3
    rate, rounds, text = to_target.best_rate({0.1: [reached], 0.3: [slower]}, 0.5)
    assert (rate, text) == (0.1, "0.1 of 2 (at the edge)")
    assert rounds == pytest.approx([1.5])  # halfway from 0.2 to 0.8
    assert to_target.best_rate({0.1: [never]}, 0.5)[2] == "0.1"
