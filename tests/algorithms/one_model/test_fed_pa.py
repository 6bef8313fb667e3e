"""FedPA: the recursion against dense linear algebra, the client's samples against NumPy, and its burn-in."""

from functools import lru_cache
from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedjaxlite as fl
from fedjaxlite.algorithms.one_model.fed_pa import fed_pa, posterior_delta

RATE = 0.1


def dense(samples: np.ndarray, start: np.ndarray, rho: float) -> np.ndarray:
    """C^-1 (start - mean) with C = r I + (1 - r) cov, formed and solved in double precision."""
    count, size = samples.shape
    share = 1.0 / (1.0 + (count - 1) * rho)
    spread = np.cov(samples, rowvar=False).reshape(size, size) if count > 1 else np.zeros((size, size))
    return np.linalg.solve(share * np.eye(size) + (1 - share) * spread, start - samples.mean(axis=0))


@lru_cache(maxsize=4)
def recursion(length: int) -> Any:
    del length  # one compiled program for each
    return jax.jit(lambda samples, start, rho, count: posterior_delta(samples, start, rho=rho, count=count))


@settings(max_examples=30)
@given(
    length=st.sampled_from([1, 2, 7]),
    missing=st.integers(0, 3),
    rho=st.sampled_from([0.0, 0.01, 0.5, 3.0]),
    seed=st.integers(0, 1000),
)
def test_the_recursion_is_the_dense_solution(length: int, missing: int, rho: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = max(1, length - missing)
    samples, start = rng.normal(size=(length, 5)), rng.normal(size=5)
    tree = lambda x: {"b": jnp.float32(x[..., :1]), "w": jnp.float32(x[..., 1:]).reshape(*x.shape[:-1], 2, 2)}  # noqa: E731
    got = recursion(length)(tree(samples), tree(start), jnp.float32(rho), jnp.int32(count))
    want = tree(dense(samples[:count], start, rho))
    size = float(np.abs(dense(samples[:count], start, rho)).max())
    assert helpers.max_difference(got, want) <= 2e-5 * (1 + size)


SIZES = (2, 6, 3)
OWNER = np.repeat(np.arange(3), SIZES)
TARGETS = np.random.default_rng(0).normal(size=(len(OWNER), 2)).astype(np.float32) + OWNER[:, None].astype(np.float32)
PEOPLE = fl.Population.from_arrays({"t": TARGETS}, client_ids=OWNER)
START = jnp.float32([0.4, -0.3])


def loss(x: Any, batch: Any, key: Any) -> jax.Array:
    del key
    return ((x.reshape(1, 2) - batch["t"]) ** 2).sum(axis=1) / 2


def iterates(client: int, epochs: int) -> np.ndarray:
    x, seen = np.asarray(START, np.float64), []
    for _ in range(epochs):
        for row in TARGETS[client == OWNER]:
            x = x - RATE * (x - row)
            seen.append(x)
    return np.stack(seen)


def make(**options: Any) -> fl.Algorithm:
    chosen: dict[str, Any] = {
        "rho": 0.7,
        "num_samples": 4,
        "steps_per_sample": 2,
        "burn_in_steps": 3,
        "epochs": 2,
        **options,
    }
    return fed_pa(loss, client_optimizer=optax.sgd(RATE), batch_size=1, shuffle=False, **chosen)


def test_deltas_are_those_of_numpy_and_begin_after_the_burn_in() -> None:
    """Clients take 4, 12 and 6 steps: after 3 of burn-in these hold no, four and one whole sample of 2 steps."""
    run, first, info = helpers.one_run(make(burn_in_rounds=1), PEOPLE, START)
    plain = fl.algorithms.fed_avg(loss, client_optimizer=optax.sgd(RATE), batch_size=1, epochs=2, shuffle=False)
    want = helpers.one_run(plain, PEOPLE, START)[1]
    assert helpers.max_difference(first.params, want.params) < 1e-6
    assert info.clients["samples"].tolist() == [0, 0, 0]

    begun = first._replace(server_state=first.server_state._replace(params=START))
    second, info = run.step(begun, PEOPLE)
    assert info.clients["samples"].tolist() == [0, 4, 1]
    deltas = []
    for client, count in enumerate((0, 4, 1)):
        seen = iterates(client, 2)
        samples = seen[3 : 3 + 2 * count].reshape(count, 2, 2).mean(axis=1)
        start = np.asarray(START, np.float64)
        deltas.append(dense(samples, start, 0.7) if count else start - seen[-1])
    mean = np.average(deltas, axis=0, weights=SIZES)
    assert np.asarray(second.params) == pytest.approx(np.asarray(START) - mean, abs=2e-5)


def test_without_shrinkage_a_delta_ends_at_the_mean_of_the_iterates() -> None:
    algorithm = make(rho=0.0, num_samples=1, steps_per_sample=4, burn_in_steps=0, epochs=None, steps=None)
    assert algorithm.hparams["steps"] == 4
    _, state, info = helpers.one_run(algorithm, PEOPLE, START, sampler=fl.sampling.replay([[1]]))
    assert info.clients["samples"].tolist() == [1]
    assert np.asarray(state.params) == pytest.approx(iterates(1, 1)[:4].mean(axis=0), abs=1e-6)


def test_stragglers_and_empty_clients_take_the_samples_that_they_can() -> None:
    data = fl.Population.from_arrays({"t": TARGETS}, client_ids=OWNER, order=[0, 1, 2, 7], allow_empty=True)
    sampler = fl.sampling.with_stragglers(fl.sampling.full(4), 1.0, 0.1)
    _, state, info = helpers.one_run(make(burn_in_steps=1), data, START, sampler=sampler)
    steps, samples = info.clients["local_steps"].tolist(), info.clients["samples"].tolist()
    assert samples == [min(4, max(0, (t - 1) // 2)) for t in steps]
    assert steps[3] == 0
    assert steps[1] < 12
    assert np.isfinite(np.asarray(state.params)).all()


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"rho": -0.1}, ValueError, r"`rho` is -0\.1; expected a number of at least 0"),
        ({"num_samples": 0}, ValueError, r"`num_samples` is 0; expected an int of at least 1"),
        ({"steps_per_sample": 1.5}, TypeError, r"`steps_per_sample` is 1\.5; expected an int of at least 1"),
        ({"burn_in_rounds": -1}, ValueError, r"`burn_in_rounds` is -1; expected an int of at least 0\. 0 is for none"),
        ({"steps": 2}, ValueError, r"expected exactly one of them"),
    ],
)
def test_arguments_out_of_range_are_refused(options: Any, error: Any, text: str) -> None:
    with pytest.raises(error, match=text):
        make(**options)
