"""What a deployed server is made of, what it knows between two messages, and what it asks its caller to do.

waiting ──enough have checked in──▶ open ──K reported, or nobody is left, or the deadline──▶ closed: a step
   ▲                                 │  too few: the round's next attempt                       │
   ├─────────────────────────────────┘                                                          │
   └──────────── evaluating (where it is its turn) ◀────────────────────────────────────────────┤
                                                     the last round: finished ◀─────────────────┘
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from fedjaxlite.deploy.device.protocol import Message
from fedjaxlite.deploy.program.template import Template
from fedjaxlite.deploy.server.halves import Halves
from fedjaxlite.deploy.server.settings import Numbers, ServerSettings
from fedjaxlite.deploy.server.tables import Table
from fedjaxlite.execution.bytes_sent import Traffic
from fedjaxlite.execution.composition import Rounds
from fedjaxlite.execution.round_state import RoundState

PyTree = Any
Phase = Literal["waiting", "open", "evaluating", "finished"]


class Payload(NamedTuple):
    """Bytes that clients fetch in pieces.

    Attributes:
      sha256: of the whole, hex.
      size: of the whole.
      pieces: ("raw" or "zlib", bytes) of each CHUNK of it.
    """

    sha256: str
    size: int
    pieces: tuple[tuple[str, bytes], ...]


class ServerHalf(NamedTuple):
    """A server of rounds: constants and pure functions. `fl.deploy.Server(...)` makes it.

    Attributes:
      rounds: what was composed, with the sampler that an accountant has to see: of those that have checked in.
      template: what both sides agree on.
      halves: a round's functions of arrays.
      numbers: the settings.
      num_rounds: rounds until it is finished.
      program: what clients run; empty where they have it.
      metrics: names of what clients evaluate; None where nothing is said of them.
      first: the run's state before its first round.
      traffic: bytes of arrays of a client in a round.
      specs: shapes and dtypes of an update's arrays, as a manifest lists them.
      upload_bytes: of an update.
      secure: `secagg.Parameters` of a masked run.
      known: {client: Ed25519 public key}, where a masked run's server may lie.
      read: `read(path) -> bytes`, what effects have put there.
    """

    rounds: Rounds
    template: Template
    halves: Halves
    numbers: Numbers
    num_rounds: int
    program: Payload
    metrics: tuple[str, ...] | None
    first: RoundState
    traffic: Traffic
    specs: tuple[Mapping[str, Any], ...]
    upload_bytes: int
    secure: Any
    known: Mapping[int, bytes] | None
    read: Callable[[str], bytes]

    @property
    def settings(self) -> ServerSettings:
        """What it was given."""
        return self.numbers.settings


class Presence(NamedTuple):
    """An eligible client that waits: when it asked last, and its examples."""

    seen: float
    num_examples: int


class Counted(NamedTuple):
    """The last update of a client that is in a sum; `sha256` is empty where it was masked."""

    round: int
    attempt: int
    sha256: str


class Partial(NamedTuple):
    """An upload that is not whole: its hash, and how many bytes lie at its path."""

    sha256: str
    size: int


class OpenRound(NamedTuple):
    """A round that has begun.

    Attributes:
      began: seconds.
      deadline: seconds.
      selected: who may take part.
      examples: of each, as it said when it checked in.
      told: who got the task.
      taken: {client: sha256} of those in the total, in the order of arrival: the n-th has row n.
      out: {client: reason} of those who cannot go on.
      partial: {client: Partial}.
      nonfinite: how many sent what is no number.
      total: what was summed so far; of a masked round the sum, once it is open.
      model: what they download.
      key: uint32 `[2]`: `halves.key_of`.
      secure: a masked round's `Sum`.
    """

    began: float
    deadline: float
    selected: tuple[int, ...]
    examples: Mapping[int, int]
    model: Payload
    key: Any
    total: PyTree
    told: frozenset[int] = frozenset()
    taken: Mapping[int, str] = {}
    out: Mapping[int, str] = {}
    partial: Mapping[int, Partial] = {}
    nonfinite: int = 0
    secure: Any = None

    @property
    def num_pending(self) -> int:
        """How many may still report: who is taken or out was selected, and nobody is both."""
        return len(self.selected) - len(self.taken) - len(self.out)

    def awaits(self, client: int) -> bool:
        """Whether a client may still report."""
        return client not in self.taken and client not in self.out and client in self.selected


class Evaluation(NamedTuple):
    """An evaluation on clients, of the model after `state.number` rounds.

    Attributes:
      deadline: seconds.
      model: what they download.
      asked: who got the task.
      found: {client: (metrics, num_examples)}.
      out: who does not do it.
    """

    deadline: float
    model: Payload
    asked: frozenset[int] = frozenset()
    found: Mapping[int, tuple[Mapping[str, float], int]] = {}
    out: frozenset[int] = frozenset()


class ServerState(NamedTuple):
    """What a server knows; never changed, only followed by another one.

    Attributes:
      rounds: the run's `RoundState`, as in simulation but for what clients keep.
      number: rounds done, and the number of the one at hand.
      attempt: of the round at hand.
      phase: whose turn it is.
      presence: `Presence` of those who wait.
      counted: `Counted` of those who ever were in a sum.
      open: the round at hand, once it has begun.
      evaluation: while one goes on.
      record: of the round before, which waits for its evaluation.
    """

    rounds: RoundState
    number: int = 0
    attempt: int = 0
    phase: Phase = "waiting"
    presence: Table = Table()
    counted: Table = Table()
    open: OpenRound | None = None
    evaluation: Evaluation | None = None
    record: Mapping[str, Any] | None = None


class Keep(NamedTuple):
    """To be on the disk, whole, before the reply is sent."""

    path: str
    data: bytes


class Extend(NamedTuple):
    """A file goes on with `data` from `offset` on; what stood there is gone. It may be lost in a crash."""

    path: str
    offset: int
    data: bytes


class Drop(NamedTuple):
    """A file or folder is not needed any longer."""

    path: str


class Checkpoint(NamedTuple):
    """A state to be kept, whole or not at all: that after a round."""

    state: ServerState


class Record(NamedTuple):
    """A line of the records."""

    record: Mapping[str, Any]


Effect = Keep | Extend | Drop | Checkpoint | Record
Effects = tuple[Effect, ...]
Answer = tuple[ServerState, Message, Effects]
Step = tuple[ServerState, Effects]


def opened(state: ServerState) -> OpenRound:
    """The round at hand, which has begun."""
    if state.open is None:
        raise ValueError("no round has begun; expected a state with an open round.")
    return state.open
