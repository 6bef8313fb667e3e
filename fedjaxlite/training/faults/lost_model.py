"""A model that is no longer finite: seen at once, with the round and the clients that did it.

A client whose own update is not finite never reaches the model. What does is a finite update that is too large for the
sum or for the server's step, and then every later round is lost: all clients begin with NaN.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks, processes
from fedjaxlite.data.population import Population
from fedjaxlite.execution import composition
from fedjaxlite.execution.cohort_pass import PassInfo
from fedjaxlite.execution.composition import Rounds
from fedjaxlite.execution.prepared.checking import streams
from fedjaxlite.execution.round_state import RoundState
from fedjaxlite.observers.records import Record, here
from fedjaxlite.protocol.algorithm import Algorithm, ClientOutput

LOG = logging.getLogger("fedjaxlite.training")
_SIZE = "largest_entry_of_the_update"
_MOST = 3


class Dispatch(NamedTuple):
    """Rounds after which a model is not finite.

    Attributes:
      rounds: what ran them.
      before: the state that they began with; its memory may have been taken over.
      population: what they trained on.
      records: theirs.
    """

    rounds: Rounds
    before: RoundState
    population: Population
    records: Sequence[Record]


def watch(rounds: Rounds, state: RoundState) -> Callable[[RoundState], list[str]]:
    """What tells whether a model is finite, at the cost of reading it once.

    Args:
      rounds: the composed run.
      state: the state that the run begins with. Parts of the model that are not finite there (a mask of minus infinity)
        are not looked at.

    Returns:
      `lost(state)`, the paths of the parts of its model that hold NaN or infinity.
    """

    @jax.jit
    def look(model: Any) -> tuple[jax.Array, list[jax.Array]]:
        each = [jnp.isfinite(leaf).all() for leaf in _floats(model).values()]
        return jnp.stack([jnp.bool_(True), *each]).all(), each

    def lost(state: RoundState) -> list[str]:
        model = rounds.params(state)
        fine, each = look(model)
        if bool(here(fine)):
            return []
        return [path for path, ok in zip(_floats(model), each, strict=True) if not bool(here(ok))]

    never = set(lost(state))
    if never:
        LOG.warning("the model holds NaN or infinity in %s from the beginning; nobody watches there", ", ".join(never))
    return lambda state: [path for path in lost(state) if path not in never]


def told(lost: Sequence[str], seen: Callable[[RoundState], list[str]], dispatch: Dispatch) -> str:
    """Says which round lost a model, and which clients did it.

    Rounds that ran in one dispatch are run once more, one by one, where their first state is still there: with what
    each client's update is at the largest. Under noise for privacy no guarantee covers what this names.

    Args:
      lost: the paths that are not finite.
      seen: what `watch` returned.
      dispatch: the rounds.
    """
    found = _again(seen, dispatch)
    if found is None:
        number, who = _by_records(dispatch.records), _left_out(dispatch.records)
    else:
        number, who = f"round {found[0]}", _by_size(found[1], dispatch.population.names)
    parts = ", ".join(lost[:_MOST]) + (f" and {len(lost) - _MOST} more" if len(lost) > _MOST else "")
    return (
        f"the model is not finite after {number}: NaN or infinity in {parts}{who}. Lower the server's or the clients' "
        "rate, or clip updates; stop_at_nan=False (--no-stop-at-nan) goes on all the same"
    )


def _floats(model: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(model)[0]
    return {checks.path_str(path): leaf for path, leaf in leaves if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)}


def _again(seen: Callable[[RoundState], list[str]], dispatch: Dispatch) -> tuple[int, PassInfo] | None:
    """The first round that lost the model, run once more with the sizes of updates; None where that cannot be."""
    state, rounds = dispatch.before, dispatch.rounds
    gone = any(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    if gone or processes.count() > 1 or streams(rounds.execution, dispatch.population):
        return None
    telling = composition.rounds(
        _telling(rounds.algorithm),
        sampler=rounds.sampler,
        aggregator=rounds.aggregator,
        execution=rounds.execution._replace(donate=False),
    )
    try:
        for record in dispatch.records:
            state, info = telling.step(state, dispatch.population)
            if seen(state):
                return record["round"], info
    except (ValueError, TypeError, RuntimeError):  # what is told of a failure must not be a failure of its own
        return None
    return None


def _telling(algorithm: Algorithm) -> Algorithm:
    """The algorithm, whose clients tell the largest entry of their update."""

    def client_update(shared: Any, client_state: Any, data: Any, key: Any) -> ClientOutput:
        output = algorithm.client_update(shared, client_state, data, key)
        entries = [jnp.abs(leaf).max() for leaf in jax.tree.leaves(output.update) if leaf.size]
        largest = jnp.stack([entry.astype(jnp.float32) for entry in entries]).max()
        return output._replace(info={**output.info, _SIZE: largest})

    return algorithm._replace(client_update=client_update)


def _by_size(info: PassInfo, names: np.ndarray | None) -> str:
    rows: Mapping[str, np.ndarray] = {name: np.asarray(here(rows)) for name, rows in info.clients.items()}
    name = lambda slot: str(rows["id"][slot] if names is None else names[rows["id"][slot]])  # noqa: E731
    bad = [name(slot) for slot in np.flatnonzero(rows["nonfinite"])]
    counted = np.flatnonzero(rows["in_sum"])
    largest = counted[np.argsort(-rows[_SIZE][counted], kind="stable")][:_MOST]
    sizes = [f"{name(slot)} ({rows[_SIZE][slot]:.3g})" for slot in largest]
    said = [f"the largest entries of updates in it were of clients {', '.join(sizes)}"] if sizes else []
    return "".join(f"; {text}" for text in [*said, *_not_finite(bad)])


def _by_records(records: Sequence[Record]) -> str:
    """The round after which no client was finite any more, as far as records tell."""
    first, last = records[0]["round"], records[-1]["round"]
    for record in reversed(records):
        if record["reported"] and record["nonfinite"] < record["reported"]:
            break
        last = record["round"] - bool(record["reported"])
    last = max(first, last)
    return f"round {last}" if last == first else f"rounds {first} to {last}"


def _left_out(records: Sequence[Record]) -> str:
    seen = dict.fromkeys(str(name) for record in records for name in record.get("nonfinite_clients", ()))
    return "".join(f"; {text}" for text in _not_finite(list(seen)))


def _not_finite(bad: Sequence[str]) -> list[str]:
    more = f" and {len(bad) - 20} more" if len(bad) > 20 else ""
    return (
        [f"updates that were not finite, and were left out, were of clients {', '.join(bad[:20])}{more}"] if bad else []
    )
