"""The server's own message among the others, and how they compare with it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from fedjaxlite import checks
from fedjaxlite.wire.robust.products import TINY, Products, products
from fedjaxlite.wire.rows import Rows, weighted_sum

PyTree = Any


class Compared(NamedTuple):
    """Messages beside the server's.

    Attributes:
      clients: bool `[K]`, who is there, with a message below 1e37, and is not the server.
      cosine: float32 `[K]`, of the angle to the server's message; 0 where one of the two is zero.
      scale: float32 `[K]`, what brings a message to the norm of the server's; 0 for one of zeros.
      size: float32, the norm of the server's message; 0 where it is not there.
      here: bool, whether the server's message is there.
    """

    clients: jax.Array
    cosine: jax.Array
    scale: jax.Array
    size: jax.Array
    here: jax.Array


class Counts(NamedTuple):
    """What a rule counts over rounds.

    Attributes:
      nobody: int32, rounds in which no client was believed, which changed nothing.
      no_server: int32, rounds without the server's message, which changed nothing.
    """

    nobody: jax.Array
    no_server: jax.Array


def counts() -> Counts:
    """None so far."""
    return Counts(jnp.int32(0), jnp.int32(0))


def compared(rows: Rows, server: Any) -> Compared:
    """All messages beside that of client `server`."""
    given: Products = products(rows.values, rows.shares)
    there = rows.present & given.fit
    own = (rows.ids == server) & there
    size = jnp.where(own, given.sizes, 0.0).sum()
    cosine = jnp.where(own[None], given.cosines, 0.0).sum(1)
    scale = jnp.where(given.sizes > 0, size / jnp.maximum(given.sizes, TINY), 0.0)
    return Compared(there & ~own, cosine, scale, size, own.any())


def mean_of(rows: Rows, beside: Compared, trust: jax.Array, counted: Counts) -> tuple[PyTree, Counts]:
    """The mean of clients' messages at the norm of the server's, by trust `[K]`; zero where nobody has any."""
    trust = jnp.where(beside.clients & beside.here & (beside.scale > 0), trust, 0.0)
    total = trust.sum()
    share = jnp.where(total > 0, trust / jnp.where(total > 0, total, 1.0), 0.0)
    value = weighted_sum(share * beside.scale, rows.values)
    nobody = (beside.here & ~(total > 0)).astype(jnp.int32)
    return value, Counts(counted.nobody + nobody, counted.no_server + (~beside.here).astype(jnp.int32))


def told(state: Any) -> dict[str, jax.Array]:
    """For `PassInfo.aggregator`."""
    return {"skipped": state.skipped, "nobody_trusted": state.own.nobody, "no_server": state.own.no_server}


def checked(server: Any) -> Any:
    """The id of the server's client; a traced integer becomes an int32."""
    if isinstance(server, Tracer) and server.shape == () and jnp.issubdtype(server.dtype, jnp.integer):
        return server.astype(jnp.int32)
    remedy = "It is the client that holds the server's data: `fl.robust.server_client(...).id`."
    return checks.nonnegative_int(remedy, server=server)
