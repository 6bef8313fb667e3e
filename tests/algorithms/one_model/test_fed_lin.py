"""FedLin against NumPy, with clients of unequal steps, and its fixed point."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite.algorithms.one_model.fed_lin import fed_lin

A, B, SIZES = np.float32([1, 4, 2]), np.float32([0, 1, -2]), (1, 3, 5)
WEIGHTS = np.float64(SIZES)
OPTIMUM = float((WEIGHTS * A * B).sum() / (WEIGHTS * A).sum())
OWNER = np.repeat(np.arange(3), SIZES)
PEOPLE = fl.Population.from_arrays({"a": A[OWNER], "b": B[OWNER]}, client_ids=OWNER)
ETA = 0.2


def loss(x: Any, batch: Any, key: Any) -> jax.Array:
    del key
    return batch["a"] / 2 * (x - batch["b"]) ** 2


def by_hand(x: float, rounds: int, taus: list[int], exact: bool) -> float:
    g = 0.0
    for _ in range(rounds):
        at_x = A * (x - B)
        mean = float(np.average(at_x, weights=WEIGHTS))
        g = mean if exact else g
        ends = []
        for k, tau in enumerate(taus):
            y = x
            for _ in range(tau):
                y -= ETA / tau * (A[k] * (y - B[k]) - at_x[k] + g)
            ends.append(y)
        x, g = float(np.average(ends, weights=WEIGHTS)), mean
    return x


@pytest.mark.parametrize(
    ("exchanges", "options", "taus"),
    [(1, {"batch_size": 1, "epochs": 2}, [2, 6, 10]), (2, {"steps": 4}, [4, 4, 4])],
    ids=["one exchange, unequal steps", "two exchanges, full batches"],
)
def test_rounds_are_those_of_numpy_and_end_at_the_optimum(exchanges: Any, options: Any, taus: list[int]) -> None:
    algorithm = fed_lin(loss, client_lr=ETA, exchanges=exchanges, **options)
    run, state, info = helpers.one_run(algorithm, PEOPLE, jnp.float32(0.5), num_rounds=3 * exchanges)
    assert info.clients["local_steps"].tolist() == taus
    assert float(state.params) == pytest.approx(by_hand(0.5, 3, taus, exchanges == 2), abs=1e-5)
    assert float(state.params) != pytest.approx(OPTIMUM, abs=1e-2)
    for _ in range(80):
        state, _ = run.step(state, PEOPLE)
    assert float(state.params) == pytest.approx(OPTIMUM, abs=1e-5)


def test_stragglers_take_fewer_and_longer_steps() -> None:
    """Where gradients are constant, a client goes eta times its gradient whatever its number of steps."""
    slope = lambda x, batch, key: batch["b"] * x  # noqa: E731
    sampler = fl.sampling.with_stragglers(fl.sampling.full(3), 1.0, 0.1)
    algorithm = fed_lin(slope, client_lr=ETA, steps=10, exchanges=2)
    _, state, info = helpers.one_run(algorithm, PEOPLE, jnp.float32(0.5), sampler=sampler, num_rounds=2)
    mean = float(np.average(B, weights=WEIGHTS))
    assert len(set(info.clients["local_steps"].tolist())) > 1
    assert float(state.params) == pytest.approx(0.5 - ETA * mean, abs=1e-6)


def test_a_client_without_examples_and_a_round_without_reports() -> None:
    data = fl.Population.from_arrays({"a": A[:2], "b": B[:2]}, client_ids=[0, 1], order=[0, 1, 2], allow_empty=True)
    sampler = fl.sampling.replay([[0, 1, 2], [-1, -1, -1], [0, 1, 2]])
    run, first, _ = helpers.one_run(fed_lin(loss, client_lr=ETA, steps=2), data, jnp.float32(0.5), sampler=sampler)
    second, _ = run.step(first, data)
    assert helpers.max_difference(first.server_state, second.server_state) == 0
    third, info = run.step(second, data)
    assert info.clients["local_steps"].tolist() == [2, 2, 0]
    assert np.isfinite(float(third.params))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"client_lr": 0.0}, r"`client_lr` is 0\.0; expected a finite number above 0"),
        ({"exchanges": 0}, r"`exchanges` is 0; expected one of 1, 2"),
        ({"epochs": 1, "steps": 1}, r"expected exactly one of them"),
    ],
)
def test_arguments_out_of_range_are_refused(options: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        fed_lin(loss, **{"client_lr": 0.1, **options})
