"""Federated averaging and federated SGD."""

import helpers
import optax

import fedjaxlite as fl
from fedjaxlite import algorithms
from methods.method import Method


def _around() -> fl.Algorithm:
    local = fl.local_sgd(helpers.linear_loss, client_optimizer=optax.sgd(0.02), batch_size=4, steps=3)
    return algorithms.fed_avg_of(local)


METHODS = (
    Method("fed_avg", helpers.fed_avg),
    Method("fed_avg/full batch", lambda: helpers.fed_avg(batch_size=None)),
    Method("fed_avg_of", _around),
    Method("fed_sgd", lambda: algorithms.fed_sgd(helpers.linear_loss, server_optimizer=optax.sgd(0.02))),
)
