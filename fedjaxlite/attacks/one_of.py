"""One of several attacks, by a number that may be traced: an axis of a grid of attacks in one program."""

from collections.abc import Sequence
from typing import Any

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Aggregator
from fedjaxlite.wire.robust.one_of import switch
from fedjaxlite.wire.rows import Rows


def one_of(attacks: Sequence[Aggregator], which: Any) -> Aggregator:
    """The attack with this number, for grids whose attacks are an axis of one program.

    Where `which` is traced, the program has a branch for each attack, and runs one: in runs that follow one another
    (`fl.sweep` on a CPU), or with one number for all runs that are vmapped. Under a vmap over `which` all attacks would
    be computed in every round.

    Args:
      attacks: at least one attack of those that see all messages, or any `fl.restack`. No attack at all is one that is
        made for nobody: `fl.attacks.ipm([])`.
      which: the place of the chosen one, an int or an int32 tracer; a traced one out of range is the nearest.

    Returns:
      an Aggregator that stands before a rule. It keeps the states of all attacks, and does what the chosen one would in
      its place, to the last bit.

    Raises:
      TypeError, ValueError: for what are no attacks, or a plain number out of range; when built, whatever one of the
        attacks refuses; for one that changes how many messages there are.

    Example:
      >>> import fedjaxlite as fl, jax, jax.numpy as jnp
      >>> def reverse(state, rows, key):
      ...     return rows._replace(values=jax.tree.map(lambda v: -v, rows.values)), state
      >>> same = fl.restack(lambda state, rows, key: (rows, state), name="same")
      >>> attack = one_of([same, fl.restack(reverse, name="reverse")], 1)
      >>> fl.robust.apply([attack, fl.robust.mean()], jnp.float32([[1, 2], [3, 6]])).tolist()
      [-2.0, -4.0]
    """
    if isinstance(attacks, Aggregator) or not isinstance(attacks, Sequence) or not attacks:
        raise TypeError(f"`attacks` is {checks.shown(attacks)}; expected a list of at least one.")
    kind = "an attack that sees all messages, such as fl.attacks.alie(bad)"
    checks.one_instance(Aggregator, kind, **{f"attacks[{i}]": attack for i, attack in enumerate(attacks)})
    for i, attack in enumerate(attacks):
        if attack.role != "rows":
            raise ValueError(f"`attacks[{i}]` is {attack.name}; expected {kind}.")
    return switch([(attack,) for attack in attacks], which, _arrays, name="one_of", role="rows")


def _arrays(states: Any, rows: Rows) -> tuple[Any, dict[str, Any]]:
    """Rows without how they lie on devices, which no attack changes."""
    fields = {name: value for name, value in rows._asdict().items() if name != "shares"}
    return states, fields
