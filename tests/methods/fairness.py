"""Fairness, robustness to mixtures, and clusters of clients."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import optax

import fedjaxlite as fl
from fedjaxlite.algorithms.groups_and_fairness.afl import afl
from fedjaxlite.algorithms.groups_and_fairness.ifca import hyp_cluster, ifca, ifca_init
from fedjaxlite.algorithms.groups_and_fairness.q_fed_avg import q_fed_avg, q_fed_sgd
from fedjaxlite.algorithms.groups_and_fairness.term import term
from methods.method import Method

LOCAL: dict[str, Any] = {"client_optimizer": optax.sgd(0.02), "batch_size": 8, "epochs": 1}
GROUPS = (0, 1, 0, 2, 1, 2)
"""The groups of five clients and of the one without examples that the tests of the laws add."""


def models(num_clusters: int = 2) -> Any:
    """Linear models far enough apart that rounding does not decide between them."""

    def init(key: jax.Array) -> Any:
        return {"w": jax.random.normal(key, (3,)), "b": jnp.float32(0.0)}

    return ifca_init(jax.random.key(7), init, num_clusters)


def _is_bias(path: tuple[Any, ...], leaf: Any) -> bool:
    return path[0] == "b"


def _agnostic(**options: Any) -> fl.Algorithm:
    return afl(helpers.linear_loss, lambda_lr=0.02, groups=GROUPS, **LOCAL, **options)


def _gradient_clusters() -> fl.Algorithm:
    return ifca(helpers.linear_loss, num_clusters=2, averaging="gradient", server_optimizer=optax.sgd(0.02))


METHODS = (
    Method("q_fed_avg", lambda: q_fed_avg(helpers.linear_loss, q=1.0, client_lr=0.02, batch_size=8)),
    Method("q_fed_avg/q=0", lambda: q_fed_avg(helpers.linear_loss, q=0.0, client_lr=0.02, batch_size=8)),
    Method("q_fed_sgd", lambda: q_fed_sgd(helpers.linear_loss, q=0.5, server_lr=0.02)),
    Method("afl", _agnostic),
    Method("afl/server momentum", lambda: _agnostic(server_optimizer=optax.sgd(0.5, momentum=0.5))),
    Method("term", lambda: term(helpers.linear_loss, t=0.5, **LOCAL)),
    Method("term/robust", lambda: term(helpers.linear_loss, t=-0.5, **LOCAL)),
    Method("ifca", lambda: ifca(helpers.linear_loss, num_clusters=2, **LOCAL), models),
    Method("ifca/gradient", _gradient_clusters, models),
    Method("ifca/shared", lambda: ifca(helpers.linear_loss, num_clusters=2, shared=_is_bias, **LOCAL), models),
    Method("hyp_cluster", lambda: hyp_cluster(helpers.linear_loss, num_clusters=3, **LOCAL), lambda: models(3)),
)
