"""The states of some clients, wherever a run keeps them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite.execution.halves.client_half import ClientState
from fedjaxlite.execution.layout import Execution
from fedjaxlite.execution.round_state import RoundState
from fedjaxlite.keys import is_random_key

MOST_BYTES = 1 << 33
"""Of states that are kept elsewhere and asked for all at once."""


def rows_of(execution: Execution, state: RoundState, ids: Any) -> ClientState:
    """What some clients keep after the rounds that a state has done.

    Args:
      execution: of the rounds.
      state: outside of jit.
      ids: ints `[n]`.

    Returns:
      a ClientState with a leading axis `[n]` on every leaf.

    Raises:
      ValueError: the state does not say where they are kept, or they have gone on since.
    """
    if not execution.states_elsewhere or not jax.tree.leaves(state.clients):
        return jax.tree.map(lambda leaf: leaf[jnp.asarray(ids)], state.clients)
    done = int(state.round.addressable_data(0))
    if state.elsewhere is None:
        if done:
            raise ValueError(
                f"`state` has done {done} rounds and does not say where its clients' states are (client_states="
                f"{execution.client_states!r}): take the state that fl.train returned or told its observers."
            )
        first = jax.tree.map(lambda leaf: leaf.addressable_data(0)[:1], state.clients)
        return jax.tree.map(lambda leaf: leaf[np.zeros(len(ids), np.int32)], first)
    rows = state.elsewhere.read(done, ids)
    return jax.tree.map(_like, rows, state.clients)


def with_all(execution: Execution, state: RoundState, num_clients: int) -> RoundState:
    """A state that holds what all clients keep, for what looks at all of them at once; as it is where devices do.

    Raises:
      ValueError: they take more than `MOST_BYTES`.
    """
    if not execution.states_elsewhere or not jax.tree.leaves(state.clients):
        return state
    row = sum(leaf.nbytes // max(leaf.shape[0], 1) for leaf in jax.tree.leaves(state.clients))
    if row * num_clients > MOST_BYTES:
        raise ValueError(
            f"what {num_clients} clients keep takes {row * num_clients / 1e9:.3g} GB, and all of it is asked for. "
            "Look at some of them: rounds.client_params(state, client) gives one client's model."
        )
    return state._replace(clients=rows_of(execution, state, np.arange(num_clients)), elsewhere=None)


def _like(row: np.ndarray, leaf: Any) -> Any:
    # Plain arrays stay on the host: whoever asks for many puts them where they are used.
    return jax.random.wrap_key_data(jnp.asarray(row), impl=jax.random.key_impl(leaf)) if is_random_key(leaf) else row
