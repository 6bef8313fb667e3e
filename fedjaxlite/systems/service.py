"""Service times: how many seconds a client takes from its download to its message.

A service is a number of seconds each time that a client begins. What it takes as a whole is meant, however much of its
work a client does, but where a service of one's own says otherwise.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.sampling import Setting
from fedjaxlite.systems import devices as device_model
from fedjaxlite.systems.devices import Devices

__all__ = ["Service", "constant", "exponential", "lognormal", "measured", "on_devices", "parse"]


def no_facts(setting: Setting) -> Any:
    """Of a service that asks for nothing."""
    del setting
    return ()


def _no_check(num_clients: int) -> None:
    del num_clients


class Service(NamedTuple):
    """How long clients take.

    Attributes:
      seconds: `seconds(key, clients, facts, work, number) -> float32 [n]`, at least 0. Infinity is a client that never
        comes back. `key` is one for these n starts; `clients` int32 `[n]`; `facts` what `facts` returned; `work`
        float32 `[n]` in (0, 1]; `number` int32 `[n]`, how many clients had begun before in this run.
      name: for records and messages.
      facts: `facts(setting) -> pytree of arrays`, what it needs to know of the run: bytes, steps. It becomes a part of
        the run's state, so it is small where it can be.
      check: `check(num_clients)` raises where it does not fit a population of that size.
      able: `able(facts) -> bool [N]`, who can do the work at all; the others are never chosen by a server that does
        not wait. None where everyone can.

    Example:
      Ten seconds, and one for each megabyte:

      >>> seconds = lambda key, clients, facts, work, number: 10 + facts[clients]
      >>> megabytes = lambda setting: jnp.full((setting.num_clients,), setting.bytes_down / 1e6, jnp.float32)
      >>> Service(seconds, "by size", facts=megabytes).name
      'by size'
    """

    seconds: Callable[[Any, Any, Any, Any, Any], Any]
    name: str = "service"
    facts: Callable[[Setting], Any] = no_facts
    check: Callable[[int], None] = _no_check
    able: Callable[[Any], Any] | None = None


def constant(seconds: float) -> Service:
    """Everyone takes the same time, always.

    Args:
      seconds: above 0; may be traced.

    Returns:
      A Service.

    Raises:
      TypeError, ValueError: a number that is not finite and above 0.

    Example:
      >>> constant(2.0).seconds(None, jnp.array([3, 5]), (), None, None).tolist()
      [2.0, 2.0]
    """
    seconds = checks.positive("It is how long every client takes.", seconds=seconds)

    def times(key: Any, clients: Any, facts: Any, work: Any, number: Any) -> Any:
        del key, facts, work, number
        return jnp.full(clients.shape, seconds, jnp.float32)

    return Service(times, f"constant({_shown(seconds)})")


def exponential(mean: float) -> Service:
    """Exponential times, drawn anew at each start: the memoryless ones of queueing theory.

    Args:
      mean: seconds, above 0; may be traced.

    Returns:
      A Service.

    Raises:
      TypeError, ValueError: a number that is not finite and above 0.

    Example:
      >>> drawn = exponential(3.0).seconds(jax.random.key(0), jnp.arange(1000), (), None, None)
      >>> 2.7 < float(drawn.mean()) < 3.3
      True
    """
    mean = checks.positive("It is the mean of the seconds that a client takes.", mean=mean)

    def times(key: Any, clients: Any, facts: Any, work: Any, number: Any) -> Any:
        del facts, work, number
        return jnp.asarray(mean, jnp.float32) * jax.random.exponential(key, clients.shape, jnp.float32)

    return Service(times, f"exponential({_shown(mean)})")


def lognormal(median: float, sigma: float) -> Service:
    """Log-normal times, drawn anew at each start: `median * exp(sigma * z)` with z standard normal.

    Args:
      median: seconds, above 0; may be traced. The mean is `median * exp(sigma^2 / 2)`.
      sigma: standard deviation of the logarithm, at least 0 and finite; may be traced.

    Returns:
      A Service.

    Raises:
      TypeError, ValueError: arguments out of range.

    Example:
      >>> drawn = lognormal(5.0, 1.0).seconds(jax.random.key(0), jnp.arange(999), (), None, None)
      >>> 4.4 < float(jnp.median(drawn)) < 5.6
      True
    """
    median = checks.positive("It is the median of the seconds that a client takes.", median=median)
    sigma = checks.nonnegative("It is the standard deviation of the logarithm.", sigma=sigma)
    if not checks.is_traced(sigma):
        checks.number("It is the standard deviation of the logarithm.", sigma=sigma)

    def times(key: Any, clients: Any, facts: Any, work: Any, number: Any) -> Any:
        del facts, work, number
        spread = jnp.asarray(sigma, jnp.float32) * jax.random.normal(key, clients.shape, jnp.float32)
        return jnp.asarray(median, jnp.float32) * jnp.exp(spread)

    return Service(times, f"lognormal({_shown(median)}, {_shown(sigma)})")


def measured(values: Any) -> Service:
    """Times that were measured: of each client one, or a table of them.

    Args:
      values: concrete `[N]`, the seconds of each client; or `[T, N]`: the t-th start of anyone in the run, from 0,
        takes row t mod T. Finite, at least 0.

    Returns:
      A Service.

    Raises:
      TypeError, ValueError: values that are traced, of another rank, empty, negative or not finite; by `check`, a
        population of another size.

    Example:
      >>> measured([4.0, 2.0, 9.0]).seconds(None, jnp.array([2, 0]), (), None, jnp.array([0, 1])).tolist()
      [9.0, 4.0]
    """
    if checks.is_traced(values):
        raise TypeError("measured: `values` is traced; expected concrete seconds [N] or [T, N].")
    table = np.asarray(checks.real_array(values=values, shape="[N] or [T, N]", narrow=True))
    if table.ndim not in (1, 2) or 0 in table.shape:
        raise ValueError(f"measured: `values` has shape {list(table.shape)}; expected seconds [N] or [T, N].")
    table = np.atleast_2d(table).astype(np.float32)
    wrong = np.argwhere(~(np.isfinite(table) & (table >= 0)))
    if wrong.size:
        row, client = wrong[0]
        raise ValueError(
            f"measured: `values` holds {table[row, client]} for client {client} in row {row}; expected finite seconds "
            "of at least 0. Leave out of the population who never answers."
        )
    starts, num_clients = table.shape
    on_device = jnp.asarray(table)

    def times(key: Any, clients: Any, facts: Any, work: Any, number: Any) -> Any:
        del key, facts, work
        return on_device[number % starts, clients]

    def check(n: int) -> None:
        if n != num_clients:
            raise ValueError(
                f"measured: `values` are the seconds of {num_clients} clients, but the population has {n}. Pass one "
                "number for each client, in the population's order."
            )

    return Service(times, f"measured({starts} of {num_clients} clients)", check=check)


def on_devices(devices: Devices, *, memory_bytes: float | None = None, memory_models: float | None = None) -> Service:
    """Clients that take as long as their devices do: download, local steps, upload.

    Args:
      devices: of all clients. Those whose battery does not last for all of their steps and bytes are never chosen.
      memory_bytes: what training needs; clients whose device has less are never chosen.
      memory_models: the same in multiples of the model's bytes, such as 4 for params, gradient and Adam's moments.

    Returns:
      A Service, with bytes and local steps of the run itself; where the algorithm's hyperparameters do not tell its
      steps, those of one example each. Of how many devices are not enough for a run, a warning tells when it begins.

    Raises:
      TypeError, ValueError: what is no Devices, memory that is needed without devices that have it; by `check`,
        devices of another number of clients.

    Example:
      >>> from fedjaxlite.systems.devices import Devices
      >>> one = jnp.ones(2)
      >>> service = on_devices(Devices(one, 10 * one, 20 * one, one))
      >>> facts = service.facts(Setting(2, jnp.array([3, 5], jnp.int32), 100, 100, None, 100))
      >>> service.seconds(None, jnp.array([0, 1]), facts, jnp.ones(2), None).tolist()
      [19.0, 21.0]
    """
    devices = device_model.checked(devices)
    needed = (memory_bytes, memory_models)
    device_model.check_memory(devices, needed)
    number = devices.seconds_per_step.shape[0]
    limited = any(given is not None for given in (devices.battery_joules, *needed))

    def facts(setting: Setting) -> Any:
        sent = jnp.float32(setting.bytes_up), jnp.float32(setting.bytes_down)
        enough = device_model.fits(devices, needed, setting.model_bytes)
        return device_model.whole_steps(setting), *sent, *(() if enough is None else (enough,))

    def able(facts: Any) -> Any:
        steps, up, down, *fits = facts
        lasts = device_model.has_energy(devices, jnp.arange(number, dtype=jnp.int32), steps, up, down)
        return lasts & fits[0] if fits else lasts

    def times(key: Any, clients: Any, facts: Any, work: Any, number: Any) -> Any:
        del key, number
        steps, up, down, *_ = facts
        return device_model.seconds_of(devices, clients, device_model.steps_done(steps[clients], work), up, down)

    def check(num_clients: int) -> None:
        if number != num_clients:
            raise ValueError(
                f"`devices` are of {number} clients, but the population has {num_clients}; expected one row a client, "
                "in the population's order."
            )

    return Service(times, "on_devices", facts, check, able if limited else None)


def parse(text: str) -> Service:
    """A service from a command line.

    Args:
      text: "constant:SECONDS", "exponential:MEAN", "lognormal:MEDIAN,SIGMA" or "file:PATH". The file is an array of
        NumPy (`.npy`) for `measured`, or text with one line for each client that holds its seconds; of a table, a
        line for each row, with a comma between clients. Empty lines and what follows a # do not count.

    Returns:
      A Service.

    Raises:
      TypeError, ValueError: another text, a file that cannot be read.

    Example:
      >>> parse("lognormal:10,0.5").name
      'lognormal(10.0, 0.5)'
    """
    remedy = "Write constant:SECONDS, exponential:MEAN, lognormal:MEDIAN,SIGMA or file:PATH."
    checks.text(remedy, service=text)
    kind, _, rest = text.partition(":")
    if kind == "file":
        if not rest:
            raise ValueError(f"`service` is {text!r}, without a path. {remedy}")
        return measured(_from_file(Path(rest)))
    made = {"constant": (constant, 1), "exponential": (exponential, 1), "lognormal": (lognormal, 2)}
    return from_text("service", text, made, remedy)


def from_text(name: str, text: str, made: dict[str, tuple[Callable[..., Any], int]], remedy: str) -> Any:
    """What "kind:NUMBER,NUMBER" names: `made` holds the function of each kind and how many numbers it takes."""
    kind, _, rest = text.partition(":")
    if kind not in made:
        raise ValueError(f"`{name}` is {text!r}, of no known kind.{checks.did_you_mean(kind, made)} {remedy}")
    function, count = made[kind]
    try:
        numbers = [float(number) for number in rest.split(",")] if rest else []
    except ValueError:
        raise ValueError(f"`{name}` is {text!r}; expected numbers behind the colon. {remedy}") from None
    if len(numbers) != count:
        raise ValueError(f"`{name}` is {text!r}; {kind} takes {count} number(s), not {len(numbers)}. {remedy}")
    return function(*numbers)


def _from_file(path: Path) -> np.ndarray:
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ValueError(f"`service` is file:{path}, which cannot be read: {error}.") from error
    rows = []
    for place, line in enumerate(lines, start=1):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        try:
            rows.append([float(number) for number in content.split(",")])
        except ValueError:
            raise ValueError(f"Line {place} of {path} is {line!r}; expected seconds, one client in a line.") from None
        if len(rows[-1]) != len(rows[0]):
            raise ValueError(f"Line {place} of {path} has {len(rows[-1])} numbers; those before it {len(rows[0])}.")
    if not rows:
        raise ValueError(f"{path} holds no numbers; expected the seconds of each client, one in a line.")
    table = np.asarray(rows)
    return table[:, 0] if table.shape[1] == 1 else table


def _shown(number: Any) -> str:
    return "traced" if checks.is_traced(number) else str(number)
