"""What is done to batches as they are drawn: one change after the other, and what they may return."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

Change = Callable[[dict[str, jax.Array], jax.Array, jax.Array], Mapping[str, Any]]  # (batch, examples, key) -> batch
_BEFORE = 0xBEF0
"""Folded into the key of a change for the one before it."""


def one_after_the_other(before: Change | None, change: Change) -> Change:
    """A change that is what `change` makes of what `before` makes of a batch, held to the batch's names and rows."""

    def both(batch: dict[str, jax.Array], examples: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        first = batch if before is None else before(batch, examples, jax.random.fold_in(key, _BEFORE))
        return checked(change(dict(first), examples, key), batch)

    return both


def checked(found: Any, given: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The batch that a change returned, in the order of the one it was given.

    Raises:
      TypeError: for what is no dict of the same names. ValueError: for another number of rows.
    """
    if not isinstance(found, Mapping) or set(found) != set(given):
        shown = f"a dict of {sorted(found)}" if isinstance(found, Mapping) else f"a {type(found).__name__}"
        raise TypeError(f"the batch that `change` returned is {shown}; expected a dict of {sorted(given)}, as given.")
    for name, like in given.items():
        if jnp.shape(found[name])[:1] != like.shape[:1]:
            raise ValueError(
                f"the batch that `change` returned has the shape {list(jnp.shape(found[name]))} at {name!r}; expected "
                f"{like.shape[0]} rows, as given."
            )
    return {name: jnp.asarray(found[name]) for name in given}
