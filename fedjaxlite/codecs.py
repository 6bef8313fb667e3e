"""The plain codecs: means, which stand at the head of every chain, and clips."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.aggregation import Aggregator, Bounds, ClientInfo, Message, Wire, map_prefix

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
        checks.positive(over=over, remedy="It is the expected number of clients in a round.")

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
        checks.positive_int(weight_cap=weight_cap)

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


def clip_by_global_norm(clip_norm: Any) -> Aggregator:
    """Scales a client's whole update down to an L2 norm of at most `clip_norm`.

    Args:
      clip_norm: a number above 0, infinity for no clipping, or a tracer.

    Returns:
      an Aggregator. Afterwards the wire knows the bound: every entry is at most `clip_norm` too. Weights and scalars
      are not touched.

    Raises:
      ValueError, TypeError: if `clip_norm` is not a number above 0; when built, if values are integers already.
    """
    checks.nonnegative(clip_norm=clip_norm, remedy="Infinity switches clipping off.")
    if not checks.is_traced(clip_norm) and float(clip_norm) == 0:
        raise ValueError("`clip_norm` is 0; expected a number above 0: a clip norm of 0 would erase every update.")
    unbounded = not checks.is_traced(clip_norm) and math.isinf(float(clip_norm))

    def init(wire: Wire) -> tuple[Any, Wire]:
        needs_floats("clip_by_global_norm", wire)
        return (), wire._replace(bounds=prepare((), wire.bounds)[1])

    def prepare(state: Any, bounds: Bounds) -> tuple[Any, Bounds]:
        if unbounded:
            return state, bounds
        return state, bounds._replace(l2=_least(bounds.l2, clip_norm), linf=_least(bounds.linf, clip_norm))

    def encode(state: Any, client_state: Any, message: Message, client: ClientInfo) -> tuple[Message, Any]:
        del state, client
        if unbounded:
            return message, client_state
        norm = global_norm(message.value)
        factor = jnp.minimum(1.0, jnp.asarray(clip_norm, jnp.float32) / jnp.maximum(norm, jnp.float32(1e-30)))
        value = jax.tree.map(lambda leaf: leaf * factor.astype(leaf.dtype), message.value)
        return message._replace(value=value), client_state

    hparams = {"clip_norm": clip_norm}
    return Aggregator(init=init, encode=encode, prepare=prepare, name="clip_by_global_norm", hparams=hparams)


def clip_by_value(max_abs: Any) -> Aggregator:
    """Clips every entry of a client's update to [-max_abs, max_abs], which bounds the range of a later `quantize`.

    Args:
      max_abs: a finite number above 0, or a tracer.

    Returns:
      an Aggregator.

    Raises:
      ValueError, TypeError: if `max_abs` is not a finite number above 0; when built, if values are integers already.
    """
    checks.positive(max_abs=max_abs)

    def init(wire: Wire) -> tuple[Any, Wire]:
        needs_floats("clip_by_value", wire)
        return (), wire._replace(bounds=prepare((), wire.bounds)[1])

    def prepare(state: Any, bounds: Bounds) -> tuple[Any, Bounds]:
        return state, bounds._replace(linf=_least(bounds.linf, max_abs))

    def encode(state: Any, client_state: Any, message: Message, client: ClientInfo) -> tuple[Message, Any]:
        del state, client
        limit = jnp.asarray(max_abs, jnp.float32)
        clip = lambda leaf: jnp.clip(leaf, -limit.astype(leaf.dtype), limit.astype(leaf.dtype))  # noqa: E731
        return message._replace(value=jax.tree.map(clip, message.value)), client_state

    hparams = {"max_abs": max_abs}
    return Aggregator(init=init, encode=encode, prepare=prepare, name="clip_by_value", hparams=hparams)


def needs_floats(name: str, wire: Wire) -> None:
    """Refuses a wire of integers or masked messages, naming the first leaf and the remedy."""
    path, leaf = jax.tree_util.tree_flatten_with_path(wire.value)[0][0]
    if wire.masked:
        raise ValueError(f"`{name}` stands behind a mask; a masked message cannot be changed. Put `{name}` before it.")
    if wire.group != "float" or not jnp.issubdtype(leaf.dtype, jnp.floating):
        raise ValueError(
            f"`{name}` needs float leaves, got {leaf.dtype}{list(leaf.shape)} at {checks.path_str(path)} "
            f"({'integers mod 2^32' if wire.group == 'mod32' else 'not floats'}); put `{name}` before `quantize`."
        )


def global_norm(tree: PyTree) -> jax.Array:
    """The L2 norm over all leaves, in float32 and relative to the largest entry, so that no square overflows.

    Its gradient at zero is zero, where the norm itself has none.

    Args:
      tree: a pytree of floats.

    Returns:
      float32 `[]`; NaN or infinite where an entry is.

    Example:
      >>> float(global_norm({"w": jnp.float32([3.0, 0.0]), "b": jnp.float32(4.0)}))
      5.0
      >>> jax.grad(global_norm)(jnp.zeros(2)).tolist()
      [0.0, 0.0]
    """
    leaves = [leaf.astype(jnp.float32) for leaf in jax.tree.leaves(tree)]
    largest = jnp.float32(0.0)
    for leaf in leaves:
        largest = jnp.maximum(largest, jnp.max(jnp.abs(leaf), initial=0.0))
    # Compilers divide by multiplying with 1 / unit, which processors take for 0 if it is below the normal numbers.
    unit = jax.lax.stop_gradient(jnp.clip(largest, jnp.finfo(jnp.float32).tiny, 2.0**126))
    square = sum((jnp.sum(jnp.square(leaf / unit)) for leaf in leaves), jnp.float32(0.0))
    zero = square == 0  # the slope of a square root at zero is infinite; NaN is not zero, and stays
    return jnp.where(zero, 0.0, unit * jnp.sqrt(jnp.where(zero, 1.0, square)))


def _first(name: str, wire: Wire) -> None:
    if wire.headed:
        raise ValueError(f"`{name}` is not the first codec; a chain has one mean, at its head.")


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


def _least(a: Any, b: Any) -> Any:
    if a is None:
        return b
    return jnp.minimum(a, b) if checks.is_traced((a, b)) else min(a, b)
