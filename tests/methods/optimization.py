"""Adaptive servers, FedProx, SCAFFOLD and FedNova."""

from collections.abc import Callable
from typing import Any

import helpers
import optax

import fedjaxlite as fl
from fedjaxlite.algorithms.one_model.fed_nova import fed_nova
from fedjaxlite.algorithms.one_model.fed_opt import fed_adagrad, fed_adam, fed_avg_m, fed_yogi
from fedjaxlite.algorithms.one_model.fed_prox import fed_prox, fed_prox_adaptive
from fedjaxlite.algorithms.one_model.scaffold import scaffold
from methods.method import Method

LOCAL: dict[str, Any] = {"batch_size": 4, "epochs": 1}
NUM_CLIENTS, NUM_EXAMPLES = 6, 22
"""Of the clients that every method is tested on, and of the empty one that the tests put beside them."""


def _served(make: Callable[..., fl.Algorithm], **options: Any) -> fl.Algorithm:
    return make(helpers.linear_loss, client_optimizer=optax.sgd(0.02), **options, **LOCAL)


def _controlled(**options: Any) -> fl.Algorithm:
    return scaffold(helpers.linear_loss, num_clients=NUM_CLIENTS, client_lr=0.02, **options, **LOCAL)


METHODS = (
    Method("fed_avg_m", lambda: _served(fed_avg_m)),
    Method("fed_adagrad", lambda: _served(fed_adagrad, server_lr=0.05, tau=0.01)),
    Method("fed_adam", lambda: _served(fed_adam, server_lr=0.05, tau=0.01)),
    Method("fed_yogi", lambda: _served(fed_yogi, server_lr=0.05, tau=0.01)),
    Method("fed_prox", lambda: _served(fed_prox, mu=0.5)),
    Method("fed_prox_adaptive", lambda: _served(fed_prox_adaptive, mu=0.5, patience=2)),
    Method("scaffold", _controlled),
    Method("scaffold/option 1", lambda: _controlled(option=1)),
    Method("scaffold/by examples", lambda: _controlled(num_examples=NUM_EXAMPLES)),
    Method("fed_nova", lambda: fed_nova(helpers.linear_loss, client_lr=0.02, max_steps=8, **LOCAL)),
    Method(
        "fed_nova/momentum and proximal",
        lambda: fed_nova(helpers.linear_loss, client_lr=0.02, rho=0.5, mu=0.5, max_steps=8, **LOCAL),
    ),
)
