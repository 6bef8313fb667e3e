"""Oort: clients with much loss that tell it soon, and some that nobody knows yet."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.sampling import draws
from fedjaxlite.sampling.systems import check_latency
from fedjaxlite.sampling.types import Accounting, Cohort, Memory, Sampler, Seen, Setting, cohort
from fedjaxlite.sampling.utility import choosing, scores

CLOCK = "clock"
"""Of `latency`: seconds are those of the clock around."""


class OortState(NamedTuple):
    """What Oort carries from round to round.

    Attributes:
      utility: float32 `[N]`, statistical utility when a client took part last.
      last: int32 `[N]`, the round of that, counted from 1; 0 before the first.
      seconds: float32 `[N]`, how long a client took; 0 where nothing is known.
      taking: float32 `[C]`, seconds of the clients of this round.
      round: int32, the number of rounds begun.
      preferred: float32, T.
      gained: float32, utility of the participants of the pacer's running window.
      before: float32, of the window before.
    """

    utility: Any
    last: Any
    seconds: Any
    taking: Any
    round: Any
    preferred: Any
    gained: Any
    before: Any


def oort(
    cohort_size: int,
    *,
    exploration: float = 0.9,
    exploration_decay: float = 0.98,
    min_exploration: float = 0.2,
    latency: Any = None,
    preferred_seconds: float = math.inf,
    alpha: float = 2.0,
    clip_quantile: float = 0.95,
    cut_off: float = 0.95,
    pacer_rounds: int = 20,
    pacer_seconds: float = 0.0,
) -> Sampler:
    r"""Takes clients with large losses that are fast enough, and keeps trying some that never took part.

    In round R (from 1) a share of `max(exploration * exploration_decay^(R-1), min_exploration)` of the cohort is
    explored: drawn among clients that were never heard of, in proportion to (T/t)^alpha where t is known. The others
    are exploited. A client that was heard of is worth

        (U' + sqrt(0.1 ln(R) / L)) * (T/t)^alpha where t > T, and without the last factor elsewhere:

    U' is its statistical utility U = n * loss on a scale from 0 to 1 that ends at the quantile `clip_quantile`
    (`scaled`), L the last round that it took part in, t the seconds that it took, T the preferred ones. With m to
    exploit, all whose worth is at least `cut_off` times the m-th largest are drawn from, in proportion to their worth.
    Where there are too few of one kind, the other fills the cohort. Equal clients have equal chances.

    The source takes the root mean square of the losses of a client's examples. Clients here tell their mean loss
    ("loss"), which is a lower bound of it, and equal where a client's losses are. A message that was left out of the
    sum, as one with NaN is, counts as a loss of 0. The removal of clients that took part too often, and noise on
    utilities, are not part of this.

    Args:
      cohort_size: K, also the capacity.
      exploration: in [0, 1], the first share that is explored; may be traced.
      exploration_decay: in (0, 1], its factor from round to round; may be traced.
      min_exploration: in [0, 1], the last share; may be traced.
      latency: how long clients take: "clock", what `fl.systems.timed` around it counts, or a Latency such as
        `lognormal_latency()`, of both of which the server learns a client's seconds when its message has come, on time
        or late; or numbers `[N]` that it knows from the start. None: no client is slow.
      preferred_seconds: T at the start; needs a `latency`. May be traced.
      alpha: how much slow clients are worth less; 0 not at all. May be traced.
      clip_quantile: in (0, 1], where utilities are cut, so that outliers count no more than others.
      cut_off: in (0, 1]; 1 takes the best ones alone.
      pacer_rounds: W. Every W rounds, T grows by `pacer_seconds` if the participants' utilities of the last W rounds
        sum to less than those of the W before.
      pacer_seconds: 0 leaves T as it is; may be traced.

    Returns:
      A Sampler with a memory that reads "loss", and accounting "availability". No amplification is claimed: who takes
      part follows from the clients' data. Rounds refuse it beside noise and masks. Records get "exploration" and, with
      a latency, "preferred_seconds".

    Raises:
      TypeError, ValueError: arguments out of range, a latency without preferred seconds or the other way around; by
        `check`, a cohort larger than the population, or seconds of another number of clients.

    Source: Lai, Zhu, Madhyastha, Chowdhury (2021), "Oort: Efficient Federated Learning via Guided Participant
    Selection", https://arxiv.org/abs/2010.06081, algorithm 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from fedjaxlite.data.population import Population
      >>> population = Population({}, jnp.arange(101), max_size=1)
      >>> sampler = oort(10, latency=jnp.linspace(1.0, 60.0, 100), preferred_seconds=20.0)
      >>> state = sampler.memory.init(Setting(100, population.num_examples, 0, 0, None, 0))
      >>> drawn, state = sampler.memory.sample(state, jax.random.key(0), 0, population)
      >>> len(set(drawn.ids.tolist())), bool(drawn.reported.all())
      (10, True)

      On a clock, it learns what the clock counts:

      >>> from fedjaxlite.systems import service, timed
      >>> timed(oort(10, latency="clock", preferred_seconds=60.0), service.lognormal(60.0, 0.8)).name
      'oort(10)+timed'
    """
    size = int(checks.positive_int(cohort_size=cohort_size))
    exploration, min_exploration = _share(exploration=exploration, min_exploration=min_exploration)
    exploration_decay = checks.probability(exploration_decay=exploration_decay)
    clip_quantile, cut_off = checks.probability(clip_quantile=clip_quantile, cut_off=cut_off)
    alpha, pacer_seconds = checks.nonnegative(alpha=alpha, pacer_seconds=pacer_seconds)
    pacer_rounds = checks.positive_int(pacer_rounds=pacer_rounds)
    known, latency, preferred_seconds = _times(latency, preferred_seconds)

    def init(setting: Setting) -> OortState:
        n = setting.num_clients
        seconds = jnp.zeros((n,), jnp.float32) if known is None else known
        zero, preferred = jnp.float32(0), jnp.asarray(preferred_seconds, jnp.float32)
        nothing = jnp.zeros((n,), jnp.float32), jnp.zeros((n,), jnp.int32)
        return OortState(*nothing, seconds, jnp.zeros((size,), jnp.float32), jnp.int32(0), preferred, zero, zero)

    def share(number: Any) -> Any:
        decayed = jnp.asarray(exploration, jnp.float32) * jnp.asarray(exploration_decay, jnp.float32) ** (
            jnp.maximum(number - 1, 0).astype(jnp.float32)
        )
        return jnp.maximum(decayed, jnp.asarray(min_exploration, jnp.float32))

    def sample(state: OortState, key: Any, round_number: Any, population: Any) -> tuple[Cohort, OortState]:
        state = state._replace(round=jnp.asarray(round_number, jnp.int32) + 1)
        own = draws.round_key(key, round_number, draws.COHORT)
        slow = scores.system_utility(state.seconds, state.preferred, alpha)
        utility = scores.scaled(state.utility, state.last > 0, clip_quantile)
        worth = (utility + scores.staleness_bonus(state.round, state.last)) * slow
        drawn = cohort(*_drawn(own, worth, slow, state.last > 0, share(state.round), cut_off, size))
        if callable(latency):
            state = state._replace(taking=choosing.seconds_of(latency, key, round_number, drawn, population))
        return drawn, state

    def learn(state: OortState, seen: Seen) -> OortState:
        told, counted = choosing.heard_of(seen)
        utility = scores.statistical_utility(seen.num_examples, seen.metrics["loss"])
        utility = jnp.where(counted, utility, jnp.float32(0))
        gained = state.gained + jnp.sum(utility)
        ids, rounds = seen.cohort.ids, jnp.full(told.shape, state.round, jnp.int32)
        came = told if seen.cohort.late is None else told | seen.cohort.late
        taking = _of_clock(seen) if latency == CLOCK else state.taking
        seconds = state.seconds if latency is None else choosing.learned(state.seconds, ids, came, taking)
        due = state.round % pacer_rounds == 0
        grow = jnp.where(due & (state.before > gained), jnp.asarray(pacer_seconds, jnp.float32), jnp.float32(0))
        return state._replace(
            utility=choosing.learned(state.utility, ids, told, utility),
            last=choosing.learned(state.last, ids, told, rounds),
            seconds=seconds,
            preferred=state.preferred + grow,
            gained=jnp.where(due, jnp.float32(0), gained),
            before=jnp.where(due, gained, state.before),
        )

    def tell(state: OortState) -> dict[str, Any]:
        told = {"exploration": share(state.round)}
        return told if latency is None and known is None else {**told, "preferred_seconds": state.preferred}

    def first(key: Any, round_number: Any, population: Any) -> Cohort:
        return sample(init(choosing.setting_of(population)), key, round_number, population)[0]

    def check(num_clients: int) -> None:
        choosing.fits("cohort_size", size, num_clients)
        if known is not None and known.shape[0] != num_clients:
            raise ValueError(
                f"oort: `latency` holds the seconds of {known.shape[0]} clients, but the population has {num_clients}; "
                "expected one number a client, in the population's order."
            )

    note = "The cohort follows from losses that clients told, so from their data; no amplification is claimed."
    accounting = Accounting("availability", cohort_size=size, note=note)
    memory = Memory(init, sample, learn, tell, reads=("loss",), times=latency == CLOCK)
    return Sampler(first, size, accounting, f"oort({size})", check=check, memory=memory)


def _drawn(
    key: Any, worth: Any, speed: Any, explored: Any, exploration: Any, cut_off: Any, size: int
) -> tuple[Any, Any]:
    """The ids of a cohort, and which slots are taken: the exploited ones first."""
    heard = jnp.sum(explored, dtype=jnp.int32)
    new = explored.shape[0] - heard
    exploit = jnp.floor(size * (1 - exploration) + jnp.float32(1e-4)).astype(jnp.int32)
    exploit = jnp.clip(exploit, size - jnp.minimum(new, size), jnp.minimum(heard, size))
    ranked = jax.lax.top_k(jnp.where(explored, worth, choosing.NOBODY), size)[0]
    bar = ranked[jnp.maximum(exploit - 1, 0)] * jnp.asarray(cut_off, jnp.float32)
    old, _ = choosing.in_proportion(key, worth, explored & (worth >= bar), size)
    fresh, _ = choosing.in_proportion(jax.random.fold_in(key, choosing.EXPLORE), speed, ~explored, size)
    slot = jnp.arange(size, dtype=jnp.int32)
    ids = jnp.where(slot < exploit, old, fresh[jnp.maximum(slot - exploit, 0)])
    return ids, jnp.ones((size,), bool)


def _share(**named: Any) -> Any:
    values = checks.nonnegative("It is the share of a cohort that is explored.", **named)
    for name, value in zip(named, values, strict=True):
        if not checks.is_traced(value) and value > 1:
            raise ValueError(f"`{name}` is {value!r}; expected a number in [0, 1], the share of a cohort.")
    return values


def _times(latency: Any, preferred_seconds: Any) -> tuple[Any, Any, Any]:
    """Seconds that are known from the start, or a function that tells them, and the preferred ones."""
    unbounded = isinstance(preferred_seconds, (float, np.floating)) and preferred_seconds == math.inf
    if not unbounded:
        preferred_seconds = checks.positive(preferred_seconds=preferred_seconds)
    if latency is None:
        if not unbounded:
            raise ValueError(
                f"oort: `preferred_seconds` is {checks.shown(preferred_seconds)} without a `latency`, so no client "
                "would ever be slow. Pass latency=fl.sampling.lognormal_latency(), or one number of seconds a client."
            )
        return None, None, math.inf
    if unbounded:
        raise ValueError(
            "oort: a `latency` is given without `preferred_seconds`, so it would say nothing. Pass the seconds that a "
            "round should take, or leave the latency out."
        )
    if isinstance(latency, str):
        return None, checks.one_of((CLOCK,), "Or pass a Latency, or seconds [N].", latency=latency), preferred_seconds
    if callable(latency):
        check_latency(latency)
        return None, latency, preferred_seconds
    return _known_seconds(latency), None, preferred_seconds


def _of_clock(seen: Seen) -> Any:
    if seen.seconds is None:
        raise ValueError(
            "oort: `latency` is 'clock', and there is none around it. Put it into one, "
            "fl.systems.timed(fl.sampling.oort(...), devices), or pass a Latency."
        )
    return seen.seconds


def _known_seconds(latency: Any) -> Any:
    checks.concrete("Build the sampler outside of jit, or pass a function.", latency=latency)
    expected = "a Latency, or finite seconds above 0, one a client, [N]"
    table = checks.as_array("latency", latency, expected)
    if table.ndim != 1 or table.size == 0:
        raise ValueError(f"`latency` has shape {list(table.shape)}; expected {expected}.")
    if table.dtype.kind not in "iuf":
        raise TypeError(f"`latency` has dtype {table.dtype}; expected {expected}.")
    bad = np.flatnonzero(~(np.isfinite(table) & (table > 0)))
    if bad.size:
        raise ValueError(f"`latency` is {table[bad[0]]} for client {bad[0]}; expected {expected}.")
    return jnp.asarray(table.astype(np.float32))
