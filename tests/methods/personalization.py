"""Methods that give each client a model of its own, or a start from which it gets one."""

from typing import Any

import helpers
import optax

import fedjaxlite as fl
from fedjaxlite.algorithms.personal_models.apfl import apfl
from fedjaxlite.algorithms.personal_models.ditto import ditto
from fedjaxlite.algorithms.personal_models.fine_tuning import fine_tuned
from fedjaxlite.algorithms.personal_models.p_fed_me import p_fed_me
from fedjaxlite.algorithms.personal_models.per_fed_avg import per_fed_avg
from fedjaxlite.algorithms.personal_models.reptile import reptile
from methods.method import Method

SGD = optax.sgd(0.02)


def _ditto(**options: Any) -> fl.Algorithm:
    return ditto(helpers.linear_loss, lam=0.5, client_optimizer=SGD, batch_size=4, **options)


def _apfl(**options: Any) -> fl.Algorithm:
    settings: dict[str, Any] = {"alpha": 0.4, "client_optimizer": SGD, "batch_size": 4}
    return apfl(helpers.linear_loss, **{**settings, **options})


def _p_fed_me(**options: Any) -> fl.Algorithm:
    settings: dict[str, Any] = {"lam": 2.0, "eta": 0.2, "inner_steps": 3, "personal_optimizer": SGD, "batch_size": 4}
    return p_fed_me(helpers.linear_loss, **{**settings, **options})


def _per_fed_avg(**options: Any) -> fl.Algorithm:
    settings: dict[str, Any] = {"alpha": 0.02, "client_optimizer": optax.sgd(0.01), "batch_size": 4}
    return per_fed_avg(helpers.linear_loss, **{**settings, **options})


METHODS = (
    Method("ditto", _ditto),
    Method("ditto/other personal steps", lambda: _ditto(personal_optimizer=optax.sgd(0.01), personal_steps=5)),
    Method("apfl", _apfl),
    Method("apfl/adaptive", lambda: _apfl(alpha_rate=0.01)),
    Method("apfl/full batch", lambda: _apfl(alpha_rate=0.01, batch_size=None, steps=2)),
    Method("p_fed_me", _p_fed_me),
    Method("p_fed_me/accuracy", lambda: _p_fed_me(accuracy=4.0, beta=1.5)),
    Method("per_fed_avg/fo", lambda: _per_fed_avg(variant="fo")),
    # A difference of gradients loses digits; the loss is quadratic, so that a wide one is still exact.
    Method("per_fed_avg/hf", lambda: _per_fed_avg(delta=0.05), atol=1e-4),
    Method("per_fed_avg/exact", lambda: _per_fed_avg(variant="exact", steps=2)),
    Method("per_fed_avg/keep", lambda: _per_fed_avg(variant="fo", keep=True)),
    Method("reptile", lambda: reptile(helpers.linear_loss, epsilon=0.5, client_optimizer=SGD, batch_size=4)),
    Method(
        "fine_tuned",
        lambda: fine_tuned(helpers.fed_avg(), helpers.linear_loss, client_optimizer=optax.sgd(0.01), epochs=2),
    ),
)
