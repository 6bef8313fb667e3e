"""Tiny problems for the methods of personalization, and what their steps are in plain NumPy."""

from collections.abc import Iterator, Sequence
from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np

import fedjaxlite as fl

SIZES = (4, 9, 0, 6)
"""The third client has no examples; the last one takes part in no round of `COHORTS`."""
COHORTS = [[0, 1, 2], [1, 2, -1], [0, 1, -1]]
BATCH = 4
A, B = np.array([1, 4, 2], np.float32), np.array([0, 1, -2], np.float32)
"""Clients of a loss a/2 (x - b)^2, one example each."""


def quadratic(params: Any, batch: Any, key: Any) -> Any:
    """`[B]`: a/2 (params - b)^2."""
    del key
    return batch["a"] / 2 * (params - batch["b"]) ** 2


def quadratics() -> fl.Population:
    return fl.Population.from_arrays({"a": A, "b": B}, client_ids=np.arange(len(A)))


def linear() -> fl.Population:
    """Clients of `helpers.linear_loss` with two features, of `SIZES`."""
    rng = np.random.default_rng(7)
    owner = np.repeat(np.arange(len(SIZES)), SIZES)
    x = rng.normal(size=(len(owner), 2)).astype(np.float32)
    y = (x.sum(1) * (1.0 + owner) + rng.normal(size=len(owner))).astype(np.float32)
    return fl.Population.from_arrays({"x": x, "y": y}, owner, order=range(len(SIZES)), allow_empty=True)


def start() -> dict[str, Any]:
    return {"w": jnp.float32([0.5, -1.0]), "b": jnp.float32(0.1)}


def flat(params: Any) -> np.ndarray:
    """Weights and bias of a linear model as one float64 vector `[3]`."""
    return np.append(np.asarray(params["w"], np.float64), float(params["b"]))


def half_work(sampler: fl.Sampler, slots: Sequence[int]) -> fl.Sampler:
    """Clients in these slots do half of their steps."""

    def sample(key: Any, round_number: Any, population: Any) -> fl.Cohort:
        cohort = sampler.sample(key, round_number, population)
        return cohort._replace(work=cohort.work.at[jnp.asarray(slots, jnp.int32)].set(0.5))

    return sampler._replace(sample=sample)


def sampler() -> fl.Sampler:
    """The cohorts of `COHORTS`, in which the second slot does half of its work."""
    return half_work(fl.sampling.replay(COHORTS), [1])


def work_of(cohort: Sequence[int], client: int) -> float:
    return 0.5 if list(cohort).index(client) == 1 else 1.0


def rows(population: fl.Population, client: int) -> tuple[np.ndarray, np.ndarray]:
    """A client's design matrix `[n, 3]` with a column of ones, and its targets `[n]`."""
    own = population.client(client)
    x = np.asarray(own["x"], np.float64)
    return np.c_[x, np.ones(len(x))], np.asarray(own["y"], np.float64)


def batches(x: np.ndarray, y: np.ndarray, epochs: int, work: float = 1.0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Stored order, `BATCH` rows at a time, with a partial last batch; stopped where a straggler stops."""
    per_epoch = -(-len(x) // BATCH)
    total = per_epoch * epochs
    for step in range(int(np.ceil(work * total)) if len(x) else 0):
        at = slice(step % per_epoch * BATCH, (step % per_epoch + 1) * BATCH)
        yield x[at], y[at]


def gradient(model: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of the mean squared error."""
    return 2 * x.T @ (x @ model - y) / len(x)


def loss(model: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    return float(np.mean((x @ model - y) ** 2))


def close(got: Any, want: np.ndarray, tolerance: float = 1e-5) -> bool:
    return bool(np.max(np.abs(flat(got) - want)) < tolerance)


def check_exports(run: fl.Rounds, state: Any, population: fl.Population, models: Sequence[np.ndarray]) -> None:
    """Each client's exported model, and the evaluation of all of them, against models in NumPy."""
    report = fl.evaluate_clients(helpers.linear_loss, population, rounds=run, execution=helpers.ONE)(state)
    for client, model in enumerate(models):
        assert close(run.client_params(state, client), model), f"client {client}"
        if SIZES[client]:
            own = loss(model, *rows(population, client))
            assert abs(report.metrics["loss"][client] - own) < 1e-4 * (1 + own), f"client {client}"


def played(algorithm: fl.Algorithm, population: fl.Population, num_rounds: int = 3) -> tuple[fl.Rounds, Any, list[Any]]:
    """The rounds of `COHORTS`, one lane on one device: `(rounds, last state, infos)`."""
    run = fl.rounds(algorithm, sampler=sampler(), aggregator=fl.weighted_mean(), execution=helpers.ONE)
    state = run.init(start(), population, key=jax.random.key(0))
    infos = []
    for _ in range(num_rounds):
        state, info = run.step(state, population)
        infos.append(info)
    return run, state, infos
