"""A rule on plain arrays, without a run."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.keys import as_key
from fedjaxlite.wire.aggregator import Aggregator, Message, Stacked
from fedjaxlite.wire.chain import chain
from fedjaxlite.wire.head import wire_of
from fedjaxlite.wire.means import mean, weighted_mean
from fedjaxlite.wire.rows import Known

PyTree = Any


def apply(
    codecs: Aggregator | Sequence[Aggregator],
    values: PyTree,
    *,
    weights: Any = None,
    present: Any = None,
    ids: Any = None,
    ages: Any = None,
    key: Any = None,
) -> PyTree:
    """What a rule makes of these messages, in its first round; with what stands before it, if that is given too.

    Args:
      codecs: a rule, or a sequence that ends with one: `[fl.robust.nnm(f=1), fl.robust.median()]`.
      values: pytree of floats `[K, ...]`, a message each.
      weights: float32 `[K]`, or None for clients that count as one each.
      present: bool `[K]`, who is there; None is all.
      ids: int32 `[K]`, which clients they are; None is 0 to K - 1.
      ages: int32 `[K]`, of what looks at them, such as `stale_weights`; None where nobody tells.
      key: of what is random; None is `jax.random.key(0)`.

    Returns:
      pytree of float32, one message's shapes. May be traced, vmapped and differentiated where the rule can be.

    Raises:
      TypeError, ValueError: for what is no rule, for leaves without an axis of clients, and whatever a chain refuses.

    Example:
      >>> import fedjaxlite as fl
      >>> apply(fl.robust.mean(), {"w": jnp.float32([[1, 2], [3, 6]])})["w"].tolist()
      [2.0, 4.0]
    """
    given = _given(codecs)
    checks.numeric_leaves("values", values)
    values = jax.tree.map(jnp.asarray, values)
    for path, leaf in jax.tree_util.tree_flatten_with_path(values)[0]:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(f"`values` has {leaf.dtype}{list(leaf.shape)} at {checks.path_str(path)}; expected floats.")
    sizes = {leaf.shape[0] if leaf.ndim else None for leaf in jax.tree.leaves(values)}
    if len(sizes) != 1 or sizes & {None, 0}:
        shapes = [list(leaf.shape) for leaf in jax.tree.leaves(values)]
        raise ValueError(f"`values` has leaves of shapes {shapes}; expected [K, ...] in all, a row for each client.")
    num = jax.tree.leaves(values)[0].shape[0]
    here = _one_each("present", present, num, True, jnp.bool_)
    head = mean() if weights is None else weighted_mean()
    row = chain(head, *given)
    template = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), values)
    state, wire = row.init(wire_of(template, capacity=num, weight=np.float32(1)))
    if wire.fold != "stack":
        raise ValueError(
            f"`codecs` is {', '.join(codec.name for codec in given)}, whose messages are summed; expected a rule at "
            "the end, such as fl.robust.median(), or fl.robust.mean() for the mean."
        )
    old = None if ages is None else _one_each("ages", ages, num, 0, jnp.int32)
    everyone = Known(_one_each("ids", ids, num, jnp.arange(num), jnp.int32), here, old)
    begun = row.begin(state, everyone, jax.random.key(0) if key is None else as_key(key, "key"))
    zeroed = jax.tree.map(lambda leaf: jnp.where(here.reshape((-1,) + (1,) * (leaf.ndim - 1)), leaf, 0), values)
    total = Stacked(Message(zeroed, _one_each("weights", weights, num, 1.0, jnp.float32), {}), here)
    return row.decode(begun, total, jax.random.key(1))[0].value


def _given(codecs: Any) -> tuple[Aggregator, ...]:
    given = tuple(codecs) if isinstance(codecs, Sequence) and not isinstance(codecs, Aggregator) else (codecs,)
    expected = "expected a rule, such as fl.robust.median(), or a sequence that ends with one"
    if not given:
        raise TypeError(f"`codecs` is empty; {expected}.")
    for i, codec in enumerate(given):
        if not isinstance(codec, Aggregator):
            where = "codecs" if codec is codecs else f"codecs[{i}]"
            raise TypeError(f"`{where}` is {checks.shown(codec)}; {expected}.")
    if heads := [codec.name for codec in given if (codec.parts or (codec,))[0].role == "mean"]:
        raise ValueError(
            f"`codecs` has {heads[0]}, and the head of the chain is put there for you. Leave it out: give a rule, with "
            "what stands before it."
        )
    return given


def _one_each(name: str, given: Any, num: int, default: Any, dtype: Any) -> jax.Array:
    """An array of one number for each row."""
    if given is None:
        return jnp.broadcast_to(jnp.asarray(default, dtype), (num,))
    expected = f"{jnp.dtype(dtype).name} [{num}], one for each row of `values`"
    array = given if checks.is_traced(given) else checks.as_array(name, given, expected)
    kinds = {"float32": (jnp.floating, jnp.integer), "bool": (jnp.bool_,), "int32": (jnp.integer,)}
    if array.shape != (num,):
        raise ValueError(f"`{name}` has shape {list(array.shape)}; expected {expected}.")
    if not any(jnp.issubdtype(array.dtype, kind) for kind in kinds[jnp.dtype(dtype).name]):
        raise TypeError(f"`{name}` has dtype {array.dtype}; expected {expected}.")
    return jnp.asarray(array).astype(dtype)
