"""Methods that keep, fix or replace a part of the model."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import optax

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.algorithms import lora
from fedjaxlite.algorithms.personal_models.fed_ala import fed_ala
from fedjaxlite.algorithms.pieces.leaves import by_name
from fedjaxlite.algorithms.shared_parts.fed_babu import fed_babu
from fedjaxlite.algorithms.shared_parts.fed_bn import fed_bn
from fedjaxlite.algorithms.shared_parts.fed_per import fed_per
from fedjaxlite.algorithms.shared_parts.fed_rep import fed_rep
from fedjaxlite.algorithms.shared_parts.lg_fed_avg import lg_fed_avg
from methods.method import Method

LOCAL: dict[str, Any] = {"client_optimizer": optax.sgd(0.02), "batch_size": 4}
HEAD = by_name("b")


def scaled_loss(params: Any, batch: Any, key: Any) -> Any:
    """`[B]`: a linear model on features that a normalization centers by its batch and scales; its mean is state."""
    mask = batch["mask"].astype(jnp.float32).reshape((-1, 1))
    mean = (batch["x"] * mask).sum(0) / jnp.maximum(mask.sum(), 1.0)
    used = params.state["norm"]["mean"] if key is None else mean
    x = (batch["x"] - used.reshape((1, -1))) * params.params["norm"]["scale"].reshape((1, -1))
    aux = fl.LossAux(state={"norm": {"mean": 0.5 * params.state["norm"]["mean"] + 0.5 * mean}})
    return (x @ params.params["w"] - batch["y"]) ** 2, aux


def scaled_params() -> fl.Variables:
    return fl.Variables(
        {"w": jnp.float32([0.3, -0.2, 1.0]), "norm": {"scale": jnp.ones(3)}}, {"norm": {"mean": jnp.zeros(3)}}
    )


def low_rank_loss(params: Any, batch: Any, key: Any) -> Any:
    """`[B]`: squared error of the sum of a matrix's outputs."""
    del key
    return ((batch["x"] @ params["kernel"]).sum(1) + params["bias"] - batch["y"]) ** 2


def low_rank_params() -> lora.Adapted:
    base = {"kernel": jnp.float32([[0.3, -0.2], [0.1, 0.4], [0.0, 0.5]]), "bias": jnp.float32(0.1)}
    return lora.Adapted(base, lora.init(base, rank=2, key=jax.random.key(1)))


def _rep(**options: Any) -> fl.Algorithm:
    return fed_rep(helpers.linear_loss, head=HEAD, **options, **LOCAL)


def _babu(**options: Any) -> fl.Algorithm:
    return fed_babu(helpers.linear_loss, head=HEAD, **options, **LOCAL)


def _lora(**options: Any) -> fl.Algorithm:
    return lora.federated(lambda loss: algorithms.fed_avg(loss, **LOCAL), low_rank_loss, alpha=2.0, **options)


METHODS = (
    Method("fed_per", lambda: fed_per(helpers.linear_loss, personal=HEAD, **LOCAL)),
    Method("lg_fed_avg", lambda: lg_fed_avg(helpers.linear_loss, local=by_name("w"), **LOCAL)),
    Method("fed_rep", lambda: _rep(head_epochs=2)),
    Method("fed_rep/steps", lambda: _rep(head_steps=3, head_optimizer=optax.sgd(0.05, momentum=0.9), steps=2)),
    Method("fed_babu", _babu),
    Method("fed_babu/tune the head", lambda: _babu(tune_epochs=2)),
    Method("fed_babu/tune all", lambda: _babu(tune="full", tune_steps=3, tune_optimizer=optax.sgd(0.01))),
    Method(
        "fed_bn",
        lambda: fed_bn(fl.losses.declare(scaled_loss, cross_example=True), **LOCAL),
        params=scaled_params,
    ),
    Method("fed_ala", lambda: fed_ala(helpers.linear_loss, top=HEAD, eta=1.0, **LOCAL)),
    Method("lora", _lora, params=low_rank_params),
    Method("lora/freeze a", lambda: _lora(freeze_a=True), params=low_rank_params),
)
