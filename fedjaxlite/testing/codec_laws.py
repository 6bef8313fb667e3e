"""The laws of a chain of codecs by itself, without clients and rounds."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fedjaxlite as fl
from fedjaxlite.checks import path_str
from fedjaxlite.testing.compare import EXACT, Tolerance, assert_close

PyTree = Any


def random_like(shapes: PyTree, key: jax.Array, scale: float) -> PyTree:
    """Normal entries of a given standard deviation in the structure, shapes and dtypes of `shapes`."""
    leaves, treedef = jax.tree.flatten(shapes)
    draw = lambda i, s: (scale * jax.random.normal(jax.random.fold_in(key, i), s.shape)).astype(s.dtype)  # noqa: E731
    return jax.tree.unflatten(treedef, [draw(i, s) for i, s in enumerate(leaves)])


def check_codec(chain: fl.Aggregator, shapes: PyTree, num_clients: int, scale: float, tolerance: Tolerance) -> None:
    """Encodes `num_clients` random messages and holds encode, sum and decode to the laws.

    Args:
      chain: an aggregator of role "chain".
      shapes: pytree of `jax.ShapeDtypeStruct`, what a client sends.
      num_clients: messages in the sum.
      scale: standard deviation of the entries.
      tolerance: for floats.

    Raises:
      AssertionError: at the first law that is broken.
    """
    what = f"aggregator law, {chain.name}"
    state, wire = chain.init(fl.wire_of(shapes, capacity=num_clients))
    own = jax.tree.map(jnp.asarray, chain.init_client(shapes))

    def encode(client: jax.Array) -> tuple[fl.Message, Any]:
        update = random_like(shapes, jax.random.key(client), scale)
        info = fl.ClientInfo(client, jnp.float32(1), jax.random.key(client + 1000), jnp.bool_(True))
        return chain.encode(state, own, fl.Message(update, client + 1, {}), info)

    def read(message: fl.Message, client: jax.Array) -> fl.Message:
        info = fl.ClientInfo(client, jnp.float32(1), None, jnp.bool_(True))
        return chain.read(state, message, info)

    everyone = jnp.arange(num_clients, dtype=jnp.int32)
    messages, new_own = jax.jit(jax.vmap(encode))(everyone)
    one = _nth(messages, 3)
    _check_shapes(one._asdict(), wire._asdict(), f"{what}: what encode returned, against its wire")
    _same_types(_nth(new_own, 3), own, f"{what}: the client state that encode returned, against init_client")
    alone = jax.jit(encode)(jnp.int32(3))[0]
    assert_close(one, alone, what=f"{what}: encode vmapped, against encode", tolerance=tolerance)
    if wire.fold == "sum":
        _check_sum(chain, state, wire, jax.jit(jax.vmap(read))(messages, everyone), shapes, what, tolerance)


def _check_sum(
    chain: fl.Aggregator, state: Any, wire: fl.Wire, messages: fl.Message, shapes: PyTree, what: str, t: Tolerance
) -> None:
    num = jax.tree.leaves(messages)[0].shape[0]
    forward = _sum([_nth(messages, i) for i in range(num)])
    halves = [_sum([_nth(messages, i) for i in part]) for part in (range(num - 1, num // 2 - 1, -1), range(num // 2))]
    order = EXACT if wire.group == "mod32" and wire.apart is None else t
    assert_close(_sum(halves), forward, what=f"{what}: the sum in another order", tolerance=order)
    decode = jax.jit(lambda total: chain.decode(state, total, jax.random.key(5)))
    aggregate, new_state = decode(forward)
    _same_types(new_state, jax.tree.map(jnp.asarray, state), f"{what}: the state that decode returned, against init")
    _check_shapes({"value": aggregate.value}, {"value": shapes}, f"{what}: the decoded value, against what was sent")
    if wire.noised or wire.masked:
        return  # a single message, or none, then decodes to noise
    nothing, _ = decode(jax.tree.map(jnp.zeros_like, forward))
    zeros = jax.tree.map(jnp.zeros_like, (nothing.value, nothing.weight))
    if wire.denominator is not None:  # which is public, and all that the weight may tell
        zeros = (zeros[0], jnp.full_like(nothing.weight, wire.denominator))
    assert_close((nothing.value, nothing.weight), zeros, what=f"{what}: nobody reported")
    single = [decode(_nth(messages, i))[0] for i in range(num)]
    _check_bounds(wire, single, what)
    share = (lambda a: a.weight / aggregate.weight) if wire.denominator is None else (lambda a: jnp.float32(1))
    parts = [jax.tree.map(lambda v, a=a: v * share(a), a.value) for a in single]
    law = f"{what}: decode of the sum, against the mean of every decoded message (decode must be linear in the total)"
    assert_close(aggregate.value, _sum(parts), what=law, tolerance=t)


def _check_bounds(wire: fl.Wire, single: list[fl.Aggregate], what: str) -> None:
    """What one client contributes obeys the bounds that the chain claims."""
    if wire.denominator is not None:
        return  # the decoded value of one client is then divided by more than its weight
    for name, bound, measure in (
        ("l2", wire.bounds.l2, fl.global_norm),
        ("linf", wire.bounds.linf, lambda tree: jnp.max(jnp.stack([jnp.abs(x).max() for x in jax.tree.leaves(tree)]))),
    ):
        if bound is None:
            continue
        largest = max(float(measure(aggregate.value)) for aggregate in single)
        if largest > float(bound) * (1 + 1e-5):
            raise AssertionError(f"{what}: a message of {name} norm {largest:.6g} is beyond the wire's bound {bound}.")


def _nth(tree: PyTree, i: int) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[i], tree)


def _sum(trees: list[PyTree]) -> PyTree:
    total = trees[0]
    for tree in trees[1:]:
        total = jax.tree.map(jnp.add, total, tree)
    return total


def _check_shapes(got: dict[str, Any], want: dict[str, Any], what: str) -> None:
    for name, tree in got.items():
        if jax.tree.structure(tree) != jax.tree.structure(want[name]):
            raise AssertionError(
                f"{what}: `{name}` has the structure {jax.tree.structure(tree)}, expected "
                f"{jax.tree.structure(want[name])}."
            )
        for (path, a), b in zip(
            jax.tree_util.tree_flatten_with_path(tree)[0], jax.tree.leaves(want[name]), strict=True
        ):
            floats = jnp.issubdtype(a.dtype, jnp.floating) and jnp.issubdtype(b.dtype, jnp.floating)
            if np.shape(a) != tuple(b.shape) or (a.dtype != b.dtype and not floats):
                raise AssertionError(
                    f"{what}: `{name}` has {a.dtype}{list(np.shape(a))} at {path_str(path)}, expected "
                    f"{b.dtype}{list(b.shape)}."
                )


def _same_types(got: PyTree, want: PyTree, what: str) -> None:
    _check_shapes({"state": got}, {"state": want}, what)
