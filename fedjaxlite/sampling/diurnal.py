"""A simulated trace of a day in the life of devices: idle, charging and on free wireless mostly at night."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.sampling.availability import Trace

_ZONE, _PERSON, _DAILY, _SKIP, _STRAY = range(5)


class Window(NamedTuple):
    """The hours of a day in which a condition normally holds.

    Attributes:
      start: local hour of day in [0, 24), of the median client on the median day.
      hours: its length. The window must end by the next local noon, which is where a simulated day begins.
      outside: chance, in each round, that the condition holds outside of its window all the same.
      skip: chance, in each client's day, that the window does not happen at all.
    """

    start: float
    hours: float
    outside: float = 0.0
    skip: float = 0.0


IDLE = Window(start=23.0, hours=8.0, outside=0.3, skip=0.05)
CHARGING = Window(start=22.5, hours=8.5, outside=0.1, skip=0.4)
WIRELESS = Window(start=18.5, hours=13.5, outside=0.3, skip=0.25)


def diurnal(
    *,
    seed: int = 0,
    rounds_per_day: int = 96,
    zone_spread: float = 3.0,
    person_spread: float = 1.5,
    daily_spread: float = 1.0,
    idle: Window = IDLE,
    charging: Window = CHARGING,
    wireless: Window = WIRELESS,
) -> Trace:
    """Devices that may train when idle, charging and on free wireless, all three at once.

    Round 0 is midnight in the middle of the time zones. Client i lives `zone_spread` * t_i hours east of it. Each of
    its three windows opens, on its day d, at `start + person_spread * t_i' + daily_spread * t_id` and stays open for
    `hours`, but for days that are skipped; outside of it, the condition holds in a round with chance `outside`. Every
    t is an independent triangular draw on (-1, 1). Nothing is stored: all draws are hashes of the seed, the client's
    id, and the day or the round, so the trace of a client does not depend on how many others there are.

    With the defaults about half of the clients are available at the peak of the night, and about one in a hundred
    during the day. Shapes and defaults are for simulation; they are not fitted to a fleet.

    Args:
      seed: the world's seed; runs with other sampling keys may share it.
      rounds_per_day: rounds in 24 hours; 96 is one every quarter of an hour.
      zone_spread: hours from the middle to the outermost time zone, in [0, 12].
      person_spread: hours between habits, at most, of a client and the median one.
      daily_spread: hours between a client's days, at most.
      idle: when nobody uses the device.
      charging: when it is plugged in.
      wireless: when it is on a free network.

    Returns:
      A Trace for any number of clients, with conditions "idle", "charging" and "wireless". A round costs one pass
      over the clients.

    Raises:
      TypeError, ValueError: arguments out of range, or a window that runs past local noon.

    Source: eligibility and the day's rhythm as described by Bonawitz et al. (2019), "Towards Federated Learning at
    Scale: System Design", https://arxiv.org/abs/1902.01046, sections 2 and 9.

    Example:
      >>> trace = diurnal(rounds_per_day=24)
      >>> night, noon = (int(trace.available(r, 10_000).sum()) for r in (26, 36))
      >>> night > 10 * noon
      True
    """
    windows = {"idle": idle, "charging": charging, "wireless": wireless}
    seed = checks.nonnegative_int(seed=seed)
    rounds_per_day = checks.positive_int(rounds_per_day=rounds_per_day)
    spreads = {"zone_spread": zone_spread, "person_spread": person_spread, "daily_spread": daily_spread}
    zone_spread, person_spread, daily_spread = (_hours(name, spread) for name, spread in spreads.items())
    windows = {name: _checked_window(name, window) for name, window in windows.items()}

    def conditions(round_number: Any, num_clients: int) -> dict[str, Any]:
        ids = jnp.arange(num_clients, dtype=jnp.uint32)
        word = _words(seed)
        number = jnp.asarray(round_number, jnp.int32)
        zone = zone_spread * _triangular(_hashed(word, ids, _ZONE, 0))
        # Hours since the local noon that began the client's simulated day; 12 is midnight.
        clock = (number % rounds_per_day).astype(jnp.float32) * jnp.float32(24 / rounds_per_day) + 12.0 + zone
        shift = jnp.floor(clock / 24.0)
        since_noon, day = clock - 24.0 * shift, number // rounds_per_day + shift.astype(jnp.int32)
        held = {}
        for salt, (name, window) in enumerate(windows.items()):
            person = person_spread * _triangular(_hashed(word, ids, _PERSON + 8 * salt, 0))
            daily = daily_spread * _triangular(_hashed(word, ids, _DAILY + 8 * salt, day))
            into = since_noon - ((window.start - 12.0) % 24.0 + person + daily)
            skipped = _uniform(_hashed(word, ids, _SKIP + 8 * salt, day)) < window.skip
            stray = _uniform(_hashed(word, ids, _STRAY + 8 * salt, number)) < window.outside
            held[name] = ((into >= 0) & (into < window.hours) & ~skipped) | stray
        return held

    return Trace(conditions, name=f"diurnal(seed={seed})")


def _words(seed: int) -> Any:
    return jax.random.bits(jax.random.key(seed, impl="threefry2x32"), (2,), jnp.uint32)


def _hashed(word: Any, ids: Any, salt: int, time: Any) -> Any:
    """uint32 `[N]` from the seed, the client, the purpose and the day or round."""
    stream = _mix(word[0] + jnp.uint32(salt))
    when = _mix(jnp.asarray(time).astype(jnp.uint32) ^ word[1] ^ stream)
    return _mix(_mix(ids ^ stream) + when)


def _mix(x: Any) -> Any:
    """A bijection on uint32 that spreads every input bit over all others: xor-shift and multiply, twice."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def _uniform(hashed: Any) -> Any:
    return (hashed >> 8).astype(jnp.float32) * jnp.float32(2.0**-24)


def _triangular(hashed: Any) -> Any:
    """float32 on (-1, 1): the difference of two independent halves of the hash."""
    high, low = (hashed >> 16).astype(jnp.float32), (hashed & jnp.uint32(0xFFFF)).astype(jnp.float32)
    return (high - low) * jnp.float32(2.0**-16)


def _hours(name: str, spread: Any) -> float:
    checks.concrete("Build the trace outside of jit.", **{name: spread})
    if checks.nonnegative(**{name: spread}) > 12:
        raise ValueError(f"`{name}` is {spread!r}; expected hours in [0, 12].")
    return float(spread)


def _checked_window(name: str, window: Any) -> Window:
    checks.one_instance(Window, "a fl.sampling.Window(start, hours)", **{name: window})
    for field, value in window._asdict().items():
        checks.concrete("Build the trace outside of jit.", **{f"{name}.{field}": value})
    start = checks.number(**{f"{name}.start": window.start})
    hours = checks.positive(**{f"{name}.hours": window.hours})
    outside, skip = checks.fraction(**{f"{name}.outside": window.outside, f"{name}.skip": window.skip})
    if not 0 <= start < 24:
        raise ValueError(f"`{name}` is {window!r}; expected a start in [0, 24) and a positive number of hours.")
    if (start - 12.0) % 24.0 + hours > 24.0:
        raise ValueError(
            f"`{name}` opens at {start} and runs {hours} hours, past the next local noon, where a simulated day ends. "
            "Shorten it, or express the day part by `outside`."
        )
    return Window(float(start), float(hours), float(outside), float(skip))
