"""Federated k-means against Lloyd's algorithm in NumPy on the pooled examples."""

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite.algorithms.without_a_model.k_means import k_means, k_means_init

CENTERS = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]])


def blobs(sizes: tuple[int, ...] = (30, 7, 1, 22)) -> fl.Population:
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    x = CENTERS[rng.integers(3, size=len(owner))] + rng.normal(size=(len(owner), 2))
    return fl.Population.from_arrays({"x": x.astype(np.float32)}, client_ids=owner)


def lloyd(x: np.ndarray, centers: np.ndarray, num_rounds: int) -> tuple[np.ndarray, list[float]]:
    losses = []
    for _ in range(num_rounds):
        distances = ((x[:, None] - centers[None]) ** 2).sum(-1)
        nearest = distances.argmin(1)
        losses.append(float(distances.min(1).mean()))
        centers = np.stack(
            [x[nearest == j].mean(0) if (nearest == j).any() else centers[j] for j in range(len(centers))]
        )
    return centers, losses


def test_rounds_are_lloyd_s_steps_and_an_empty_center_stays() -> None:
    data = blobs()
    start = np.array([[1.0, 1.0], [2.0, 1.0], [0.0, 2.0], [900.0, 900.0]])
    run = fl.rounds(
        k_means(batch_size=8), sampler=fl.sampling.full(4), aggregator=fl.weighted_mean(), execution=helpers.ONE
    )
    state, infos = run.steps(run.init(jnp.asarray(start, jnp.float32), data, key=jax.random.key(0)), data, 8)
    want, losses = lloyd(np.asarray(data.features["x"], np.float64), start, 8)
    assert np.asarray(state.params) == pytest.approx(want, abs=1e-4)
    assert state.params[3].tolist() == [900, 900]
    assert np.asarray(infos.metrics["loss"]) == pytest.approx(losses, rel=1e-4)
    assert np.diff(losses).max() <= 0
    assert np.asarray(state.params)[:3] == pytest.approx(CENTERS, abs=0.8)


def test_one_round_of_some_clients_and_of_part_of_their_work() -> None:
    """Half of the work of a client with four batches is its first two; absent clients do not count."""
    data = blobs()
    half = fl.Sampler(
        lambda key, number, population: fl.sampling.cohort(jnp.array([0, 1]), jnp.array([True, True]))._replace(
            work=jnp.float32([0.5, 1.0])
        ),
        2,
        fl.sampling.Accounting("replay", cohort_size=2),
    )
    algorithm = k_means(batch_size=8)
    _, state, info = helpers.one_run(algorithm, data, jnp.asarray(CENTERS, jnp.float32), sampler=half)
    seen = np.concatenate([data.client(0)["x"][:16], data.client(1)["x"]]).astype(np.float64)
    assert np.asarray(state.params) == pytest.approx(lloyd(seen, CENTERS, 1)[0], abs=1e-5)
    assert info.clients["local_steps"].tolist() == [2, 1]


def test_first_centers_are_points_far_apart() -> None:
    """Two thousand draws of the second of two centers from 0, 1 and 3: by squared distances. Four standard errors."""
    points = jnp.float32([0.0, 1.0, 3.0]).reshape(3, 1)
    draw = jax.jit(jax.vmap(lambda key: k_means_init(key, points, 2)))
    drawn = np.asarray(draw(jax.random.split(jax.random.key(0), 2000)))[..., 0]
    shares = {(a, b): np.mean((drawn[:, 0] == a) & (drawn[:, 1] == b)) for a in (0, 1, 3) for b in (0, 1, 3)}
    want = {(0, 1): 1 / 30, (0, 3): 9 / 30, (1, 0): 1 / 15, (1, 3): 4 / 15, (3, 0): 9 / 39, (3, 1): 4 / 39}
    for pair, share in shares.items():
        p = want.get(pair, 0.0)
        assert share == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / 2000) + 1e-9), pair
    same = k_means_init(jax.random.key(1), jnp.zeros((3, 2, 2)), 3)
    assert same.shape == (3, 2, 2)
    assert not same.any()


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`points` has shape \[2, 3\]; expected \[n, ...\] with n at least 4"):
        k_means_init(jax.random.key(0), jnp.zeros((2, 3)), 4)
    with pytest.raises(ValueError, match=r"no feature 'z', only \['x'\]"):
        helpers.one_run(k_means(feature="z"), blobs(), jnp.zeros((2, 2)), num_rounds=0)
    with pytest.raises(ValueError, match=r"the params have shape \[2, 3\]; expected the centers, \[k, 2\]"):
        helpers.one_run(k_means(), blobs(), jnp.zeros((2, 3)), num_rounds=0)
