"""Clustered learning against its equations in NumPy, with one cluster against federated averaging, and finding clusters."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite.algorithms.groups_and_fairness.ifca import hyp_cluster, ifca, ifca_init

A, B = np.array([1.0, 4.0, 2.0, 3.0, 1.0]), np.array([0.0, 0.2, 1.0, 1.3, 0.9])
COHORTS = [[0, 1, 2], [1, 4, 3], [0, 1, -1], [2, 3, 4]]
START = [0.4, 0.6]


def quadratic(x: Any, batch: Any, key: Any) -> jax.Array:
    del key
    return batch["a"] / 2 * (x - batch["b"]) ** 2


def people() -> fl.Population:
    return fl.Population.from_arrays({"a": np.float32(A), "b": np.float32(B)}, client_ids=np.arange(5))


def in_numpy(rate: float, num_steps: int, *, gradient: bool) -> tuple[np.ndarray, dict[int, int]]:
    models, chosen = np.array(START), {}
    for cohort in COHORTS:
        ids = [i for i in cohort if i >= 0]
        deltas: list[list[float]] = [[], []]
        for i in ids:
            j = chosen[i] = int(np.argmin(A[i] / 2 * (models - B[i]) ** 2))
            local = models[j]
            for _ in range(num_steps):
                local -= rate * A[i] * (local - B[i])
            deltas[j].append(models[j] - local)
        for j in range(2):
            models[j] -= sum(deltas[j]) / (len(ids) if gradient else max(len(deltas[j]), 1))
    return models, chosen


@pytest.mark.parametrize("averaging", ["model", "gradient"])
def test_rounds_are_the_equations(averaging: str) -> None:
    """Among the cohorts is one whose clients all choose the first model: the other one stays."""
    if averaging == "model":
        algorithm = ifca(quadratic, num_clusters=2, client_optimizer=optax.sgd(0.1), batch_size=1, steps=3)
    else:
        algorithm = ifca(quadratic, num_clusters=2, averaging="gradient", server_optimizer=optax.sgd(0.1))
    run = fl.rounds(
        algorithm, sampler=fl.sampling.replay(COHORTS), aggregator=fl.weighted_mean(), execution=helpers.ONE
    )
    data = people()
    state, _ = run.steps(run.init(jnp.float32(START), data, key=jax.random.key(0)), data, len(COHORTS))
    models, chosen = in_numpy(0.1, 3 if averaging == "model" else 1, gradient=averaging == "gradient")
    assert state.params.tolist() == pytest.approx(models, abs=1e-6)
    assert state.clients.algorithm[:5].tolist() == [chosen[i] for i in range(5)] == [0, 0, 1, 1, 1]
    assert float(run.client_params(state, 3)) == pytest.approx(models[1], abs=1e-6)


def test_one_cluster_is_federated_averaging() -> None:
    """At a local rate of 1 clients end at their values; HypCluster weighs them by examples, IFCA does not."""
    data = helpers.one_value_each([0.0, 1.0, 4.0], [1, 2, 5])
    loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2  # noqa: E731
    for make, want in ((ifca, 5 / 3), (hyp_cluster, 22 / 8)):
        algorithm = make(loss, num_clusters=1, client_optimizer=optax.sgd(1.0), batch_size=None)
        _, state, _ = helpers.one_run(algorithm, data, jnp.float32([9.0]))
        assert state.params.tolist() == pytest.approx([want])


def two_kinds(num_clients: int = 8) -> tuple[fl.Population, np.ndarray]:
    """Clients of linear targets of two kinds that have their last weight in common."""
    rng = np.random.default_rng(1)
    truths, kinds = np.array([[2.0, -1.0, 0.5], [-2.0, 1.5, 0.5]]), np.arange(num_clients) % 2
    owner = np.repeat(np.arange(num_clients), 20)
    x = rng.normal(size=(len(owner), 3)).astype(np.float32)
    y = np.einsum("nf,nf->n", x, truths[kinds[owner]]).astype(np.float32)
    return fl.Population.from_arrays({"x": x, "y": y}, client_ids=owner), truths


def two_part_loss(params: Any, batch: Any, key: Any) -> jax.Array:
    del key
    return (batch["x"][:, :2] @ params["own"] + batch["x"][:, 2] * params["common"] - batch["y"]) ** 2


def test_clients_find_their_cluster_and_share_what_they_have_in_common() -> None:
    data, truths = two_kinds()
    algorithm = ifca(
        two_part_loss,
        num_clusters=2,
        client_optimizer=optax.sgd(0.05),
        batch_size=None,
        steps=5,
        shared=lambda path, leaf: path == ("common",),
    )
    run = fl.rounds(algorithm, sampler=fl.sampling.uniform(4), aggregator=fl.weighted_mean(), execution=helpers.ONE)
    init = lambda key: {"own": jax.random.normal(key, (2,)), "common": jax.random.normal(key, ())}  # noqa: E731
    state = run.init(ifca_init(jax.random.key(4), init, 2), data, key=jax.random.key(0))
    assert float(jnp.ptp(state.params["common"])) == 0
    state, _ = run.steps(state, data, 60)
    number = np.asarray(state.clients.algorithm)
    assert sorted(set(number[::2].tolist()) | set(number[1::2].tolist())) == [0, 1]
    assert len(set(number[::2].tolist())) == len(set(number[1::2].tolist())) == 1
    for client in (0, 1):
        model = run.client_params(state, client)
        assert model["own"].tolist() == pytest.approx(truths[client % 2, :2], abs=1e-3)
        assert float(model["common"]) == pytest.approx(0.5, abs=1e-3)
    # The common leaf crosses the wire once, with a weight of its own.
    assert run.traffic(state.params, data).up == 4 * (2 * 2 + 1) + 4 * 3


def test_models_are_stacked_from_keys_of_their_own() -> None:
    stacked = ifca_init(jax.random.key(0), lambda key: {"w": jax.random.normal(key, (3,))}, 4)
    assert stacked["w"].shape == (4, 3)
    assert len(np.unique(np.asarray(stacked["w"])[:, 0])) == 4


def test_what_is_refused() -> None:
    sgd = optax.sgd(0.1)
    with pytest.raises(ValueError, match=r"`averaging` is 'both'; expected one of 'model', 'gradient'"):
        ifca(quadratic, num_clusters=2, averaging="both")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"averaging='gradient' needs a `server_optimizer`"):
        ifca(quadratic, num_clusters=2, averaging="gradient")
    with pytest.raises(ValueError, match=r"are for averaging='model'"):
        ifca(quadratic, num_clusters=2, averaging="gradient", server_optimizer=sgd, epochs=2)
    with pytest.raises(TypeError, match=r"`client_optimizer` is None; expected an optax optimizer"):
        ifca(quadratic, num_clusters=2)
    with pytest.raises(ValueError, match=r"`num_clusters` is 0"):
        hyp_cluster(quadratic, num_clusters=0, client_optimizer=sgd)
    with pytest.raises(TypeError, match=r"`shared` is 'w'; expected a function"):
        ifca(quadratic, num_clusters=2, client_optimizer=sgd, shared="w")  # pyright: ignore[reportArgumentType]
    algorithm = ifca(quadratic, num_clusters=2, client_optimizer=sgd)
    with pytest.raises(ValueError, match=r"shape \[3\] at \['w'\]; expected \[2, ...\], one model for each cluster"):
        algorithm.init({"w": jnp.zeros((3,))})
