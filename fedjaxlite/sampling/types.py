"""The types of participation: who is in a cohort, who draws it, and what an accountant may assume of the draw.

N clients in the population, C slots in a cohort (the sampler's capacity; static, so that rounds never recompile).
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks

Kind = Literal["without_replacement", "poisson", "cyclic", "weighted", "availability", "replay", "full"]


class Cohort(NamedTuple):
    """The clients of one round, in C slots of which some may be spare.

    Attributes:
      ids: int32 `[C]`. The selected ids are distinct and in `[0, N)`. A spare slot holds 0, which is safe to gather
        with; to scatter, first replace the ids of spare slots with N and use `mode="drop"`.
      selected: bool `[C]`; False marks a spare slot.
      reported: bool `[C]`, never True where `selected` is False. Selected without having reported is a client that
        downloaded the model and was never heard of again.
      work: float32 `[C]` in (0, 1], the share of its local steps that a client gets to do; 1 in spare slots.
      scale: float32 `[C]`, multiplies the client's weight in the aggregate (importance sampling); 1 in spare slots.
      overflow: int32 `[]`, how many sampled clients found no slot. Always 0 unless `Sampler.may_overflow`.
      late: bool `[C]`, clients that sent a message after the round was closed: bytes that were sent for nothing. None
        where nobody can be late.
      version: int32 `[C]`, which of the models that the run keeps each client trained from; None for the newest.
      discount: float32 `[C]` in [0, 1], multiplies the client's update and not its weight, once it has arrived (what
        staleness takes off); None for 1.
      age: int32 `[C]`, the server's steps since the client's download, its own not counted, for what stands before a
        rule (`fl.Rows.ages`); None where the sampler tells none.
    """

    ids: Any
    selected: Any
    reported: Any
    work: Any
    scale: Any
    overflow: Any
    late: Any = None
    version: Any = None
    discount: Any = None
    age: Any = None


class Accounting(NamedTuple):
    """What a privacy accountant may assume of a sampler.

    Attributes:
      kind: how the cohort comes about; see the sampler of that name.
      cohort_size: int, the size that the sampler aims at; None where the size is random by design (`poisson`).
      rate: float, the chance of each client in each round, independently of all others (`poisson`); else None.
      min_separation: int, two rounds of one client are at least this far apart; 1 promises nothing.
      max_participations: int, the rounds of one client in a whole run, where the sampler knows; else None.
      amplification: whether a theorem of privacy amplification by sampling holds for this draw: of the whole
        population by `rate` ("poisson", add-or-remove neighbors) or by cohort_size / N ("without_replacement",
        replace-one neighbors). Where False, a client counts as present in every round that it may be in.
      note: what else a reader of the privacy report has to know, in words.

    Example:
      >>> Accounting("cyclic", cohort_size=10, min_separation=20).participations(num_rounds=50)
      3
    """

    kind: Kind
    cohort_size: int | None = None
    rate: float | None = None
    min_separation: int = 1
    max_participations: int | None = None
    amplification: bool = False
    note: str = ""

    def participations(self, num_rounds: int) -> int:
        """The most rounds that one client can be in, out of `num_rounds`."""
        most = -(-num_rounds // self.min_separation)
        return most if self.max_participations is None else min(most, self.max_participations)

    def expected_size(self, num_clients: int) -> float:
        """The number of clients a round aims at, before dropout; a fixed denominator should equal it."""
        if self.cohort_size is not None:
            return float(self.cohort_size)
        return (1.0 if self.rate is None else self.rate) * num_clients

    def noting(self, remark: str, **changes: Any) -> "Accounting":
        """A copy with a remark added to the note, and other fields changed."""
        return self._replace(note=f"{self.note} {remark}".strip(), **changes)


def _no_check(num_clients: int) -> None:
    del num_clients


class Setting(NamedTuple):
    """What a sampler with a memory is told when a run begins.

    Attributes:
      num_clients: N.
      num_examples: int32 `[N]`, of each client.
      bytes_up: int, of one client's message.
      bytes_down: int, of what one client downloads.
      steps: `steps(num_examples, work) -> int32`, the local steps of clients, elementwise on arrays; None where the
        algorithm's hyperparameters do not tell.
      model_bytes: int, of the model.
    """

    num_clients: int
    num_examples: Any
    bytes_up: int
    bytes_down: int
    steps: Callable[[Any, Any], Any] | None
    model_bytes: int


class Seen(NamedTuple):
    """What a server saw of a round, for a sampler that learns from it.

    Attributes:
      cohort: who took part.
      in_sum: bool `[C]`, whose messages counted.
      num_examples: int32 `[C]`.
      metrics: dict of float32 `[C]`, those of `Memory.reads`, which clients send in the clear beside their messages.
      seconds: float32 `[C]`, how long each client took from its download to its message, for a memory with `times`,
        from the clock around it; else None.
    """

    cohort: Cohort
    in_sum: Any
    num_examples: Any
    metrics: Mapping[str, Any]
    seconds: Any = None


def _learn_nothing(state: Any, seen: Seen) -> Any:
    del seen
    return state


def _first_place(state: Any) -> Any:
    del state
    return jnp.int32(0)


class Memory(NamedTuple):
    """The half of a sampler that goes on from round to round: a clock, or what it learned of clients.

    Attributes:
      init: `init(setting) -> state`, a pytree of arrays, part of the run's state.
      sample: `sample(state, key, round_number, population) -> (Cohort, state)`, in place of `Sampler.sample`; the same
        rules hold.
      learn: `learn(state, seen) -> state`, after the round; see `Seen`.
      tell: `tell(state) -> {name: scalar}`, what it says of the round in `PassInfo.sampler` and in records. A `Seconds`
        is told as one number of seconds.
      reads: which of the clients' metrics `learn` gets, such as ("loss",). They leave the clients in the clear: they
        are refused beside noise or masks, and count as 4 bytes each on the way up.
      versions: D, how many models the run keeps for clients that are still at work. With more than one,
        `Cohort.version` says which one each client trained from.
      place: `place(state) -> int32`, where among the versions the model goes that this round makes.
      discounts: whether `Cohort.discount` may ever differ from 1.
      mixes: whether the server mixes models instead of adding updates: a client's model is compared with the newest,
        not with the one that it began from.
      clock: whether it keeps the time of the run, so that no other clock may go around it.
      times: whether `learn` asks for `Seen.seconds`, which `fl.systems.timed` around it tells.
    """

    init: Callable[[Setting], Any]
    sample: Callable[[Any, Any, Any, Any], tuple[Cohort, Any]]
    learn: Callable[[Any, Seen], Any] = _learn_nothing
    tell: Callable[[Any], Mapping[str, Any]] = lambda state: {}
    reads: tuple[str, ...] = ()
    versions: int = 1
    place: Callable[[Any], Any] = _first_place
    discounts: bool = False
    mixes: bool = False
    clock: bool = False
    times: bool = False


class Seconds(NamedTuple):
    """A time on the virtual clock, exact to 1e-7 s for 68 years.

    Attributes:
      whole: int32, whole seconds.
      part: float32 in [0, 1), the rest.
    """

    whole: Any
    part: Any

    def after(self, seconds: Any) -> "Seconds":
        """The time `seconds` (float32, at least 0) later."""
        # Whole seconds are added apart, so that a long time takes no digit from the rest.
        long = jnp.floor(seconds)
        part = self.part + (seconds - long)
        over = jnp.floor(part)
        return Seconds(self.whole + (long + over).astype(jnp.int32), part - over)


class Sampler(NamedTuple):
    """Who takes part: a pure function from a key and a round number to a cohort.

    Attributes:
      sample: `sample(key, round_number, population) -> Cohort`, called by position. `key` is the run's sampling key,
        the *same in every round*; the sampler folds `round_number` (int or traced int32, from 0) into it where it
        wants fresh randomness. The number of clients is static (`population.num_clients`). Runs under `jit`, `scan`
        and `vmap`, without host callbacks.
      capacity: C, the number of slots of every cohort.
      accounting: what a privacy accountant may assume.
      name: for records and messages.
      may_overflow: whether `Cohort.overflow` may ever be above 0.
      scaled: whether `Cohort.scale` may ever differ from 1; a fixed sensitivity has to know.
      check: `check(num_clients)` raises where the sampler cannot serve a population of that size; called once, when
        the rounds are built.
      num_rounds: how many rounds the sampler can serve, or None for any number (`replay`).
      memory: what goes on from round to round; None for a sampler that is a function of key and round alone. With one,
        `sample` gives the first cohort's shapes, and rounds call `memory.sample`.

    Example:
      A sampler of one's own, which takes the same two clients in every round:

      >>> pair = lambda key, round_number, population: cohort(jnp.array([3, 5]), jnp.array([True, True]))
      >>> sampler = Sampler(pair, capacity=2, accounting=Accounting("replay", cohort_size=2), name="pair")
      >>> sampler.sample(None, 0, None).ids.tolist()
      [3, 5]
    """

    sample: Callable[[Any, Any, Any], Cohort]
    capacity: int
    accounting: Accounting
    name: str = "sampler"
    may_overflow: bool = False
    scaled: bool = False
    check: Callable[[int], None] = _no_check
    num_rounds: int | None = None
    memory: Memory | None = None


def around(sampler: Sampler, change: Callable[[Cohort, Any, Any, Any], Cohort]) -> Sampler:
    """A sampler whose cohorts are changed: `change(cohort, key, round_number, population) -> Cohort`."""

    def sample(key: Any, round_number: Any, population: Any) -> Cohort:
        return change(sampler.sample(key, round_number, population), key, round_number, population)

    memory = sampler.memory
    if memory is None:
        return sampler._replace(sample=sample)

    def with_state(state: Any, key: Any, round_number: Any, population: Any) -> tuple[Cohort, Any]:
        cohort, state = memory.sample(state, key, round_number, population)
        return change(cohort, key, round_number, population), state

    return sampler._replace(sample=sample, memory=memory._replace(sample=with_state))


def cohort(ids: Any, selected: Any, *, scale: Any = None, overflow: Any = 0) -> Cohort:
    """A cohort in which whoever is selected reports and does all of its work.

    Args:
      ids: integers `[C]`; what spare slots hold does not matter.
      selected: bool `[C]`.
      scale: float32 `[C]` or None for 1.
      overflow: int32 `[]`, sampled clients that found no slot.

    Returns:
      The Cohort, with spare slots in their documented form.

    Example:
      >>> cohort(jnp.array([7, 9, 4]), jnp.array([True, False, True])).ids.tolist()
      [7, 0, 4]
    """
    ids, selected, overflow = (
        _array(name, value, kind, expected)
        for name, value, kind, expected in (
            ("ids", ids, jnp.integer, "integers [C]"),
            ("selected", selected, jnp.bool_, "bool [C]"),
            ("overflow", overflow, jnp.integer, "an int32"),
        )
    )
    for name, value in {"ids": ids, "selected": selected}.items():
        if value.ndim != 1 or value.shape != ids.shape:
            raise ValueError(
                f"`{name}` has shape {list(value.shape)}, and `ids` {list(ids.shape)}; expected [C] in both."
            )
    if overflow.shape != ():
        raise ValueError(f"`overflow` has shape {list(overflow.shape)}; expected one int32.")
    if scale is not None:
        scale = _array("scale", scale, jnp.floating, "float32 [C]").astype(jnp.float32)
        if scale.shape != ids.shape:
            raise ValueError(
                f"`scale` has shape {list(scale.shape)}, and `ids` {list(ids.shape)}; expected [C] in both."
            )
    ones = jnp.ones(jnp.shape(ids), jnp.float32)
    return Cohort(
        ids=jnp.where(selected, ids, 0).astype(jnp.int32),
        selected=selected,
        reported=selected,
        work=ones,
        scale=ones if scale is None else jnp.where(selected, scale, ones),
        overflow=jnp.asarray(overflow, jnp.int32),
    )


def _array(name: str, value: Any, kind: Any, expected: str) -> Any:
    """JAX's array of a value of that kind of dtype, values within int32."""
    if not checks.is_traced(value):
        value = checks.as_array(name, value, expected)
        if np.issubdtype(value.dtype, np.integer) and value.size and int(np.abs(value).max()) > checks.LARGEST_INT:
            raise ValueError(f"`{name}` holds {np.abs(value).max()}; expected {expected} within int32.")
    if not jnp.issubdtype(value.dtype, kind):
        raise TypeError(f"`{name}` has dtype {value.dtype}; expected {expected}.")
    with np.errstate(over="ignore"):
        return jnp.asarray(value.astype(np.float32) if value.dtype == np.float64 else value)
