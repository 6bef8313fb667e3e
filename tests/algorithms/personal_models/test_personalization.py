"""What all methods with models of their own have in common: state that is not trained, narrow floats, frozen leaves."""

from collections.abc import Callable
from typing import Any

import helpers
import jax
import jax.numpy as jnp
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.algorithms.personal_models.apfl import apfl
from fedjaxlite.algorithms.personal_models.ditto import ditto
from fedjaxlite.algorithms.personal_models.fine_tuning import fine_tuned
from fedjaxlite.algorithms.personal_models.p_fed_me import p_fed_me
from fedjaxlite.algorithms.personal_models.per_fed_avg import per_fed_avg
from fedjaxlite.algorithms.personal_models.reptile import reptile

pytestmark = pytest.mark.slow
SGD = optax.sgd(0.02)
MAKERS: dict[str, Callable[..., fl.Algorithm]] = {
    "ditto": lambda loss, rate, **o: ditto(loss, lam=rate, client_optimizer=SGD, **o),
    "apfl": lambda loss, rate, **o: apfl(loss, alpha=rate, alpha_rate=rate, client_optimizer=SGD, **o),
    "p_fed_me": lambda loss, rate, **o: p_fed_me(
        loss, lam=rate, eta=rate, beta=rate, inner_steps=2, accuracy=rate, personal_optimizer=SGD, **o
    ),
    "per_fed_avg/hf": lambda loss, rate, **o: per_fed_avg(loss, alpha=rate, delta=rate, client_optimizer=SGD, **o),
    "per_fed_avg/exact": lambda loss, rate, **o: per_fed_avg(
        loss, alpha=rate, client_optimizer=SGD, variant="exact", keep=True, **o
    ),
    "reptile": lambda loss, rate, **o: reptile(loss, epsilon=rate, client_optimizer=SGD, **o),
    "fine_tuned": lambda loss, rate, **o: fine_tuned(
        algorithms.fed_avg(loss, client_optimizer=SGD, **o), loss, client_optimizer=SGD, **o
    ),
}
PEOPLE = helpers.regression((4, 9, 1, 6))
PARAMS = fl.Variables(helpers.linear_params(), {"mean": jnp.zeros((3,))})


def loss_with_state(params: fl.Variables, batch: Any, key: Any) -> Any:
    """A linear model which keeps the mean of what it saw."""
    losses = helpers.linear_loss(params.params, batch, key)
    state = {"mean": 0.5 * params.state["mean"] + 0.5 * batch["x"].mean(0)}
    return losses, fl.LossAux(state=state, metrics={"accuracy": (losses < 1.0).astype(jnp.float32)})


def narrow_loss(params: Any, batch: Any, key: Any) -> jax.Array:
    return helpers.linear_loss({**params, "w": params["w"].astype(jnp.float32)}, batch, key)


def first_state(algorithm: fl.Algorithm, params: Any, execution: fl.Execution) -> tuple[fl.Rounds, Any]:
    """Traces a whole round, in which structures, shapes and dtypes are checked, and compiles none."""
    run = fl.rounds(algorithm, sampler=fl.sampling.full(4), aggregator=fl.weighted_mean(), execution=execution)
    return run, run.init(params, PEOPLE, key=jax.random.key(0))


@pytest.mark.parametrize("name", list(MAKERS))
def test_state_keeps_its_place_with_rates_that_are_traced(name: str) -> None:
    def traced(rate: jax.Array) -> Any:
        execution = fl.Execution(lanes=2, devices=1, max_steps=8)
        run, state = first_state(MAKERS[name](loss_with_state, rate, batch_size=4), PARAMS, execution)
        state, info = run.step(state, PEOPLE)
        return state.params, run.client_params(state, 1), info.clients["accuracy"]

    shared, own, accuracy = jax.eval_shape(traced, jax.ShapeDtypeStruct((), jnp.float32))
    want = jax.eval_shape(lambda: PARAMS)
    assert (shared, own) == (want, want)
    assert accuracy.shape == (4,)


@pytest.mark.parametrize("name", list(MAKERS))
def test_full_batches_of_narrow_floats_beside_frozen_leaves(name: str) -> None:
    algorithm = fl.partition_params(
        lambda loss: MAKERS[name](loss, 0.5, batch_size=None, steps=2),
        narrow_loss,
        frozen=lambda path, leaf: path[0] == "b",
    )
    params = {"w": jnp.zeros((3,), jnp.bfloat16), "b": jnp.float32(0.0)}
    run, state = first_state(algorithm, params, helpers.ONE)
    assert jax.eval_shape(lambda: run.client_params(state, 0)) == jax.eval_shape(lambda: params)
