"""When devices are there, in seconds: windows that come again, and a simulated week."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.sampling import draws
from fedjaxlite.sampling.types import Seconds

_DAY = 86400


class Availability(NamedTuple):
    """When each client is there: windows of time, which come again with every period.

    Attributes:
      begins: float32 `[N, W]`, seconds in [0, period).
      ends: float32 `[N, W]`, seconds; behind the period where a window goes on into the next one. A window that ends
        where it begins is none: clients have different numbers of windows. Windows of a client do not touch.
      period: int32 `[N]`, seconds, at least 1.

    Example:
      >>> nights = availability({0: [(79200, 108000)], 1: [(0, 3600)]}, period=86400)
      >>> is_there(nights, jnp.array([0, 1]), jnp.float32(7200)).tolist()
      [True, False]
    """

    begins: Any
    ends: Any
    period: Any


def is_there(trace: Availability, clients: Any, seconds: Any) -> Any:
    """Whether clients are there at a time.

    Args:
      trace: of all N clients.
      clients: int32 `[C]`, ids.
      seconds: a Seconds (exact at any time), or float32 `[]` or `[C]`.

    Returns:
      Bool `[C]`: a window holds its first moment, and not its last.
    """
    return jnp.any(_inside(trace, clients, seconds)[0], axis=-1)


def seconds_left(trace: Availability, clients: Any, seconds: Any) -> Any:
    """Until clients that are there leave: float32 `[C]`, 0 for those that are not there, infinite for always.

    Example:
      >>> nights = availability({0: [(79200, 108000)]}, period=86400)
      >>> seconds_left(nights, jnp.array([0]), jnp.float32(7200)).tolist()
      [14400.0]
    """
    inside, left, _ = _inside(trace, clients, seconds)
    return jnp.max(jnp.where(inside, left, jnp.float32(0)), axis=-1)


def seconds_until(trace: Availability, clients: Any, seconds: Any) -> Any:
    """Until clients are there: float32 `[C]`, 0 for those that are there, infinite for never.

    Example:
      >>> nights = availability({0: [(79200, 108000)]}, period=86400)
      >>> seconds_until(nights, jnp.array([0]), jnp.float32(43200)).tolist()
      [36000.0]
    """
    inside, _, until = _inside(trace, clients, seconds)
    return jnp.where(jnp.any(inside, axis=-1), jnp.float32(0), jnp.min(until, axis=-1))


def seconds_of_next(trace: Availability, ids: Any, seconds: Seconds) -> Any:
    """float32 `[C]`: how long the window lasts that each client's next one is."""
    begins, ends, period = trace.begins[ids], trace.ends[ids], trace.period[ids][:, None]
    now = (seconds.whole % period).astype(jnp.float32) + seconds.part
    until = jnp.where(begins >= now, begins - now, begins - now + period.astype(jnp.float32))
    which = jnp.argmin(jnp.where(ends > begins, until, jnp.inf), axis=-1)[:, None]
    length = jnp.take_along_axis(ends - begins, which, axis=-1)[:, 0]
    return jnp.where(length >= period[:, 0].astype(jnp.float32), jnp.inf, length)


def _inside(trace: Availability, clients: Any, seconds: Any) -> tuple[Any, Any, Any]:
    """Of each window: whether it is now, float32 seconds to its end, and to its next beginning; `[C, W]` each."""
    begins, ends, period = trace.begins[clients], trace.ends[clients], trace.period[clients][:, None]
    long = period.astype(jnp.float32)
    if isinstance(seconds, Seconds):
        # Whole seconds are counted as integers: after a year, a float32 would be off by seconds.
        now = (seconds.whole % period).astype(jnp.float32) + seconds.part
    else:
        now = jnp.reshape(jnp.asarray(seconds, jnp.float32), (-1, 1)) % long
    some = ends > begins
    since = jnp.where(now >= begins, now - begins, now - begins + long)
    inside = some & (since < ends - begins)
    left = jnp.where(ends - begins >= long, jnp.inf, ends - begins - since)
    return inside, left, jnp.where(some, long - since, jnp.inf)


def availability(windows: Mapping[Any, Any], *, period: Any) -> Availability:
    """Arrays of windows that are given client by client.

    Args:
      windows: `{client: [(begin, end), ...]}` in seconds, clients in the population's order; begins in [0, period),
        ends after them, at most one period later. Windows that touch or overlap become one.
      period: whole seconds after which it all comes again; a number, or one for each client.

    Returns:
      An Availability of `len(windows)` clients.

    Raises:
      TypeError, ValueError: windows that end before they begin, or do not lie in the period.

    Example:
      >>> availability({"a": [(0, 10), (10, 20)], "b": []}, period=60).ends.tolist()
      [[20.0], [0.0]]
    """
    if not isinstance(windows, Mapping) or not windows:
        raise TypeError(
            f"`windows` is {checks.shown(windows)}; expected a dict {{client: [(begin, end), ...]}} of some clients."
        )
    given = checks.real_array(period=period)
    if checks.is_traced(given) or given.ndim > 1 or (given.ndim == 1 and given.shape[0] != len(windows)):
        raise ValueError(f"`period` is {checks.shown(period)}; expected seconds, or one number for each client.")
    periods = np.broadcast_to(given, (len(windows),)).astype(np.float64)
    if not ((periods >= 1) & (periods <= 2**24) & (periods == np.floor(periods))).all():
        raise ValueError(f"`period` is {checks.shown(period)}; expected whole seconds from 1 to 2**24 (194 days).")
    rows = [_merged(client, windows[client], float(p)) for client, p in zip(windows, periods, strict=True)]
    table = np.zeros((2, len(rows), max(1, *(len(row) for row in rows))), np.float32)
    for at, row in enumerate(rows):
        table[:, at, : len(row)] = np.asarray(row, np.float64).reshape(-1, 2).T
    return Availability(jnp.asarray(table[0]), jnp.asarray(table[1]), jnp.asarray(periods.astype(np.int32)))


def _pairs(client: Any, windows: Any) -> list[Any]:
    try:
        return [np.asarray(window, np.float64) for window in windows]
    except (TypeError, ValueError):
        given = checks.shown(windows)
        raise TypeError(
            f"`windows` has {given} for client {client!r}; expected pairs (begin, end) of seconds."
        ) from None


def _merged(client: Any, windows: Any, period: float) -> list[tuple[float, float]]:
    """The windows of a client in order, none of which touches another."""
    made: list[tuple[float, float]] = []
    for window in _pairs(client, windows):
        pair = np.asarray(window)
        if pair.shape != (2,) or not (0 <= pair[0] < period and pair[0] <= pair[1] <= pair[0] + period):
            raise ValueError(
                f"`windows` has {checks.shown(window)} for client {client!r}; expected (begin, end) with "
                f"0 <= begin < {period:g} and begin <= end <= begin + {period:g} seconds."
            )
        if pair[1] > pair[0]:
            made.append((float(pair[0]), float(pair[1])))
    made = _joined(sorted(made))
    while len(made) > 1 and made[-1][1] >= made[0][0] + period:  # the last goes on into the first
        last = made.pop()
        first = made.pop(0)
        made = _joined([*made, (last[0], max(last[1], first[1] + period))])
    return [(begin, min(end, begin + period)) for begin, end in made]


def _joined(windows: list[tuple[float, float]]) -> list[tuple[float, float]]:
    made: list[tuple[float, float]] = []
    for begin, end in windows:
        if made and begin <= made[-1][1]:
            made[-1] = (made[-1][0], max(made[-1][1], end))
        else:
            made.append((begin, end))
    return made


def drawn_availability(
    key: Any,
    num_clients: int,
    *,
    days: int = 7,
    start: Any = 23.0,
    hours: Any = 8.0,
    zone_spread: Any = 3.0,
    person_spread: Any = 1.5,
    daily_spread: Any = 1.0,
    skip: Any = 0.4,
) -> Availability:
    """Devices that are there once a day, mostly at night, but for days that are skipped.

    Client i is there on day d from hour `start + zone_spread * t_i + person_spread * t_i' + daily_spread * t_id` on,
    for `hours`; every t is an independent triangular draw on (-1, 1). After `days` days it all comes again. The
    clock's 0 is midnight in the middle of the time zones.

    Args:
      key: a random key of the world of devices; runs with other sampling keys may share it.
      num_clients: N.
      days: W, at least 1.
      start: hour of day.
      hours: the length of a window; with twice `daily_spread` below 24, so that no two windows touch.
      zone_spread: hours.
      person_spread: hours.
      daily_spread: hours.
      skip: chance in [0, 1) that a client is not there on a day.

    Returns:
      An Availability; a client's draws depend on the key and its id. All numbers but `days` may be traced.

    Raises:
      TypeError, ValueError: numbers out of range.

    Source: the rhythm of Bonawitz et al. (2019), "Towards Federated Learning at Scale: System Design",
    https://arxiv.org/abs/1902.01046, section 9; shapes and defaults are for simulation, as those of
    `fl.sampling.diurnal`, and not fitted to a fleet.

    Example:
      >>> import jax
      >>> trace = drawn_availability(jax.random.key(0), 1000)
      >>> night, noon = (int(is_there(trace, jnp.arange(1000), jnp.float32(3600 * h)).sum()) for h in (27, 36))
      >>> night > 10 * noon
      True
    """
    checks.is_key(key=key)
    num_clients, days = checks.positive_int(num_clients=num_clients, days=days)
    start, *spreads = checks.nonnegative(
        start=start, zone_spread=zone_spread, person_spread=person_spread, daily_spread=daily_spread
    )
    hours, skip = checks.positive(hours=hours), checks.fraction(skip=skip)
    daily = spreads[2]
    if not (checks.is_traced(hours) or checks.is_traced(daily)) and hours + 2 * daily >= 24:
        raise ValueError(f"`hours` is {hours} and `daily_spread` {daily}; expected hours + 2 * daily_spread below 24.")
    ids = jnp.arange(num_clients, dtype=jnp.int32)
    uniforms = draws.client_uniforms(key, ids, draws=4 + 3 * days)
    triangular = lambda at: (uniforms[at] - uniforms[at + 1])[..., None]  # noqa: E731
    each = uniforms[4:].reshape(3, days, num_clients)
    numbers: Any = [jnp.asarray(value, jnp.float32) for value in (start, hours, skip, *spreads)]
    start, hours, skip, zone, person, daily = numbers
    hour = start + zone * triangular(0) + person * triangular(2) + daily * (each[0] - each[1]).T
    begins = ((hour + jnp.float32(24) * jnp.arange(days, dtype=jnp.float32)[None]) * 3600.0) % jnp.float32(days * _DAY)
    ends = jnp.where((each[2] < skip).T, begins, begins + hours * 3600.0)
    return Availability(begins, ends, jnp.full((num_clients,), days * _DAY, jnp.int32))


def checked(trace: Any) -> Availability:
    """An Availability whose arrays fit together.

    Raises:
      TypeError, ValueError: by field.
    """
    expected = "an Availability, such as fl.systems.drawn_availability(key, 100)"
    checks.one_instance(Availability, expected, availability=trace)
    shapes = [jnp.shape(array) for array in trace]
    if len(shapes[0]) != 2 or shapes[1] != shapes[0] or shapes[2] != shapes[0][:1] or 0 in shapes[0]:
        given = ", ".join(f"{name} {list(shape)}" for name, shape in zip(trace._fields, shapes, strict=True))
        raise ValueError(f"`availability` has {given}; expected begins [N, W], ends [N, W] and period [N].")
    begins, ends, period = trace
    return Availability(
        jnp.asarray(begins).astype(jnp.float32), jnp.asarray(ends).astype(jnp.float32), jnp.asarray(period)
    )
