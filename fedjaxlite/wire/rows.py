"""Rows: all messages of a round side by side, as what is no sum sees them, between encoding and folding.

Rules read them (`fl.rule`); what stands before a rule makes others of them (`fl.restack`): mixing, buckets, attacks.
Entries are flat and may be shared out over devices: what looks at one entry at a time never asks for the others, and
what looks at whole messages (norms, products) adds up its parts with `rows.shares.add`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite.wire.aggregator import Aggregator, Message, Stacked

PyTree = Any
_FEW_ROWS = 128


class Shares(NamedTuple):
    """How the entries of an update lie on devices.

    Attributes:
      add: `add(tree) -> tree`, sums over devices of numbers that each device has for its own entries.
      mine: `mine(update) -> tree`, of a whole update (or of `[K, ...]` such) this device's entries, `[m]` (`[K, m]`)
        for each leaf; zeros fill up a share.
      whole: `whole(tree) -> update`, the whole update from every device's `[m]`, with its shapes; float32.
    """

    add: Callable[[PyTree], PyTree]
    mine: Callable[[PyTree], PyTree]
    whole: Callable[[PyTree], PyTree]


class Rows(NamedTuple):
    """All messages of a round, a row each.

    Attributes:
      values: pytree like the update; each leaf float32 `[K, m]`, this device's entries. Zeros where no client is.
      weights: float32 `[K]`, as the mean at the head sets them; 0 where no client is.
      present: bool `[K]`, whose messages count: those that arrived and are finite.
      ids: int32 `[K]`, of clients in the population; -1 in a spare slot, or where a row is no client's.
      shares: how entries lie on devices.
      beside: a Message of `()`, the clients' total weight, and their weighted sums of scalars.
      left_out: bool of the whole cohort's length, whose messages arrived and are no longer present; `fl.restack` keeps
        it.
      ages: int32 `[K]`, the server's steps since the model that each row began from, its own not counted; None where
        the sampler does not tell (`fl.systems.staleness.told` does).
    """

    values: PyTree
    weights: jax.Array
    present: jax.Array
    ids: jax.Array
    shares: Shares
    beside: Message
    left_out: Any = None
    ages: Any = None


class Opened(NamedTuple):
    """The state of a codec of rows in a round that has begun.

    Attributes:
      own: what it keeps.
      key: the round's, which everyone may know.
      ids: int32 `[K]`, of the cohort's clients; -1 in a spare slot.
      ages: int32 `[K]`, `Cohort.age`; None where nobody tells.
    """

    own: PyTree
    key: Any
    ids: Any
    ages: Any = None


class Known(NamedTuple):
    """What codecs of rows ask of a cohort.

    Attributes:
      ids: int32 `[K]`.
      selected: bool `[K]`, whose ids these are clients'.
      age: int32 `[K]`, or None; see `Cohort.age`.
    """

    ids: Any
    selected: Any
    age: Any = None


def open_rows(state: PyTree, cohort: Any, key: Any) -> Opened:
    """The `begin` of a codec of rows."""
    return Opened(state, key, jnp.where(cohort.selected, cohort.ids, -1).astype(jnp.int32), cohort.age)


def opened_with_rows(state: PyTree, total: Stacked | Rows, key: Any) -> tuple[Opened, Rows]:
    """What `open_rows` left, or a state that no round was begun with, and the rows, as a codec of rows decodes them."""
    opened = state if isinstance(state, Opened) else Opened(state, key, None)
    return opened, rows_of(total, opened.ids, opened.ages)


def rows_of(total: Stacked | Rows, ids: Any, ages: Any = None) -> Rows:
    """The rows of stacked messages; rows stay what they are, but for ages that they did not have yet."""
    if isinstance(total, Rows):
        return total if total.ages is not None else total._replace(ages=ages)
    message, present = total
    weights, beside = counted(message, present)
    shares = on_one_device(jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), message.value))
    known = jnp.arange(present.shape[0], dtype=jnp.int32) if ids is None else ids
    values, owners = shares.mine(message.value), jnp.where(present, known, -1)
    return Rows(values, weights, present, owners, shares, beside, ages=ages)


def counted(message: Message, present: jax.Array) -> tuple[jax.Array, Message]:
    """The weights of those who are present, float32 `[K]`, and what is summed beside values: `Rows.beside`."""
    weights = jnp.where(present, message.weight, 0.0)
    return weights, Message((), weights.sum(), {name: (weights * s).sum() for name, s in message.scalars.items()})


def weighted_sum(share: jax.Array, values: PyTree) -> PyTree:
    """Sums of rows, times float32 `[K]` shares: a tree of `[m]`; of `[J, K]` shares a tree of `[J, m]`."""

    def of_leaf(leaf: jax.Array) -> jax.Array:
        # Row by row it is one loop; a product of a vector and a matrix, mapped over runs, is ten times slower on a CPU.
        if share.ndim == 1 and len(share) <= _FEW_ROWS:
            return sum((share[k] * leaf[k] for k in range(1, len(share))), share[0] * leaf[0])
        return jax.lax.dot_general(share, leaf, (((share.ndim - 1,), (0,)), ((), ())), precision="highest")

    return jax.tree.map(of_leaf, values)


def with_left_out(rows: Rows, before: Rows) -> Rows:
    """The rows with those marked that were there before, and are there no longer.

    Rows that are no clients' any more, such as buckets, leave nobody out.
    """
    known = jnp.zeros_like(before.present) if before.left_out is None else before.left_out
    if not rows.present.shape == before.present.shape == known.shape:
        return rows._replace(left_out=known)
    gone = before.present & ~rows.present & (before.ids >= 0) & (before.ids == rows.ids)
    return rows._replace(left_out=known | gone)


def on_one_device(template: PyTree) -> Shares:
    """The shares of a device that has all entries."""

    def mine(tree: PyTree) -> PyTree:
        flat = lambda leaf, like: leaf.reshape((*leaf.shape[: leaf.ndim - len(like.shape)], like.size))  # noqa: E731
        return jax.tree.map(lambda leaf, like: flat(leaf, like).astype(jnp.float32), tree, template)

    def whole(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf, like: leaf.reshape(like.shape), tree, template)

    return Shares(add=lambda tree: tree, mine=mine, whole=whole)


_BLOCK = 2**18
"""Numbers of a block: 1 MiB, which the second cache of a core holds."""


def in_blocks(fn: Callable[..., PyTree], values: jax.Array, *beside: jax.Array, numbers: int = _BLOCK) -> PyTree:
    """What `fn` makes of a leaf entry by entry, in blocks of entries one after the other.

    What it needs on the way (sorted columns, distances to a median) is then as large as a block, not as the leaf.

    Args:
      fn: `fn(values, *beside) -> pytree`, of arrays whose last axis runs over entries, of any number b of them; it must
        look at one entry at a time. What it returns has entries along the last axis of every leaf.
      values: `[..., m]`, such as `[K, m]` of rows.
      *beside: more arrays with m entries along their last axis, such as a state's `[m]`.
      numbers: how many of `values` make a block.

    Returns:
      `fn(values, *beside)`.

    Example:
      >>> in_blocks(lambda v: v.max(0), jnp.float32([[1, 5, 3], [4, 2, 6]]), numbers=4).tolist()
      [4.0, 5.0, 6.0]
    """
    size = values.shape[-1]
    block = max(1, numbers // max(1, values.size // max(1, size)))
    if size <= block:
        return fn(values, *beside)
    given = (values, *beside)

    def of_block(start: jax.Array) -> PyTree:
        return fn(*(jax.lax.dynamic_slice_in_dim(array, start, block, axis=array.ndim - 1) for array in given))

    def add(index: jax.Array, found: PyTree) -> PyTree:
        start = jnp.minimum(index * block, size - block)  # the last block takes some entries a second time
        put = lambda all_, new: jax.lax.dynamic_update_slice_in_dim(all_, new, start, axis=new.ndim - 1)  # noqa: E731
        return jax.tree.map(put, found, of_block(start))

    one = jax.eval_shape(of_block, jax.ShapeDtypeStruct((), jnp.int32))
    nothing = jax.tree.map(lambda leaf: jnp.zeros((*leaf.shape[:-1], size), leaf.dtype), one)
    return jax.lax.fori_loop(jnp.int32(0), -(-size // block), add, nothing)


def in_place(fn: Callable[..., jax.Array], values: jax.Array, *beside: jax.Array, numbers: int = _BLOCK) -> jax.Array:
    """What `fn` makes of a leaf entry by entry, block by block in the memory of the leaf: for mixing and attacks.

    As `in_blocks`, for an `fn` that returns as many rows as it was given, `[..., b]`. No second leaf exists where the
    first is not needed any more; each block is taken once, in order.
    """
    size = values.shape[-1]
    block = max(1, numbers // max(1, values.size // max(1, size)))
    if size <= block:
        return fn(values, *beside)
    take = lambda array, start, num: jax.lax.dynamic_slice_in_dim(array, start, num, axis=array.ndim - 1)  # noqa: E731

    def of_block(all_: jax.Array, start: Any, num: int) -> jax.Array:
        new = fn(take(all_, start, num), *(take(array, start, num) for array in beside))
        return jax.lax.dynamic_update_slice_in_dim(all_, new, start, axis=all_.ndim - 1)

    num, rest = divmod(size, block)
    values = jax.lax.fori_loop(jnp.int32(0), num, lambda i, all_: of_block(all_, i * block, block), values)
    return of_block(values, jnp.int32(num * block), rest) if rest else values


def fold_of(chain: Aggregator) -> str:
    """How the messages of a chain come together.

    Args:
      chain: a chain's Aggregator.

    Returns:
      "sum"; "stack" where the last codec is a `stack`, which takes messages as they are, all on every device; "rows"
      where it is a `rule`, which takes Rows, shared out over devices.
    """
    last = chain.parts[-1]
    if last.role != "stack":
        return "sum"
    return "rows" if last.begin is open_rows else "stack"
