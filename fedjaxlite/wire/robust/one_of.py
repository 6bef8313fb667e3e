"""One of several rules, by a number that may be traced: an axis of a grid of rules in one program."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Aggregator, Message, Wire
from fedjaxlite.wire.robust.tail import Tail, as_tail, init_tail, run_tail
from fedjaxlite.wire.rows import open_rows, opened_with_rows

PyTree = Any


class OneOfState(NamedTuple):
    """The state of one of several codecs.

    Attributes:
      states: the states of all of them; only those of the chosen one change.
      which: int32, the chosen one in the last round.
    """

    states: tuple[Any, ...]
    which: jax.Array


def one_of(rules: Sequence[Aggregator | Sequence[Aggregator]], which: Any) -> Aggregator:
    """The rule with this number, for grids whose rules are an axis of one program.

    Where `which` is traced, the program has a branch for each rule, and runs one: in runs that follow one another
    (`fl.sweep` on a CPU), or with one number for all runs that are vmapped. Under a vmap over `which` all rules would
    be computed in every round.

    Args:
      rules: at least one; each a rule, or a sequence that ends with one: `[fl.robust.nnm(f=1), fl.robust.median()]`.
      which: the place of the chosen one, an int or an int32 tracer; one out of range is the nearest.

    Returns:
      an Aggregator that ends a chain. It keeps the states of all rules, and computes what the chosen one would in its
      place, to the last bit; a sequence's codecs that draw at random draw others than in the chain itself, but for the
      first.

    Raises:
      TypeError, ValueError: for what are no rules, or a plain number out of range; when built, whatever one of the
        rules refuses.

    Example:
      >>> import fedjaxlite as fl, jax, jax.numpy as jnp
      >>> first = fl.rule(lambda state, rows, key: (jax.tree.map(lambda v: v[0], rows.values), state), name="first")
      >>> x = jnp.float32([[1, 2], [3, 6]])
      >>> fl.robust.apply(one_of([fl.robust.mean(), first], 1), x).tolist()
      [1.0, 2.0]
    """
    options = [as_tail(given, f"rules[{i}]") for i, given in enumerate(_several("rules", rules))]

    def outcome(state: Any, message: Message) -> tuple[Any, Any]:
        return state, message

    return switch(options, which, outcome, name="one_of", role="stack")


def switch(
    options: Sequence[Tail], which: Any, outcome: Callable[[Any, Any], tuple[Any, Any]], *, name: str, role: str
) -> Aggregator:
    """One of several rows of codecs that work on all messages.

    Args:
      options: the rows.
      which: the place of the chosen one.
      outcome: `outcome(states, result) -> (states, arrays)`, what a branch hands out: the same shapes for all.
      name: for messages and records.
      role: "stack" for rules, "rows" for what stands before them.
    """
    chosen = _place(which, len(options))

    def begin_run(wire: Wire) -> tuple[OneOfState, Wire]:
        states, behind = [], wire
        for row in options:
            own, behind = init_tail(row, wire)
            states.append(own)
        return OneOfState(tuple(states), jnp.asarray(chosen, jnp.int32)), behind

    def decode(state: Any, total: Any, key: Any) -> tuple[Any, OneOfState]:
        opened, rows = opened_with_rows(state, total, key)
        states = opened.own.states

        def branch(i: int) -> Callable[[], Any]:
            def run() -> Any:
                result, new = run_tail(options[i], states[i], rows, opened.key)
                new, arrays = outcome(new, result)
                return (*states[:i], new, *states[i + 1 :]), arrays

            return run

        new, arrays = jax.lax.switch(chosen, [branch(i) for i in range(len(options))])
        result = arrays if role == "stack" else rows._replace(**arrays)
        return result, OneOfState(new, jnp.asarray(chosen, jnp.int32))

    hparams = {"which": which, **{f"{i}": {c.name: dict(c.hparams) for c in row} for i, row in enumerate(options)}}
    return Aggregator(
        init=begin_run,
        decode=decode,
        begin=open_rows,
        role=role,
        name=name,
        hparams=hparams,
        metrics=lambda state: _told(options, state),
        public_seed=True,
    )


def _told(options: Sequence[Tail], state: OneOfState) -> dict[str, Any]:
    """What the chosen one tells, where all tell of it; else zero for those that do not."""
    found: dict[str, list[Any]] = {}
    for i, (row, states) in enumerate(zip(options, state.states, strict=True)):
        for codec, own in zip(row, states, strict=True):
            for name, value in codec.metrics(own).items():
                value = jnp.asarray(value)
                found.setdefault(name, []).append(jnp.where(state.which == i, value, jnp.zeros_like(value)))
    return {name: sum(values[1:], values[0]) for name, values in found.items()}


def _place(which: Any, count: int) -> Any:
    if checks.is_traced(which):
        if jnp.shape(which) != () or not jnp.issubdtype(which.dtype, jnp.integer):
            raise TypeError(f"`which` is {which}; expected one int32.")
        return jnp.asarray(which, jnp.int32)
    which = checks.nonnegative_int(which=which)
    if which >= count:
        raise ValueError(f"`which` is {which}; expected 0 to {count - 1}, the place of one of them.")
    return jnp.int32(which)


def _several(name: str, given: Any) -> Sequence[Any]:
    if isinstance(given, Aggregator) or not isinstance(given, Sequence) or not given:
        raise TypeError(f"`{name}` is {checks.shown(given)}; expected a list of at least one.")
    return given
