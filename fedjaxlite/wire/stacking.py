"""Stacking: aggregation by functions that are no sums, such as a median, and what stands before them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Aggregator, Message, Stacked, Wire
from fedjaxlite.wire.clips import needs_floats
from fedjaxlite.wire.rows import Rows, counted, open_rows, opened_with_rows, with_left_out

PyTree = Any
_REDUCE = "Reduce the leading axis [K] and nothing else."
_KEEP = "Return a state of the same structure, shapes and dtypes, so that it can be kept."


def stack(fn: Callable[[PyTree, jax.Array, jax.Array], PyTree], *, name: str = "stack") -> Aggregator:
    """Aggregates by a function of all messages at once, for order statistics that are not sums (median, Krum).

    It costs the memory of K messages on every device, sends no more than any other codec, and cannot stand behind a
    mask: a server that computes a median has seen every client's update. `fl.robust` has rules from papers; `fl.rule`
    makes one that shares its memory over devices, or keeps a state.

    Args:
      fn: `fn(values, weights, present) -> value`; `values` is the update with a leading axis `[K]` in cohort order
        (zeros where no client is), `weights` float32 `[K]` as the mean at the head sets them, `present` bool `[K]`.
      name: for messages and records.

    Returns:
      an Aggregator that ends a chain; the mean at its head then sets weights and does not divide.

    Raises:
      TypeError: if `fn` cannot be called. ValueError: when built, behind a mask or integers, or for a tree of weights.

    Example:
      >>> import fedjaxlite as fl, jax.numpy as jnp
      >>> def median(values, weights, present):
      ...     nan = lambda v: jnp.where(present.reshape((-1,) + (1,) * (v.ndim - 1)), v, jnp.nan)
      ...     return jax.tree.map(lambda v: jnp.nanmedian(nan(v), axis=0), values)
      >>> fl.chain(fl.mean(), fl.stack(median)).name
      'chain(mean, stack)'
    """
    checks.is_function_of("values", "weights", "present", fn=fn)
    name = checks.text("It is for messages and records.", name=name)

    def decode(state: Any, total: Any, key: Any) -> tuple[Message, Any]:
        del key
        beside = None
        if isinstance(total, Rows):  # something stood before it
            as_sent, beside = jax.vmap(total.shares.whole)(total.values), total.beside
            total = Stacked(Message(as_sent, total.weights, {}), total.present)
        message, present = total
        weights, own = counted(message, present)
        value = fn(message.value, weights, present)
        checks.same_structure(
            jax.eval_shape(lambda: value),
            jax.eval_shape(lambda: jax.tree.map(lambda leaf: leaf[0], message.value)),
            what=f"the value that `{name}` returned",
            than="one client's update",
            remedy=_REDUCE,
        )
        beside = own if beside is None else beside
        return _not_divided(value, beside.weight, beside.scalars), state

    return Aggregator(init=lambda wire: ((), _stacked(name, wire)), decode=decode, role="stack", name=name)


class RuleState(NamedTuple):
    """What a rule keeps from round to round.

    Attributes:
      own: the rule's own.
      skipped: int32, rounds so far that had fewer clients than the rule needs, and changed nothing.
    """

    own: PyTree
    skipped: jax.Array


def rule(
    fn: Callable[[PyTree, Rows, jax.Array], tuple[PyTree, PyTree]],
    *,
    name: str,
    hparams: Mapping[str, Any] | None = None,
    init: Callable[[PyTree], PyTree] | None = None,
    minimum: Any = 1,
    weighted: bool = False,
) -> Aggregator:
    """Aggregates by a rule that sees the rows of all messages, entry by entry over devices, and may keep a state.

    Args:
      fn: `fn(state, rows, key) -> (value, state)`; `rows` are `fl.Rows`, `value` is a tree like `rows.values` without
        the leading axis: this device's entries. `key` follows from the run's key and the round.
      name: for messages and records.
      hparams: for printing and for the record of a run.
      init: `init(update) -> state` from zeros like one client's update; None keeps nothing. A state is whole on every
        device: `rows.shares.mine` takes a device's entries of it, `rows.shares.whole` puts them together.
      minimum: the fewest clients that the rule is defined for, an int or a tracer. A chain for fewer is refused; a
        round in which fewer report changes nothing and is counted ("skipped" in `PassInfo.aggregator`).
      weighted: whether the rule uses weights; if not, a mean that sets them is refused.

    Returns:
      an Aggregator that ends a chain.

    Raises:
      TypeError: for arguments that do not fit. ValueError: when built, behind a mask, integers, or weights that it
        would ignore; for a tree of weights; for a sampler with fewer clients than `minimum`.

    Example:
      >>> import fedjaxlite as fl, jax, jax.numpy as jnp
      >>> def largest(state, rows, key):
      ...     return jax.tree.map(lambda v: v.max(0), rows.values), state
      >>> fl.chain(fl.mean(), rule(largest, name="largest")).name
      'chain(mean, largest)'
    """
    name = _checked(fn, name, hparams, init, minimum)
    weighted = checks.flag(weighted=weighted)

    def begin_run(wire: Wire) -> tuple[Any, Wire]:
        if not weighted:
            _equal_weights(name, wire)
        _enough(name, minimum, wire)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), wire.value)
        own = () if init is None else init(zeros)
        return RuleState(own, jnp.int32(0)), _stacked(name, wire)

    def decode(state: Any, total: Stacked | Rows, key: Any) -> tuple[Message, Any]:
        opened, rows = opened_with_rows(state, total, key)
        value, own = _pair(name, "(value, state)", fn(opened.own.own, rows, opened.key))
        one = jax.tree.map(lambda v: v[0], rows.values)
        _same(value, one, what=f"the value that `{name}` returned", than="a row of `rows.values`", remedy=_REDUCE)
        _same(own, opened.own.own, what=f"the state that `{name}` returned", than="what its `init` gave", remedy=_KEEP)
        enough = rows.present.sum(dtype=jnp.int32) >= jnp.asarray(minimum).astype(jnp.int32)
        keep = lambda new, old: jnp.where(enough, new, old)  # noqa: E731
        value = jax.tree.map(lambda leaf: keep(leaf, jnp.zeros_like(leaf)), rows.shares.whole(value))
        own = jax.tree.map(keep, own, opened.own.own)
        skipped = opened.own.skipped + (~enough).astype(jnp.int32)
        beside = jax.tree.map(lambda leaf: keep(leaf, jnp.zeros_like(leaf)), rows.beside)
        return _not_divided(value, beside.weight, beside.scalars), RuleState(own, skipped)

    return Aggregator(
        init=begin_run,
        decode=decode,
        begin=open_rows,
        role="stack",
        name=name,
        hparams=dict(hparams or {}),
        metrics=lambda state: {"skipped": state.skipped},
        public_seed=True,
    )


def restack(
    fn: Callable[[PyTree, Rows, jax.Array], tuple[Rows, PyTree]],
    *,
    name: str,
    hparams: Mapping[str, Any] | None = None,
    init: Callable[[PyTree], PyTree] | None = None,
    minimum: Any = 1,
    metrics: Callable[[PyTree], Mapping[str, Any]] | None = None,
) -> Aggregator:
    """Changes the rows of all messages before the rule that ends the chain: mixing, buckets, or attackers who see all.

    It runs on the server's side of the wire, in the order of the chain, on messages as they were read. The engine does
    not know what it is for.

    Args:
      fn: `fn(state, rows, key) -> (rows, state)`; see `fl.rule`. The rows that it returns may be fewer.
      name: for messages and records.
      hparams: for printing and for the record of a run.
      init: `init(update) -> state`, as in `fl.rule`.
      minimum: the fewest clients that it is defined for; a chain for fewer is refused. What becomes of a round in
        which fewer report is up to `fn`.
      metrics: `metrics(state) -> {name: scalar}`, what it tells after a round.

    Returns:
      an Aggregator that stands before a rule.

    Raises:
      TypeError: for arguments that do not fit. ValueError: when built, behind a mask or integers, for a tree of
        weights, or for a sampler with fewer clients than `minimum`.

    Example:
      >>> import fedjaxlite as fl, jax
      >>> def reverse(state, rows, key):
      ...     return rows._replace(values=jax.tree.map(lambda v: -v, rows.values)), state
      >>> largest = lambda state, rows, key: (jax.tree.map(lambda v: v.max(0), rows.values), state)
      >>> fl.chain(fl.mean(), restack(reverse, name="reverse"), fl.rule(largest, name="largest")).name
      'chain(mean, reverse, largest)'
    """
    name = _checked(fn, name, hparams, init, minimum)
    if metrics is not None:
        checks.is_function_of("state", metrics=metrics)

    def begin_run(wire: Wire) -> tuple[Any, Wire]:
        _enough(name, minimum, wire)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), wire.value)
        return () if init is None else init(zeros), _stacked(name, wire)

    def decode(state: Any, total: Stacked | Rows, key: Any) -> tuple[Rows, Any]:
        opened, before = opened_with_rows(state, total, key)
        rows, own = _pair(name, "(rows, state)", fn(opened.own, before, opened.key))
        if not isinstance(rows, Rows):
            raise TypeError(
                f"`{name}` returned {checks.shown(rows)} for its rows; expected fl.Rows. Use rows._replace."
            )
        _same(own, opened.own, what=f"the state that `{name}` returned", than="what its `init` gave", remedy=_KEEP)
        return with_left_out(rows, before), own

    def told(state: Any) -> Mapping[str, Any]:
        found = metrics(state) if metrics is not None else {}
        if not isinstance(found, Mapping):
            raise TypeError(f"`metrics` of `{name}` returned {checks.shown(found)}; expected a dict of scalars.")
        return found

    return Aggregator(
        init=begin_run,
        decode=decode,
        begin=open_rows,
        role="rows",
        name=name,
        hparams=dict(hparams or {}),
        metrics=told,
        public_seed=True,
    )


def _checked(fn: Any, name: Any, hparams: Any, init: Any, minimum: Any) -> str:
    """Refuses what makes no codec of rows; its name."""
    checks.is_function_of("state", "rows", "key", fn=fn)
    if init is not None:
        checks.is_function_of("update", init=init)
    if hparams is not None and not isinstance(hparams, Mapping):
        raise TypeError(f"`hparams` is {checks.shown(hparams)}; expected a dict of what to record, or None.")
    if not checks.is_traced(minimum):
        checks.nonnegative_int("It is a number of clients.", minimum=minimum)
    elif jnp.shape(minimum) != ():
        raise TypeError(f"`minimum` has shape {list(jnp.shape(minimum))}; expected one number of clients.")
    return checks.text("It is for messages and records.", name=name)


def _pair(name: str, expected: str, found: Any) -> tuple[Any, Any]:
    if not (isinstance(found, tuple) and len(found) == 2):
        raise TypeError(f"`fn` of `{name}` returned {checks.shown(found)}; expected a pair {expected}.")
    return found


def _same(found: PyTree, expected: PyTree, *, what: str, than: str, remedy: str) -> None:
    shapes = [jax.eval_shape(lambda tree=tree: tree) for tree in (found, expected)]
    checks.same_structure(*shapes, what=what, than=than, remedy=remedy)


def _stacked(name: str, wire: Wire) -> Wire:
    """The wire behind what needs every message apart."""
    needs_floats(name, wire)
    if len(jax.tree.leaves(wire.weight)) != 1:
        raise ValueError(
            f"`{name}` needs one weight per client, and this algorithm gives a tree of them. Use fl.mean() at the head "
            "of the chain, which counts every client as one."
        )
    if wire.denominator is not None:
        raise ValueError(
            f"`{name}` is not a sum, so mean(over={wire.denominator!r}) has nothing to divide. Use fl.mean(); noise "
            "on the sum, which asks for a fixed denominator, does not go with it."
        )
    return wire._replace(fold="stack")


def _equal_weights(name: str, wire: Wire) -> None:
    if wire.weight_cap != 1:
        given = "the sampler scales them" if wire.scaled else "fl.weighted_mean() sets others (or `stale_weights` does)"
        raise ValueError(
            f"`{name}` counts every client as one: it takes no weights, and {given}. Use fl.mean() at the head of the "
            "chain" + (", and a sampler that does not scale." if wire.scaled else ".")
        )


def _enough(name: str, minimum: Any, wire: Wire) -> None:
    if not checks.is_traced(minimum) and wire.capacity < minimum:
        raise ValueError(
            f"`{name}` needs at least {int(minimum)} clients in a round, and there are at most {wire.capacity}. Draw "
            "more, or let fewer of them be bad (a smaller f)."
        )


def _not_divided(value: PyTree, weight: jax.Array, scalars: Mapping[str, jax.Array]) -> Message:
    # The mean at the head divides by this weight; what comes out is the function's own value.
    anyone = jnp.where(weight > 0, weight, 1.0)
    return Message(jax.tree.map(lambda v: v * anyone.astype(v.dtype), value), weight, scalars)
