"""FedDyn, Mime, FedExP, FedPA, FedLin, FedKSeed, and hyperparameters that change with the round."""

from typing import Any

import helpers
import jax.numpy as jnp
import optax

import fedjaxlite as fl
from fedjaxlite.algorithms.one_model.fed_dyn import fed_dyn
from fedjaxlite.algorithms.one_model.fed_exp import fed_exp
from fedjaxlite.algorithms.one_model.fed_kseed import fed_kseed
from fedjaxlite.algorithms.one_model.fed_lin import fed_lin
from fedjaxlite.algorithms.one_model.fed_pa import fed_pa
from fedjaxlite.algorithms.one_model.mime import mime, mime_lite
from fedjaxlite.algorithms.pieces.schedules import scheduled
from methods.method import Method

LOSS = helpers.linear_loss
SGD = optax.sgd(0.02)


def _dyn(**options: Any) -> fl.Algorithm:
    return fed_dyn(LOSS, alpha=1.0, num_clients=6, client_optimizer=SGD, batch_size=4, **options)


def _pa(**options: Any) -> fl.Algorithm:
    return fed_pa(
        LOSS,
        client_optimizer=SGD,
        server_optimizer=optax.sgd(0.3),
        rho=0.1,
        num_samples=3,
        steps_per_sample=2,
        batch_size=4,
        **options,
    )


def _kseed(**options: Any) -> fl.Algorithm:
    # Two evaluations far apart, so that their rounding is no part of the slope; of squares it is exact all the same.
    return fed_kseed(LOSS, client_lr=0.01, num_seeds=8, perturbation=0.5, **options)


def _falling_rate() -> fl.Algorithm:
    make = lambda client_lr: helpers.fed_avg(client_lr)  # noqa: E731
    return scheduled(make, client_lr=lambda t: 0.02 * 0.5 ** t.astype(jnp.float32))


def _falling_alpha() -> fl.Algorithm:
    make = lambda alpha: fed_dyn(LOSS, alpha=alpha, num_clients=6, client_optimizer=SGD, batch_size=4)  # noqa: E731
    return scheduled(make, alpha=lambda t: 1.0 / (1 + t))


METHODS = (
    Method("fed_dyn", _dyn),
    Method("fed_dyn/clients' mean", lambda: _dyn(evaluate="clients")),
    Method("mime/momentum", lambda: mime(LOSS, base_optimizer=optax.sgd(0.02, momentum=0.9), batch_size=4)),
    Method("mime/full batch", lambda: mime(LOSS, base_optimizer=SGD, batch_size=None, steps=3)),
    Method("mime/two exchanges", lambda: mime(LOSS, base_optimizer=SGD, batch_size=4, exchanges=2)),
    Method("mime_lite", lambda: mime_lite(LOSS, base_optimizer=optax.rmsprop(0.02, eps=0.1), batch_size=4)),
    Method("fed_exp", lambda: fed_exp(LOSS, client_optimizer=SGD, batch_size=4, max_norm=10.0)),
    Method(
        "fed_exp/last two, no bound",
        lambda: fed_exp(LOSS, client_optimizer=SGD, batch_size=4, average_last_two=True),
        refuses_quantize="needs a bound on the scalar 'squared_norm'",
    ),
    Method("fed_kseed", lambda: _kseed(batch_size=4)),
    Method("fed_kseed/full batch", lambda: _kseed(batch_size=None, steps=3)),
    Method("fed_pa", _pa),
    Method("fed_pa/burn-in", lambda: _pa(burn_in_rounds=1, burn_in_steps=2)),
    Method("fed_lin", lambda: fed_lin(LOSS, client_lr=0.05, steps=3)),
    Method("fed_lin/two exchanges", lambda: fed_lin(LOSS, client_lr=0.05, batch_size=4, exchanges=2)),
    Method("scheduled/rate", _falling_rate),
    Method("scheduled/alpha", _falling_alpha),
)
