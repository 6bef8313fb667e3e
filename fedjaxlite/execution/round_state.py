"""What a run carries from round to round."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from fedjaxlite.execution.halves.client_half import ClientState
from fedjaxlite.execution.ledger import Ledger

PyTree = Any


class Keys(NamedTuple):
    """Independent random streams of a run. The round number is folded in where they are used.

    Attributes:
      sample: who takes part. Under a mechanism of privacy it follows from the noise key unless it was given.
      client: what clients draw: shuffles, dropout, stochastic rounding.
      server: what the server draws.
      noise: what privacy mechanisms draw on the server. It comes from the operating system unless given, and is part
        of the state: whoever holds a checkpoint can subtract the noise.
      secret: bool scalar, whether the noise key came from the operating system; else the run can be reproduced, and
        whoever knows the key can subtract the noise.
      secret_cohorts: bool scalar, whether the sampling key did; else whoever knows it can draw the cohorts again, and
        amplification by sampling is worth nothing against them.
    """

    sample: jax.Array
    client: jax.Array
    server: jax.Array
    noise: jax.Array
    secret: jax.Array
    secret_cohorts: jax.Array


@jax.tree_util.register_static
@dataclass(frozen=True, eq=False)
class Elsewhere:
    """Where a run keeps its clients' states outside of the devices; a pytree without leaves.

    Attributes:
      read: `read(round, ids) -> ClientState` of NumPy's arrays `[n, ...]`, as they are after so many rounds; ValueError
        where they have gone on since.
      where: "host", or the folder.
      reopen: what the next run goes on with.
    """

    read: Callable[[int, Any], Any]
    where: str
    reopen: Any


class RoundState(NamedTuple):
    """Everything that a run carries from round to round; a pytree, and all that a checkpoint needs.

    Attributes:
      round: int32 scalar, rounds done.
      server_state: the algorithm's.
      aggregator_state: the codecs'.
      keys: the run's random streams; they never change.
      clients: what the clients keep, with a leading axis of clients on every leaf; of the cohort trained last where
        they are kept elsewhere (`Execution(client_states=...)`).
      ledger: which compositions made the rounds, with the noise of each; static, and without leaves.
      elsewhere: where clients' states are kept that devices do not hold, once `fl.train` did a round; likewise.
      sampler: what a sampler with a memory carries: a clock, clients at work, what it learned.
      versions: the models that clients at work began from, with a leading axis of versions on every leaf.
    """

    round: jax.Array
    server_state: Any
    aggregator_state: Any
    keys: Keys
    clients: ClientState
    ledger: Ledger = Ledger()
    elsewhere: Elsewhere | None = None
    sampler: Any = ()
    versions: Any = ()

    @property
    def params(self) -> PyTree:
        """The model, where the server state has a field of that name; else use `rounds.params(state)`."""
        return self.server_state.params
