"""Who is bad: a fixed pool of clients, or anybody with some probability in each round."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks

_WHO = 0xBAD
"""Folded into a key, so that who is bad does not depend on what else is drawn from it."""


class Bad(NamedTuple):
    """Who is bad; made by `pool` and `share`.

    Attributes:
      members: int32 `[M]`, the ids of a fixed pool; or None.
      mask: bool `[N]`, a fixed pool by its clients' indices, may be traced; or None.
      rate: float32 scalar, the probability of each client in each round; or None.
    """

    members: Any = None
    mask: Any = None
    rate: Any = None


def pool(clients: Any) -> Bad:
    """A fixed pool of bad clients: whoever of them is drawn attacks.

    Args:
      clients: their ids, ints of any number; or a bool array `[N]`, which may be traced: `jnp.arange(N) < f`.

    Returns:
      a Bad. How many of them are in a round follows from the sampler; `fixed_number` draws the same number each round.

    Raises:
      TypeError, ValueError: for what are no ids, negative ones, or ids that are there twice.

    Example:
      >>> import fedjaxlite as fl
      >>> fl.attacks.is_bad(fl.attacks.pool([1, 3]), jnp.int32(3), jax.random.key(0)).item()
      True
    """
    return _pool("clients", clients)


def share(rate: Any) -> Bad:
    """Each client is bad with this probability, in each round anew and independently of the others.

    Args:
      rate: a number in [0, 1], or a tracer.

    Returns:
      a Bad. A client and a codec of rows draw it from different keys, so that they do not agree on who is bad.

    Raises:
      TypeError, ValueError: for what is no number in [0, 1].
    """
    rate = checks.nonnegative(rate=rate)
    if not checks.is_traced(rate):
        if rate > 1:
            raise ValueError(f"`rate` is {rate}; expected a probability, from 0 to 1.")
        return Bad(rate=np.float32(rate))
    return Bad(rate=jnp.asarray(rate, jnp.float32))


def as_bad(bad: Any) -> Bad:
    """A Bad, from the argument of that name: one, or what `pool` takes."""
    return bad if isinstance(bad, Bad) else _pool("bad", bad)


def _pool(name: str, clients: Any) -> Bad:
    expected = "the ids of bad clients, ints [M], or a bool array [N]"
    if checks.is_traced(clients):
        given: Any = jnp.asarray(clients)
    else:
        given = checks.as_array(name, list(clients) if isinstance(clients, range) else clients, expected)
    if given.ndim == 1 and given.dtype == np.bool_:
        return Bad(mask=given)
    if given.ndim != 1 or not (np.issubdtype(given.dtype, np.integer) or given.size == 0):
        raise TypeError(f"`{name}` is {checks.shown(clients)}; expected {expected}.")
    if checks.is_traced(given):
        return Bad(members=given.astype(jnp.int32))
    if given.size and not 0 <= int(given.min()) <= int(given.max()) <= checks.LARGEST_INT:
        wrong = given.min() if given.min() < 0 else given.max()
        raise ValueError(f"`{name}` holds {wrong}; expected ids of clients, from 0 on and within int32.")
    if len(np.unique(given)) != given.size:
        raise ValueError(f"`{name}` holds a client twice; expected each id once.")
    return Bad(members=given.astype(np.int32))


def is_bad(bad: Any, client: jax.Array, key: jax.Array) -> jax.Array:
    """Whether a client is bad in a round.

    Args:
      bad: a Bad, or what `pool` takes.
      client: int32, any shape; a negative one is nobody's.
      key: the client's key of the round; with an axis of clients, the round's key.

    Returns:
      bool, of the client's shape.

    Raises:
      TypeError, ValueError: for what are no ids, or no key where it is needed.
    """
    who, client = as_bad(bad), _ids(client)
    there = client >= 0
    if who.members is not None:
        members = jnp.asarray(who.members).reshape((1,) * jnp.ndim(client) + (-1,))
        return there & (client[..., None] == members).any(-1)
    if who.mask is not None:
        return there & jnp.asarray(who.mask).at[client].get(mode="fill", fill_value=False)
    checks.is_key(key=key)
    key = jax.random.fold_in(key, _WHO)
    if jnp.ndim(client) == 0:
        return there & (jax.random.uniform(key) < who.rate)
    draw = jax.vmap(lambda one: jax.random.uniform(jax.random.fold_in(key, one)))
    return there & (draw(jnp.maximum(client, 0).ravel()).reshape(client.shape) < who.rate)


def _ids(client: Any) -> jax.Array:
    expected = "ids of clients, int32"
    array = client if checks.is_traced(client) else checks.as_array("client", client, expected)
    if not (hasattr(array, "dtype") and jnp.issubdtype(array.dtype, jnp.integer)):
        raise TypeError(f"`client` is {checks.shown(client)}; expected {expected}.")
    if isinstance(array, np.ndarray) and array.size and int(np.abs(array).max()) > checks.LARGEST_INT:
        raise ValueError(f"`client` holds {np.abs(array).max()}; expected {expected}.")
    return jnp.asarray(array).astype(jnp.int32)


def nobody(bad: Bad) -> bool:
    """Whether nobody is ever bad, as far as can be known now."""
    if checks.is_traced(bad):
        return False
    if bad.members is not None:
        return bad.members.size == 0
    return not bool(np.any(bad.mask if bad.mask is not None else bad.rate > 0))


def told(bad: Bad) -> Any:
    """Who is bad, for printing and for the record of a run: ids, or a rate; a traced pool stays one."""
    if bad.rate is not None:
        return {"rate": bad.rate if checks.is_traced(bad.rate) else round(float(bad.rate), 7)}
    if checks.is_traced(bad):
        return bad.members if bad.mask is None else bad.mask
    return [int(i) for i in (bad.members if bad.mask is None else np.flatnonzero(bad.mask))]
