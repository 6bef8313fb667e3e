"""Methods of another shape than averaging round by round: one shot, reconstruction, k-means."""

from typing import Any

import helpers
import jax.numpy as jnp
import numpy as np
import optax

import fedjaxlite as fl
from fedjaxlite.algorithms.one_model.one_shot import one_shot
from fedjaxlite.algorithms.shared_parts.fed_recon import fed_recon
from fedjaxlite.algorithms.without_a_model.k_means import k_means
from methods.method import Method


def _once(**options: Any) -> fl.Algorithm:
    return one_shot(helpers.linear_loss, client_optimizer=optax.sgd(0.02), batch_size=None, steps=5, **options)


def _rebuilt(**options: Any) -> fl.Algorithm:
    is_local = lambda path, leaf: path[0] == "b"  # noqa: E731
    return fed_recon(
        helpers.linear_loss, local=is_local, client_optimizer=optax.sgd(0.02), batch_size=4, recon_steps=3, **options
    )


METHODS = (
    Method("one_shot", _once),
    Method("one_shot/subsample", lambda: _once(subsample=0.5)),
    Method("fed_recon", _rebuilt),
    Method("fed_recon/split", lambda: _rebuilt(support=0.5)),
    Method("k_means", lambda: k_means(batch_size=4), lambda: jnp.asarray(np.eye(3, dtype=np.float32)), leaves_out=True),
)
