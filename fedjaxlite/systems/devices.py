"""What devices can do: how fast they compute and send, how far a battery goes, how much memory they have."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.sampling import Setting, draws

REQUIRED = ("seconds_per_step", "up_bytes_per_second", "down_bytes_per_second", "latency_seconds")
OPTIONAL = ("joules_per_step", "joules_per_byte", "battery_joules", "memory_bytes")
_ABOVE_ZERO = ("up_bytes_per_second", "down_bytes_per_second")
_SPEED, _NETWORK, _LATENCY = range(3)


class Devices(NamedTuple):
    """What each client's device can do; arrays `[N]` of float32.

    A client's round takes `latency + bytes_down / down + steps * seconds_per_step + bytes_up / up` seconds.

    Attributes:
      seconds_per_step: of local training; where an algorithm does not tell its steps, of one example.
      up_bytes_per_second: upload, above 0.
      down_bytes_per_second: download, above 0.
      latency_seconds: before anything happens.
      joules_per_step: energy of a local step; None where energy is not counted.
      joules_per_byte: energy of a byte up or down.
      battery_joules: what a device spares for a round: one that needs more is not done. None for any amount.
      memory_bytes: what training may use; None for any amount.

    Example:
      >>> one = jnp.ones(2)
      >>> seconds_of(Devices(one, 10 * one, 20 * one, one), jnp.array([0, 1]), jnp.array([3, 5]), 100, 100).tolist()
      [19.0, 21.0]
    """

    seconds_per_step: Any
    up_bytes_per_second: Any
    down_bytes_per_second: Any
    latency_seconds: Any
    joules_per_step: Any = None
    joules_per_byte: Any = None
    battery_joules: Any = None
    memory_bytes: Any = None


def seconds_of(devices: Devices, clients: Any, steps: Any, bytes_up: Any, bytes_down: Any) -> Any:
    """How long rounds take on these clients' devices.

    Args:
      devices: of all N clients.
      clients: int32 `[C]`, ids.
      steps: int32 `[C]`, local steps.
      bytes_up: number, of one message.
      bytes_down: number, of one download.

    Returns:
      float32 `[C]`, seconds.

    Example:
      >>> devices = Devices(jnp.array([0.5]), jnp.array([10.0]), jnp.array([20.0]), jnp.array([1.0]))
      >>> seconds_of(devices, jnp.array([0]), jnp.array([4]), 30, 40).tolist()
      [8.0]
    """
    down, step, up = parts_of(devices, clients, bytes_up, bytes_down)
    return down + jnp.asarray(steps).astype(jnp.float32) * step + up


def whole_steps(setting: Setting) -> Any:
    """int32 `[N]`: local steps of each client that does all of its work; its examples where nothing tells them."""
    examples = jnp.asarray(setting.num_examples, jnp.int32)
    if setting.steps is None:
        return examples
    told = jnp.asarray(setting.steps(examples, jnp.ones(examples.shape, jnp.float32))).astype(jnp.int32)
    return jnp.broadcast_to(told, examples.shape)


def steps_done(whole: Any, work: Any) -> Any:
    """int32, of so many steps a share: one at least, rounded up as local steps are counted; none of none."""
    part = jnp.maximum(jnp.ceil(work * whole.astype(jnp.float32) - 1e-4).astype(jnp.int32), 1)
    return jnp.where(whole > 0, jnp.where(work < 1, part, whole), 0)


def parts_of(devices: Devices, clients: Any, bytes_up: Any, bytes_down: Any) -> tuple[Any, Any, Any]:
    """float32 `[C]` each: seconds before the first step, of a step, and of the upload."""
    of = [jnp.asarray(getattr(devices, name), jnp.float32)[clients] for name in REQUIRED]
    step, up, down, latency = of
    before = latency + jnp.asarray(bytes_down, jnp.float32) / down
    return before, step, jnp.asarray(bytes_up, jnp.float32) / up


def has_energy(devices: Devices, clients: Any, steps: Any, bytes_up: Any, bytes_down: Any) -> Any:
    """Bool `[C]`: whether the battery gives what so many steps and bytes need."""
    if devices.battery_joules is None:
        return jnp.ones(jnp.shape(clients), bool)
    zero = jnp.zeros(jnp.shape(clients), jnp.float32)
    a_step, a_byte = (
        zero if rate is None else jnp.asarray(rate, jnp.float32)[clients]
        for rate in (devices.joules_per_step, devices.joules_per_byte)
    )
    sent = jnp.asarray(bytes_up, jnp.float32) + jnp.asarray(bytes_down, jnp.float32)
    needed = a_step * jnp.asarray(steps).astype(jnp.float32) + a_byte * sent
    return needed <= jnp.asarray(devices.battery_joules, jnp.float32)[clients]


def check_memory(devices: Devices | None, needed: tuple[Any, Any]) -> None:
    """Refuses `memory_bytes` and `memory_models` that are out of range, both given, or without devices that have it."""
    if all(value is not None for value in needed):
        raise ValueError("`memory_bytes` and `memory_models` are both given; expected one of them.")
    for name, value in zip(("memory_bytes", "memory_models"), needed, strict=True):
        if value is None:
            continue
        checks.positive(**{name: value})
        if devices is None or devices.memory_bytes is None:
            raise ValueError(f"`{name}` is {value} without Devices.memory_bytes; give each device's, or leave it out.")


def fits(devices: Devices, needed: tuple[Any, Any], model_bytes: int) -> Any:
    """Bool `[N]`: whose memory is enough for so many bytes, or for so many times the model's; None where all's is."""
    num_bytes, models = needed
    wanted = num_bytes if models is None else models * float(model_bytes)
    return None if wanted is None else devices.memory_bytes >= wanted


def checked(devices: Any) -> Devices:
    """Devices of float32, refused where an array is missing, of another length, or out of range.

    Raises:
      TypeError, ValueError: by field.
    """
    checks.one_instance(Devices, "Devices, such as fl.systems.drawn_devices(key, 100)", devices=devices)
    size = None
    made = {}
    for name, value in devices._asdict().items():
        if value is None and name in OPTIONAL:
            continue
        where = f"Devices.{name}"
        named: dict[str, Any] = {where: value}
        array = checks.real_array("", shape="[N]", ndim=1, narrow=True, **named)
        size = array.shape[0] if size is None else size
        if array.shape != (size,):
            raise ValueError(f"`{where}` has shape {list(array.shape)}; expected [{size}], one number a client.")
        if not checks.is_traced(array):
            low = array <= 0 if name in _ABOVE_ZERO else array < 0
            if (low | np.isnan(array)).any():
                expected = "above 0" if name in _ABOVE_ZERO else "of at least 0"
                at = int(np.argmax(low | np.isnan(array)))
                raise ValueError(f"`{where}` is {array[at]} for client {at}; expected numbers {expected}.")
        made[name] = jnp.asarray(array).astype(jnp.float32)
    if made and size == 0:
        raise ValueError("`devices` are of no client; expected arrays [N] with N of at least 1.")
    return Devices(**made)


def drawn_devices(
    key: Any,
    num_clients: int,
    *,
    seconds_per_step: Any = 0.27,
    step_spread: Any = 0.6,
    up_bytes_per_second: Any = 0.6e6,
    down_bytes_per_second: Any = 2.5e6,
    network_spread: Any = 1.0,
    latency_seconds: Any = 0.1,
    latency_spread: Any = 0.5,
) -> Devices:
    """Devices whose speeds are lognormal: most are near the median, and a few are many times slower.

    Each number is the median times exp(spread * z), with z standard normal; a client's up- and download share one z,
    since both are its network. A client's draw depends on the key and its id, not on how many others there are.

    Args:
      key: a random key of the world of devices; runs with other sampling keys may share it.
      num_clients: N.
      seconds_per_step: the median. 0.27 s is FedScale's exp(1) * 0.005 s an example, for steps of 20 examples.
      step_spread: of the log; 0.6 is FedScale's skew, after Papaya and GFL.
      up_bytes_per_second: the median; 0.6 MB/s is a round figure for mobile networks, and not fitted.
      down_bytes_per_second: the median; 2.5 MB/s, likewise.
      network_spread: of the log; 1 makes one client in 40 seven times slower than the median. Not fitted.
      latency_seconds: the median. Not fitted.
      latency_spread: of the log. Not fitted.

    Returns:
      Devices without limits of energy and memory; `devices._replace(...)` sets them. All numbers may be traced.

    Raises:
      TypeError, ValueError: numbers out of range.

    Source: Lai et al. (2022), "FedScale: Benchmarking Model and System Performance of Federated Learning at Scale",
    https://arxiv.org/abs/2105.11367, and `get_completion_time_lognormal` of its code; speeds of devices in Huba et al.
    (2022), "Papaya", https://arxiv.org/abs/2111.04877.

    Example:
      >>> devices = drawn_devices(jax.random.key(0), 1000)
      >>> bool(jnp.max(devices.seconds_per_step) > 5 * jnp.median(devices.seconds_per_step))
      True
    """
    checks.is_key(key=key)
    num_clients = checks.positive_int(num_clients=num_clients)
    step, up, down = checks.positive(
        seconds_per_step=seconds_per_step,
        up_bytes_per_second=up_bytes_per_second,
        down_bytes_per_second=down_bytes_per_second,
    )
    latency = checks.nonnegative(latency_seconds=latency_seconds)
    spreads = {"step_spread": step_spread, "network_spread": network_spread, "latency_spread": latency_spread}
    spreads = checks.nonnegative(**spreads)
    ids = jnp.arange(num_clients, dtype=jnp.int32)
    speed, network, wait = (
        jnp.exp(jnp.asarray(spread, jnp.float32) * draws.client_normals(jax.random.fold_in(key, purpose), ids))
        for spread, purpose in zip(spreads, (_SPEED, _NETWORK, _LATENCY), strict=True)
    )
    step, up, down, latency = (jnp.asarray(median, jnp.float32) for median in (step, up, down, latency))
    return Devices(step * speed, up * network, down * network, latency * wait)
