"""Federated reconstruction against its equations in NumPy, on means and on a matrix factorization."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite.algorithms.shared_parts.fed_recon import fed_recon, reconstruct

START = {"g": jnp.float32(1.0), "l": jnp.float32(0.0)}


def offset_loss(params: Any, batch: Any, key: Any) -> jax.Array:
    del key
    return (params["g"] + params["l"] - batch["x"]) ** 2 / 2


def is_local(path: tuple[Any, ...], leaf: Any) -> bool:
    del leaf
    return path[0] == "l"


def test_support_and_query_on_means() -> None:
    """With rates of 1 the support's mean m_s becomes g + l, and g moves by the query's m_q - m_s, weighted by query sizes."""
    values = [[1.0, 3.0, 7.0], [0.0, 4.0, 5.0, 1.0], [9.0]]  # supports of 2, 2 and 1
    data = fl.Population.from_clients([{"x": np.float32(v)} for v in values])
    algorithm = fed_recon(offset_loss, local=is_local, client_optimizer=optax.sgd(1.0), batch_size=None, support=0.5)
    run, state, info = helpers.one_run(algorithm, data, START)
    moves = np.array([7.0 - 2.0, 3.0 - 2.0])
    assert float(state.params["g"]) == pytest.approx(1.0 + (1 * moves[0] + 2 * moves[1]) / 3, abs=1e-6)
    assert float(state.params["l"]) == 0.0
    assert info.clients["local_steps"].tolist() == [2, 2, 1]
    assert run.traffic(START, data) == (4 + 4, 4)  # g and the weight up, g down


def test_without_a_split_reconstruction_explains_all_it_can() -> None:
    """On the same examples the local mean is met exactly, and g has nothing left to do."""
    data = helpers.one_value_each([2.0, -4.0], [3, 2])
    algorithm = fed_recon(offset_loss, local=is_local, client_optimizer=optax.sgd(1.0), batch_size=None)
    _, state, _ = helpers.one_run(algorithm, data, START, num_rounds=2)
    assert float(state.params["g"]) == pytest.approx(1.0, abs=1e-6)


def factor_loss(params: Any, batch: Any, key: Any) -> jax.Array:
    del key
    return (params["items"][batch["i"]] @ params["l"] - batch["r"]) ** 2


def ratings(num_users: int = 12, num_items: int = 6) -> fl.Population:
    """Every user's ratings of every item, of rank 2, in an order of their own."""
    rng = np.random.default_rng(0)
    users, items = rng.normal(size=(num_users, 2)), rng.normal(size=(num_items, 2))
    orders = [rng.permutation(num_items) for _ in range(num_users)]
    return fl.Population.from_clients(
        [
            {"i": order.astype(np.int32), "r": np.float32(items[order] @ user)}
            for user, order in zip(users, orders, strict=True)
        ]
    )


FACTORS = {
    "items": jnp.asarray(np.random.default_rng(1).normal(size=(6, 2)), jnp.float32),
    "l": jnp.float32([0.1, 0.0]),
}


def rebuilt(items: np.ndarray, i: np.ndarray, r: np.ndarray, rate: float, num_steps: int) -> np.ndarray:
    user = np.array([0.1, 0.0], np.float64)
    for _ in range(num_steps):
        user = user - rate * 2 * items[i].T @ (items[i] @ user - r) / len(i)
    return user


def in_numpy(data: fl.Population, num_rounds: int) -> np.ndarray:
    items = np.asarray(FACTORS["items"], np.float64)
    for _ in range(num_rounds):
        total = np.zeros_like(items)
        for client in range(data.num_clients):
            own = data.client(client)
            i, r = own["i"], own["r"].astype(np.float64)
            user, local = rebuilt(items, i[:4], r[:4], 0.1, 20), items.copy()
            for _ in range(2):
                errors = local[i[4:]] @ user - r[4:]
                gradient = np.zeros_like(local)
                np.add.at(gradient, i[4:], 2 * errors[:, None] * user[None] / 2)
                local -= 0.1 * gradient
            total += items - local
        items = items - 2.0 * total / data.num_clients
    return items


@pytest.mark.whole
def test_matrix_factorization_is_the_equations_and_serves_new_users() -> None:
    data = ratings()
    algorithm = fed_recon(
        factor_loss,
        local=is_local,
        client_optimizer=optax.sgd(0.1),
        server_optimizer=optax.sgd(2.0),
        support=0.6,  # 4 of 6 ratings, rounded up
        recon_steps=20,
        batch_size=None,
        steps=2,
    )
    run = fl.rounds(algorithm, sampler=fl.sampling.full(12), aggregator=fl.weighted_mean(), execution=helpers.ONE)
    first = run.init(FACTORS, data, key=jax.random.key(0))
    state, infos = run.steps(first, data, 100)
    assert np.asarray(state.params["items"]) == pytest.approx(in_numpy(data, 100), abs=1e-3)
    assert state.params["l"].tolist() == FACTORS["l"].tolist()
    loss = np.asarray(infos.metrics["loss"])
    assert loss[-1] < 0.2 * loss[0], (loss[0], loss[-1])
    assert jax.tree.leaves(state.clients) == []


def test_reconstruct_rebuilds_the_local_leaves_alone() -> None:
    data = ratings(3)
    rebuild = reconstruct(factor_loss, local=is_local, recon_optimizer=optax.sgd(0.1), recon_steps=20, batch_size=None)

    def client_fn(shared: Any, own: fl.ClientData) -> fl.ClientOutput:
        result = rebuild(shared, own)
        moved = jnp.abs(result.params["items"] - shared["items"]).max()
        return fl.ClientOutput(jnp.float32(0), info={"u0": result.params["l"][0], "moved": moved})

    everyone = fl.sampling.full(3).sample(jax.random.key(0), 0, data)
    call = fl.federated_sum(client_fn, aggregator=fl.mean(), execution=helpers.ONE)
    _, info = call(FACTORS, data, everyone, key=jax.random.key(0))
    items = np.asarray(FACTORS["items"], np.float64)
    want = [rebuilt(items, own["i"], own["r"], 0.1, 20)[0] for own in map(data.client, range(3))]
    assert info.clients["u0"].tolist() == pytest.approx(want, abs=1e-5)
    assert info.clients["moved"].tolist() == [0, 0, 0]


def test_statistics_that_are_not_trained_stay_with_the_global_leaves() -> None:
    """The update's last batch leaves its mean in the state; that of reconstruction is forgotten."""

    def loss(variables: Any, batch: Any, key: Any) -> Any:
        state = {"last": jnp.where(batch["mask"], batch["x"], 0.0).sum() / batch["mask"].sum().astype(jnp.float32)}
        return offset_loss(variables.params, batch, key), fl.LossAux(state=state)

    data = fl.Population.from_clients([{"x": np.float32([1, 3, 5, 9])}, {"x": np.float32([0, 2, 4, 4])}])
    algorithm = fed_recon(loss, local=is_local, client_optimizer=optax.sgd(0.5), batch_size=2, support=0.5)
    start = fl.Variables(START, {"last": jnp.float32(-1.0)})
    _, state, _ = helpers.one_run(algorithm, data, start)
    assert float(state.params.state["last"]) == pytest.approx((7 + 4) / 2, abs=1e-6)
    assert float(state.params.params["l"]) == 0.0


def test_what_is_refused() -> None:
    def make(**options: Any) -> fl.Algorithm:
        return fed_recon(offset_loss, **{"local": is_local, "client_optimizer": optax.sgd(0.1), **options})

    with pytest.raises(ValueError, match=r"makes every leaf global and none local, of \['g'\], \['l'\]; expected some"):
        make(local=lambda path, leaf: False).init(START)
    with pytest.raises(ValueError, match=r"makes every leaf local and none global"):
        make(local=lambda path, leaf: True).init(START)
    with pytest.raises(ValueError, match=r"`support` is 1; expected a number in \(0, 1\), or None"):
        make(support=1.0)
    with pytest.raises(TypeError, match=r"`local` is 'l'; expected a function"):
        make(local="l")
    with pytest.raises(ValueError, match=r"exactly one of them"):
        make(recon_epochs=1, recon_steps=1)
    with pytest.raises(ValueError, match=r"exactly one of them"):
        make(epochs=1, steps=1)
