"""The plan: arithmetic that can be checked by hand, and a probe that ends."""

import jax
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.rehearsal.plan import plan

PARAMS = {"w": np.zeros((3,), np.float32)}


def loss_fn(params, batch, key):
    return (batch["x"] @ params["w"]) ** 2


def people(sizes=(1, 5, 12)) -> fl.Population:
    x = np.ones((sum(sizes), 3), np.float32)
    return fl.Population.from_arrays({"x": x}, np.repeat(np.arange(len(sizes)), sizes))


def make(cohort=2, **options):
    options = {"batch_size": 5, "epochs": 2, **options}
    algorithm = algorithms.fed_avg(loss_fn, client_optimizer=optax.sgd(0.1), **options)
    return fl.rounds(
        algorithm,
        sampler=fl.sampling.uniform(cohort),
        aggregator=fl.chain(fl.mean(), fl.clip_by_global_norm(1.0), fl.quantize(bits=8)),
        execution=fl.Execution(devices=1),
    )


@pytest.mark.whole
def test_a_plan_counts_and_measures() -> None:
    costs = plan(make(), jax.eval_shape(lambda: PARAMS), people(), num_rounds=10, lanes_options=[1, 2])
    assert (costs.num_params, costs.num_clients, costs.expected_cohort) == (3, 3, 2)
    assert costs.bytes_down == 12
    assert costs.bytes_up == 3 + 4  # eight bits an entry, and the weight
    assert costs.local_steps == pytest.approx(2 * (1 + 1 + 3) / 3 * 2)
    assert costs.data_bytes == 18 * 12 + 4 * 4
    assert costs.probes[0].lanes == 1
    assert costs.lanes in [probe.lanes for probe in costs.probes]
    assert all(probe.seconds_per_round > 0 and probe.compile_seconds > 0 for probe in costs.probes)
    assert costs.probes[0].temp_bytes is None or costs.probes[0].temp_bytes >= 0
    told = str(costs)
    assert "3 parameters" in told
    assert "10 rounds: about" in told
    assert "140 B up, 240 B down" in told


def test_the_budget_ends_the_probe_after_one() -> None:
    costs = plan(make(cohort=3), PARAMS, people(), budget_seconds=1e-6)
    assert [probe.lanes for probe in costs.probes] == [1]
    assert "rounds: about" not in str(costs)


@pytest.mark.parametrize(
    ("options", "steps"),
    [({"batch_size": None}, 4.0), ({"epochs": None, "steps": 7}, 14.0)],
)
def test_steps_follow_from_the_hyperparameters(options, steps) -> None:
    from fedjaxlite.rehearsal.plan import _local_steps

    run = make(**options)
    assert _local_steps(run, people()) == pytest.approx(steps)
    unknown = run._replace(algorithm=run.algorithm._replace(hparams={}))
    assert _local_steps(unknown, people()) is None


@pytest.mark.parametrize(
    ("run", "options", "error", "told"),
    [
        (3, {}, TypeError, "`run` is a int; expected what fl.rounds"),
        (None, {"num_rounds": 0}, ValueError, "`num_rounds` is 0"),
        (None, {"budget_seconds": 0}, ValueError, "`budget_seconds` is 0"),
        (None, {"lanes_options": []}, ValueError, "`lanes_options` is empty"),
        (None, {"lanes_options": [0]}, ValueError, "`lanes_options` is 0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(run, options, error, told) -> None:
    with pytest.raises(error, match=told):
        plan(make() if run is None else run, PARAMS, people(), **options)
