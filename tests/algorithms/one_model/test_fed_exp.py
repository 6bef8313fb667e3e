"""FedExP against NumPy: its server step, its evaluation, and its scalar's bound."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite.algorithms.one_model.fed_exp import fed_exp

SIZES = (2, 1, 5)
OWNER = np.repeat(np.arange(3), SIZES)
TARGETS = np.float32([[3, 0], [0, 2], [-1, -1]])
PEOPLE = fl.Population.from_arrays({"t": TARGETS[OWNER]}, client_ids=OWNER)
START = jnp.float32([0.2, 0.1])
RATE, EPS = 0.3, 0.01


def loss(x: Any, batch: Any, key: Any) -> jax.Array:
    del key
    return ((x.reshape(1, 2) - batch["t"]) ** 2).sum(axis=1) / 2


def by_hand(rounds: int, largest: float = np.inf) -> tuple[list[np.ndarray], list[float]]:
    """Two full-batch steps: a client's delta is (1 - (1 - rate)^2) (x - target)."""
    xs, rates = [np.asarray(START, np.float64)], []
    for _ in range(rounds):
        deltas = (1 - (1 - RATE) ** 2) * (xs[-1] - TARGETS)
        mean = np.average(deltas, axis=0, weights=SIZES)
        norms = np.minimum((deltas**2).sum(axis=1), largest**2)
        rates.append(max(1.0, np.average(norms, weights=SIZES) / (2 * ((mean**2).sum() + EPS))))
        xs.append(xs[-1] - rates[-1] * mean)
    return xs, rates


def make(**options: Any) -> fl.Algorithm:
    return fed_exp(loss, client_optimizer=optax.sgd(RATE), **{"eps": EPS, "batch_size": None, "steps": 2, **options})


def test_rounds_are_those_of_numpy() -> None:
    xs, rates = by_hand(3)
    run, state, _ = helpers.one_run(make(average_last_two=True), PEOPLE, START, num_rounds=3)
    assert np.asarray(state.params) == pytest.approx(xs[-1], abs=1e-4)
    assert np.asarray(run.params(state)) == pytest.approx((xs[-1] + xs[-2]) / 2, abs=1e-4)
    assert float(state.server_state.server_lr) == pytest.approx(rates[-1], rel=1e-4)
    assert max(rates) > 1.5
    assert run.traffic(START, PEOPLE) == (8 + 4 + 4, 8)


def test_clients_that_agree_make_it_federated_averaging() -> None:
    alike = fl.Population.from_arrays({"t": TARGETS[[0, 0, 0]]}, client_ids=[0, 1, 2])
    _, state, _ = helpers.one_run(make(), alike, START, num_rounds=2)
    assert float(state.server_state.server_lr) == 1.0
    end = TARGETS[0] + (1 - RATE) ** 4 * (np.asarray(START) - TARGETS[0])
    assert np.asarray(state.params) == pytest.approx(end, abs=1e-6)


def test_squared_norms_saturate_at_the_bound_and_can_be_quantized() -> None:
    xs, rates = by_hand(1, largest=0.6)
    algorithm = make(max_norm=0.6)
    assert dict(algorithm.scalar_bounds) == {"squared_norm": pytest.approx(0.36)}
    codecs = fl.chain(fl.weighted_mean(weight_cap=8), fl.clip_by_global_norm(2.0), fl.quantize(bits=20))
    _, state, _ = helpers.one_run(algorithm, PEOPLE, START, aggregator=codecs)
    assert float(state.server_state.server_lr) == pytest.approx(rates[0], rel=1e-3)
    assert np.asarray(state.params) == pytest.approx(xs[-1], abs=1e-3)
    assert rates[0] < by_hand(1)[1][0] - 0.1
    with pytest.raises(ValueError, match=r"needs a bound on the scalar 'squared_norm'"):
        helpers.one_run(make(), PEOPLE, START, aggregator=codecs, num_rounds=0)


def test_a_round_without_reports_and_a_client_without_examples_change_nothing() -> None:
    data = fl.Population.from_arrays({"t": TARGETS[[0]]}, client_ids=[0], order=[0, 1], allow_empty=True)
    sampler = fl.sampling.replay([[-1, -1], [1, -1], [0, 1]])
    run, state, _ = helpers.one_run(make(), data, START, sampler=sampler, num_rounds=2)
    assert helpers.max_difference(state.params, START) == 0
    state, _ = run.step(state, data)
    assert np.isfinite(np.asarray(state.params)).all()
    assert helpers.max_difference(state.params, START) > 0.1


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"eps": 0.0}, ValueError, r"`eps` is 0\.0; expected a finite number above 0"),
        ({"max_norm": -1.0}, ValueError, r"`max_norm` is -1\.0; expected a finite number above 0"),
        ({"average_last_two": 2}, TypeError, "`average_last_two` is 2; expected True or False"),
        ({"epochs": 1}, ValueError, r"expected exactly one of them"),
    ],
)
def test_arguments_out_of_range_are_refused(options: Any, error: Any, text: str) -> None:
    with pytest.raises(error, match=text):
        make(**options)
