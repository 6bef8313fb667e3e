"""ALIE, "a little is enough": the honest mean, and as many deviations as go unnoticed."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri

from fedjaxlite import checks
from fedjaxlite.attacks.together.honest import honest_moments, send, sides
from fedjaxlite.attacks.who import as_bad, told
from fedjaxlite.wire.aggregator import Aggregator
from fedjaxlite.wire.rows import Rows
from fedjaxlite.wire.stacking import restack

PyTree = Any


def alie(bad: Any, z: Any = None) -> Aggregator:
    """Bad clients send, in each entry, the honest mean plus `z` standard deviations of the honest messages.

    Updates are deltas, server minus client, and the server steps against them: a positive z sends larger deltas than
    the mean, and so pulls the model further down in each entry; a negative z further up. ByzFL adds as we do, of
    gradients, which have the sign of deltas.

    Args:
      bad: who is bad: `attacks.pool`, `attacks.share`, or ids.
      z: a number, or a tracer. None is the paper's, of the n clients and f bad ones that are in the round:
        Phi^-1((n - f - s) / (n - f)) with s = floor(n / 2 + 1) - f. It is negative for one bad client of an even
        number; where bad clients are half or more, and need no supporter, s counts as 1.

    Returns:
      an Aggregator that stands before a rule. The deviation is the unbiased one, of h - 1 of h; weights play no part.

    Raises:
      TypeError, ValueError: for arguments that do not fit.

    Source: Baruch, Baruch, Goldberg (2019), "A Little Is Enough: Circumventing Defenses For Distributed Learning",
    https://arxiv.org/abs/1902.06635, algorithm 3.

    Example:
      >>> import fedjaxlite as fl, jax.numpy as jnp
      >>> messages = jnp.float32([[1, 2], [4, 5], [7, 8], [0, 0]])
      >>> fl.robust.apply([fl.attacks.alie([3], z=1.5), fl.robust.mean()], messages).tolist()  # sends (8.5, 9.5)
      [5.125, 6.125]
    """
    who = as_bad(bad)
    z = z if z is None else checks.number(z=z)

    def attack(state: PyTree, rows: Rows, key: Any) -> tuple[Rows, PyTree]:
        honest, lying = sides(who, rows, key)
        mean, std = honest_moments(rows, honest)
        factor = largest_z(rows.present.sum(), lying.sum()) if z is None else jnp.asarray(z, jnp.float32)
        return send(rows, lying, jax.tree.map(lambda m, s: m + factor * s, mean, std)), state

    return restack(attack, name="alie", hparams={"bad": told(who), "z": z})


def largest_z(num_clients: Any, num_bad: Any) -> jax.Array:
    """The paper's z_max, float32, of traced counts too."""
    n, f = jnp.asarray(num_clients, jnp.int32), jnp.asarray(num_bad, jnp.int32)
    honest = jnp.maximum(n - f, 1)
    supporters = jnp.clip(n // 2 + 1 - f, 1, honest)
    z = ndtri((honest - supporters).astype(jnp.float32) / honest.astype(jnp.float32))
    return jnp.where(supporters == honest, 0.0, z)  # a single honest client has no deviation
