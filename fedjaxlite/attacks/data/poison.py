"""A share of a bad client's examples, changed as its batches are drawn, for any algorithm."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.attacks.who import Bad, as_bad, is_bad, nobody, told
from fedjaxlite.protocol.algorithm import Algorithm, ClientOutput
from fedjaxlite.shuffle import shuffled

PyTree = Any
_EXAMPLES = 0xBADDA7A
"""Which of a client's examples are changed follows from this and its id, in every round alike."""


class Chosen(NamedTuple):
    """What is to be changed in a batch.

    Attributes:
      which: bool `[B]`, the rows; all False for honest clients.
      rank: int32 `[B]`, the row's number among the client's changed examples, from 0 on, where it is one.
      client: int32 `[]`, the client's id.
    """

    which: jax.Array
    rank: jax.Array
    client: jax.Array


def poisoned(
    algorithm: Algorithm,
    bad: Any,
    change: Callable[[dict[str, jax.Array], Chosen], Mapping[str, jax.Array]],
    *,
    fraction: Any,
    name: str,
    hparams: Mapping[str, Any],
) -> Algorithm:
    """The same algorithm, in which a share of the bad clients' examples is changed.

    Args:
      algorithm: any Algorithm.
      bad: who is bad, a Bad or what `pool` takes.
      change: `change(batch, chosen) -> {name: array}`, the features that are new, of the same shape; rows that are not
        chosen stay as they are, whatever it gives for them.
      fraction: of a bad client's examples, rounded up; a number in (0, 1] or a tracer.
      name: for messages and records.
      hparams: for the record of a run.

    Returns:
      an Algorithm; `algorithm` itself where nobody is bad.
    """
    who = checked(algorithm, bad)
    fraction = checks.probability("It is the share of a bad client's examples.", fraction=fraction)
    if nobody(who):
        return algorithm

    def client_update(shared: PyTree, client_state: PyTree, data: Any, key: Any) -> ClientOutput:
        guilty = is_bad(who, data.id, data.key)

        def changed(batch: dict[str, jax.Array], examples: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
            del key
            rank = _ranks(data, examples, fraction)
            which = guilty & (rank < _count(data.num_examples, fraction))
            new = change(batch, Chosen(which, rank, data.id))
            return {**batch, **{feature: where(which, array, batch[feature]) for feature, array in new.items()}}

        return algorithm.client_update(shared, client_state, data.with_change(changed), key)

    return algorithm._replace(
        client_update=client_update, name=f"{name}({algorithm.name})", hparams=recorded(algorithm, name, who, hparams)
    )


def checked(algorithm: Any, bad: Any) -> Bad:
    """Who is bad, for an attack on this algorithm.

    Raises:
      TypeError: for what is no Algorithm. Whatever `pool` refuses.
    """
    checks.one_instance(Algorithm, "an Algorithm, such as algorithms.fed_avg(...)", algorithm=algorithm)
    return as_bad(bad)


def recorded(algorithm: Algorithm, name: str, who: Bad, hparams: Mapping[str, Any]) -> dict[str, Any]:
    """An algorithm's hyperparameters with those of an attack, by its name."""
    return {**algorithm.hparams, name: {"bad": told(who), **hparams}}


def feature_of(batch: Mapping[str, jax.Array], name: str, argument: str) -> jax.Array:
    """A feature of a batch.

    Raises:
      ValueError: where there is none of the name.
    """
    if name not in batch:
        raise ValueError(f"the data have no feature {name!r}, only {sorted(batch)}; name it by `{argument}`.")
    return batch[name]


def where(which: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """Rows of `new` where `which` says so, with `old`'s shape and dtype."""
    rows = which.reshape((-1,) + (1,) * (old.ndim - 1))
    return jnp.where(jnp.broadcast_to(rows, old.shape), new.astype(old.dtype), old)


def _ranks(data: Any, examples: jax.Array, fraction: Any) -> jax.Array:
    """A client's examples in an order that only its id decides: the first of them are changed."""
    if not checks.is_traced(fraction) and fraction == 1:
        return examples
    seed = jnp.stack([jnp.uint32(_EXAMPLES), data.id.astype(jnp.uint32)])
    return shuffled(seed, jnp.int32(0), examples, jnp.maximum(data.num_examples, 1))


def _count(num_examples: jax.Array, fraction: Any) -> jax.Array:
    # 1e-4 of slack: a float32 product such as 0.2 * 5 must not round up to one more.
    return jnp.ceil(num_examples.astype(jnp.float32) * fraction - 1e-4).astype(jnp.int32)
