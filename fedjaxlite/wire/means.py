"""Means, which stand at the head of every chain: they set the weight and divide last."""

from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Aggregator, ClientInfo, Message, Wire
from fedjaxlite.wire.chain import map_prefix

PyTree = Any


def mean(*, over: Any = None) -> Aggregator:
    """The plain mean of the clients that report; the algorithm's weights are ignored.

    Args:
      over: a fixed denominator instead of the number of clients, as differential privacy requires: with a cohort of
        varying size the sum is divided by the expected size, and one client's influence is exactly 1 / over. The
        algorithm is told this number too, as weight and as number of clients: the true count is not public.

    Returns:
      an Aggregator that stands at the head of a chain. Each client weighs 1, or what an importance sampler gives it.
      Where nobody reported the mean is zero.

    Raises:
      ValueError: if `over` is not a finite number above 0; when built, if it is less than half or more than twice the
        number of clients that the sampler expects in a round.
    """
    if over is not None:
        over = checks.positive(over=over, remedy="It is the expected number of clients in a round.")

    def init(wire: Wire) -> tuple[Any, Wire]:
        _first("mean", wire)
        _check_over(over, wire)
        weight = jax.ShapeDtypeStruct((), jnp.float32)
        cap = None if wire.scaled else 1
        return (), wire._replace(weight=weight, weight_cap=cap, denominator=over, headed=True)

    def encode(state: Any, client_state: Any, message: Message, client: ClientInfo) -> tuple[Message, Any]:
        del state
        return message._replace(weight=jnp.asarray(client.weight, jnp.float32)), client_state

    def decode(state: Any, total: Message, key: Any) -> tuple[Message, Any]:
        del key
        weight = total.weight.astype(jnp.float32)
        denominator = weight if over is None else jnp.asarray(over, jnp.float32)
        return _divide(total, denominator, denominator), state

    return Aggregator(
        init=init, encode=encode, decode=decode, role="mean", name="mean", hparams={"over": over}, public_count=over
    )


def weighted_mean(*, weight_cap: int | None = None) -> Aggregator:
    """The mean weighted by what the algorithm gives each client, in federated averaging the number of its examples.

    Args:
      weight_cap: the largest weight of one client; larger ones are cut to it. Needed for sums of integers, whose range
        is checked when built, and useful against clients that claim too many examples.

    Returns:
      an Aggregator that stands at the head of a chain. Where the weights sum to zero the mean is zero.

    Raises:
      ValueError, TypeError: if `weight_cap` is not an int of at least 1.

    Source: McMahan et al. (2017), https://arxiv.org/abs/1602.05629, algorithm 1: the server's n_k / n.
    """
    if weight_cap is not None:
        weight_cap = checks.positive_int(weight_cap=weight_cap)

    def init(wire: Wire) -> tuple[Any, Wire]:
        _first("weighted_mean", wire)
        integers = all(jnp.issubdtype(leaf.dtype, jnp.integer) for leaf in jax.tree.leaves(wire.weight))
        cap = weight_cap if integers and not wire.scaled else None
        weight = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((), jnp.float32), wire.weight)
        return (), wire._replace(weight=weight, weight_cap=cap, headed=True)

    def encode(state: Any, client_state: Any, message: Message, client: ClientInfo) -> tuple[Message, Any]:
        del state
        scale = jnp.asarray(client.weight, jnp.float32)

        def weigh(weight: Any) -> jax.Array:
            weight = jnp.maximum(jnp.asarray(weight).astype(jnp.float32), 0.0)
            return (weight if weight_cap is None else jnp.minimum(weight, float(weight_cap))) * scale

        return message._replace(weight=jax.tree.map(weigh, message.weight)), client_state

    def decode(state: Any, total: Message, key: Any) -> tuple[Message, Any]:
        del key
        weight = jax.tree.map(lambda w: w.astype(jnp.float32), total.weight)
        return _divide(total, weight, weight), state

    hparams = {"weight_cap": weight_cap}
    return Aggregator(init=init, encode=encode, decode=decode, role="mean", name="weighted_mean", hparams=hparams)


def _first(name: str, wire: Wire) -> None:
    if wire.headed:
        raise ValueError(
            f"`{name}` is not the first codec; a chain has one mean, at its head. A wire that `rounds.wire` or the "
            "`init` of a chain returned is the end of one: begin with fl.wire_of(update, capacity=...)."
        )


def _check_over(over: Any, wire: Wire) -> None:
    if over is None or checks.is_traced(over) or wire.participation is None or wire.num_clients is None:
        return
    expected = wire.participation.expected_size(wire.num_clients)
    if not expected / 2 <= float(over) <= expected * 2:
        raise ValueError(
            f"`mean(over={over!r})` divides by {over!r} where the sampler expects {expected:g} clients in a round of "
            f"{wire.num_clients}; use fl.mean(over={expected:g}), and a server rate for what else is meant."
        )


def _divide(total: Message, weight: Any, denominator: Any) -> Message:
    def divide(d: jax.Array, leaf: jax.Array) -> jax.Array:
        # Zero weight means that nobody reported: the sum is zero, and so is the mean.
        return leaf.astype(jnp.float32) / jnp.where(d != 0, d, 1.0)

    one = jax.tree.leaves(denominator)[0]
    scalars = {name: divide(one, s) for name, s in total.scalars.items()}
    return Message(map_prefix(divide, denominator, total.value), weight, scalars)
