"""The warm start is centralized training, done by the federation's own engine."""

import tomllib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.training.train import train
from fedjaxlite.training.warm_start import WarmStart, warm_start

pytestmark = pytest.mark.usefixtures("no_pictures")


def loss_fn(params, batch, key):
    return (batch["x"] @ params["w"] - batch["y"]) ** 2


def arrays(n: int = 20) -> dict[str, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    return {"x": x, "y": x.sum(1)}


PARAMS = {"w": jnp.zeros((3,))}


def start(**options) -> WarmStart:
    options = {"optimizer": optax.sgd(0.05), "batch_size": 5, "epochs": 2, "key": jax.random.key(0), **options}
    return warm_start(
        options.pop("loss", loss_fn), options.pop("params", PARAMS), options.pop("data", arrays()), **options
    )


def test_it_is_centralized_sgd() -> None:
    data = arrays()
    got = start(shuffle=False, epochs=3)
    params = PARAMS
    for _ in range(3):
        for first in range(0, 20, 5):
            batch = {name: jnp.asarray(array[first : first + 5]) for name, array in data.items()}
            grads = jax.grad(lambda p, b: loss_fn(p, b, None).mean())(params, batch)
            params = jax.tree.map(lambda p, g: p - 0.05 * g, params, grads)
    np.testing.assert_allclose(got.params["w"], params["w"], rtol=1e-5)
    assert got.record["steps"] == 12
    assert got.record["examples"] == 20
    assert got.record["epochs"] == 3


def test_the_record_tells_before_and_after() -> None:
    evaluate = fl.evaluate(loss_fn, arrays())
    params, record = start(evaluate=evaluate, epochs=None, steps=7)
    assert record["steps"] == 7
    assert "epochs" not in record
    assert record["after_loss"] == float(evaluate(params)["loss"]) < record["before_loss"]


def test_clients_are_pooled_and_the_same_key_gives_the_same_bits() -> None:
    owners = np.arange(20) // 7
    pooled = start(data=fl.Population.from_arrays(arrays(), owners))
    np.testing.assert_array_equal(pooled.params["w"], start().params["w"])
    assert (pooled.params["w"] != start(key=jax.random.key(1)).params["w"]).any()


def test_a_run_says_that_it_was_warm(tmp_path) -> None:
    population = fl.Population.from_arrays(arrays(), np.arange(20) // 5)
    warm = start()
    algorithm = algorithms.fed_avg(loss_fn, client_optimizer=optax.sgd(0.05), batch_size=5)
    run = fl.rounds(
        algorithm,
        sampler=fl.sampling.full(4),
        aggregator=fl.weighted_mean(),
        execution=fl.Execution(devices=1),
    )
    state = run.init(warm.params, population, key=jax.random.key(0))
    np.testing.assert_array_equal(state.params["w"], warm.params["w"])
    train(run, state, population, num_rounds=1, out_dir=tmp_path, progress=False, config={"warm_start": warm.record})
    assert tomllib.loads((tmp_path / "config.toml").read_text())["warm_start"] == warm.record


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"data": 3}, TypeError, "`data` is a int; expected a dict of arrays"),
        ({"data": {}}, TypeError, "`data` is a dict; expected a dict of arrays"),
        ({"steps": 3}, ValueError, "expected exactly one of them"),
        ({"batch_size": 0}, ValueError, "`batch_size` is 0"),
        ({"optimizer": 0.1}, TypeError, "expected an optax optimizer"),
        ({"evaluate": 3}, TypeError, "`evaluate` is 3; expected a function"),
        ({"optimizer": optax.sgd(1e30)}, ValueError, "parameters that are not finite. Lower the optimizer's rate"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(options, error, told) -> None:
    with pytest.raises(error, match=told):
        start(**options)
