"""The tail of a chain, a rule and what stands before it, run inside of a codec: a choice, an attack, a measure."""

from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Aggregator, Message, Wire
from fedjaxlite.wire.rows import Known, Rows

PyTree = Any
Tail = tuple[Aggregator, ...]


def as_tail(rule: Any, where: str = "rule") -> Tail:
    """A rule, or a list of codecs of rows that ends with one, as a tuple; `where` names the argument."""
    single = isinstance(rule, Aggregator) or not isinstance(rule, list | tuple)
    given: tuple[Any, ...] = (rule,) if single else tuple(rule)
    kind = "a rule of fl.robust, or a list that ends with one"
    checks.one_instance(
        Aggregator, kind, **{f"{where}[{i}]" if len(given) > 1 else where: c for i, c in enumerate(given)}
    )
    roles = [codec.role for codec in given]
    if not roles or roles[-1] != "stack" or set(roles[:-1]) - {"rows"}:
        shown = ", ".join(codec.name for codec in given) or "empty"
        raise ValueError(
            f"`{where}` is {shown}; expected a rule that sees every message apart, such as fl.robust.median(), and "
            "before it, in a list, only what changes all messages (fl.restack)."
        )
    return given


def init_tail(tail: Tail, wire: Wire) -> tuple[tuple[Any, ...], Wire]:
    """The states of a tail."""
    states = []
    for codec in tail:
        state, wire = codec.init(wire)
        states.append(state)
    return tuple(states), wire


def run_tail(tail: Tail, states: Any, rows: Rows, key: Any) -> tuple[Any, tuple[Any, ...]]:
    """What a tail makes of rows in a round, as its last codec hands it on, and its new states.

    The first codec gets the key itself: a rule alone draws what it draws in a chain.
    """
    total: Any = rows
    new = []
    for i, (codec, state) in enumerate(zip(tail, states, strict=True)):
        own = key if i == 0 else jax.random.fold_in(key, i)
        begun = codec.begin(state, Known(rows.ids, rows.ids >= 0, rows.ages), own)
        total, state = codec.decode(begun, total, own)
        new.append(state)
    return total, tuple(new)


def value_of(message: Message, rows: Rows) -> PyTree:
    """This device's entries of the value that a rule handed on, which the mean at the head divides by its weight."""
    weight = jnp.where(message.weight > 0, message.weight, 1.0)
    return rows.shares.mine(jax.tree.map(lambda v: v / weight.astype(v.dtype), message.value))


def told_of_tail(tail: Tail) -> dict[str, Any]:
    """A tail's names and hyperparameters, for the record of a run."""
    return {codec.name: dict(codec.hparams) for codec in tail}
