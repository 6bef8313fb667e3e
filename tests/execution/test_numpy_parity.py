"""A round equals a plain NumPy federated averaging, written here with its own batching and its own gradients."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.data.client_view import SHUFFLE
from fedjaxlite.shuffle import shuffled

pytestmark = pytest.mark.usefixtures("full_precision")

SIZES = (1, 13, 8, 30, 5, 17, 2)
FEATURES, HIDDEN, CLASSES = 6, 8, 4
RATE, BATCH, EPOCHS, COHORT, ROUNDS = 0.2, 4, 2, 4, 5


def data() -> fl.Population:
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(len(SIZES)), SIZES)
    x = rng.normal(size=(len(owner), FEATURES)).astype(np.float32)
    y = (np.abs(x[:, :CLASSES]) + 0.5 * (owner[:, None] % CLASSES == np.arange(CLASSES))).argmax(1)
    return fl.Population.from_arrays({"x": x, "y": y.astype(np.int32)}, client_ids=owner)


def first_params() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    shapes = {"w1": (FEATURES, HIDDEN), "b1": (HIDDEN,), "w2": (HIDDEN, CLASSES), "b2": (CLASSES,)}
    return {name: (0.5 * rng.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()}


def loss_fn(params: Any, batch: Any, key: Any) -> jax.Array:
    hidden = jnp.tanh(batch["x"] @ params["w1"] + params["b1"].reshape((1, -1)))
    logits = hidden @ params["w2"] + params["b2"].reshape((1, -1))
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])


def numpy_gradient(params: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
    """The mean cross entropy of a two-layer network and its gradient, by hand, in float64."""
    hidden = np.tanh(x @ params["w1"] + params["b1"])
    logits = hidden @ params["w2"] + params["b2"]
    logits = logits - logits.max(1, keepdims=True)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    n = len(y)
    loss = -np.log(probabilities[np.arange(n), y]).sum()
    error = probabilities.copy()
    error[np.arange(n), y] -= 1
    error /= n
    back = (error @ params["w2"].T) * (1 - hidden**2)
    return loss, {"w1": x.T @ back, "b1": back.sum(0), "w2": hidden.T @ error, "b2": error.sum(0)}


@jax.jit
def padded_order(client_key: jax.Array, round_number: Any, client: Any, epoch: Any, n: Any) -> jax.Array:
    key = jax.random.fold_in(jax.random.fold_in(client_key, round_number), client)
    key = jax.random.fold_in(jax.random.fold_in(key, SHUFFLE), 0)
    places = jnp.minimum(jnp.arange(max(SIZES), dtype=jnp.int32), n - 1)
    return shuffled(jax.random.bits(key, (2,), jnp.uint32), epoch, places, n)


def epoch_order(client_key: jax.Array, round_number: int, client: int, epoch: int, n: int) -> np.ndarray:
    """In which order a client uses its examples: a function of the run's client key, round, client and epoch."""
    return np.asarray(padded_order(client_key, *map(jnp.int32, (round_number, client, epoch, n))))[:n]


def numpy_client(
    params: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray, orders: list[np.ndarray]
) -> tuple[dict[str, np.ndarray], float]:
    """ClientUpdate of the paper's algorithm 1; the model and the sum of the losses of all examples seen."""
    model, total = {name: value.copy() for name, value in params.items()}, 0.0
    for order in orders:
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            loss, gradient = numpy_gradient(model, x[rows], y[rows])
            total += loss
            model = {name: model[name] - RATE * gradient[name] for name in model}
    return model, total


def numpy_fed_avg(
    population: fl.Population, state: Any, cohorts: list[list[int]]
) -> tuple[dict[str, np.ndarray], list]:
    params = {name: value.astype(np.float64) for name, value in first_params().items()}
    losses = []
    for round_number, cohort in enumerate(cohorts):
        sizes = np.array([SIZES[client] for client in cohort], np.float64)
        models, means = [], []
        for client in cohort:
            own, n = population.client(client), SIZES[client]
            orders = [epoch_order(state.keys.client, round_number, client, epoch, n) for epoch in range(EPOCHS)]
            for order in orders:
                assert sorted(order.tolist()) == list(range(n))
            model, total = numpy_client(params, own["x"].astype(np.float64), own["y"], orders)
            models.append(model)
            means.append(total / (EPOCHS * n))
        share = sizes / sizes.sum()
        params = {name: sum(s * model[name] for s, model in zip(share, models, strict=True)) for name in params}
        losses.append(float(share @ np.array(means)))
    return params, losses


@pytest.mark.parametrize("execution", [fl.Execution(lanes=3, devices=helpers.available(2))])
def test_five_rounds_equal_numpy(execution: fl.Execution) -> None:
    population = data()
    algorithm = algorithms.fed_avg(loss_fn, client_optimizer=optax.sgd(RATE), batch_size=BATCH, epochs=EPOCHS)
    sampler = fl.sampling.uniform(COHORT)
    run = fl.rounds(algorithm, sampler=sampler, aggregator=fl.weighted_mean(), execution=execution)
    state = run.init(first_params(), population, key=jax.random.key(3))
    draw = jax.jit(lambda r: sampler.sample(state.keys.sample, r, population).ids)
    cohorts = [draw(r).tolist() for r in range(ROUNDS)]
    assert len({client for cohort in cohorts for client in cohort}) > COHORT
    want, losses = numpy_fed_avg(population, state, cohorts)
    for round_number in range(ROUNDS):
        state, info = run.step(state, population)
        assert info.clients["id"].tolist() == cohorts[round_number]
        assert int(info.num_examples) == sum(SIZES[client] for client in cohorts[round_number])
        np.testing.assert_allclose(float(info.metrics["loss"]), losses[round_number], rtol=1e-5)
    moved = max(np.abs(want[name] - first_params()[name]).max() for name in want)
    assert moved > 0.1
    for name, value in want.items():
        np.testing.assert_allclose(np.asarray(state.params[name]), value, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.whole
def test_the_hand_written_gradient_is_right() -> None:
    own = data().client(3)
    loss, gradient = numpy_gradient(first_params(), own["x"], own["y"])
    mean = lambda params: loss_fn(params, own, None).mean()  # noqa: E731
    value, want = jax.value_and_grad(mean)(jax.tree.map(jnp.asarray, first_params()))
    np.testing.assert_allclose(loss / len(own["y"]), float(value), rtol=1e-5)
    for name in want:
        np.testing.assert_allclose(gradient[name], np.asarray(want[name]), rtol=1e-4, atol=1e-6)
