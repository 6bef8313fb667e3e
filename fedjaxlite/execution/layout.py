"""Execution: on what devices a round runs, how many clients at once, and in which loops."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.data.population import Population

PyTree = Any
AXIS = "clients"
"""The name of the device axis; sums over it are sums over clients."""


class Execution(NamedTuple):
    """How rounds run. It changes speed and memory, never (beyond rounding) the numbers.

    Attributes:
      lanes: L, clients trained side by side on each device; None chooses by platform, model and cohort, as `with_lanes`
        tells; `fl.plan` measures.
      devices: how many devices, or which ones; None takes all of the default platform.
      mapping: "shard_map", or "pmap".
      deterministic: sum over devices in a fixed order, so that results are bit-equal however the devices are spread
        over processes; costs one copy of the message per device.
      max_steps: a static bound on local steps. Loops get static lengths then, which reverse-mode differentiation
        through a round needs and ragged clients pay for.
      donate: reuse the memory of the state that goes into a step, which is then gone for the caller.
      jit: False runs operation by operation, for debugging.
    """

    lanes: int | None = None
    devices: int | Sequence[Any] | None = None
    mapping: str = "shard_map"
    deterministic: bool = False
    max_steps: int | None = None
    donate: bool = False
    jit: bool = True


class Layout(NamedTuple):
    """An Execution that was checked against the machine.

    Attributes:
      lanes: L, or 0 where `with_lanes` is to choose.
      devices: the devices, in order.
      mesh: their mesh, or None for one device.
      execution: what was asked for.
    """

    lanes: int
    devices: tuple[Any, ...]
    mesh: Any
    execution: Execution

    @property
    def num_devices(self) -> int:
        """D, the number of devices."""
        return len(self.devices)

    @property
    def platform(self) -> str:
        """The devices' platform, which need not be the one that JAX takes by default: "cpu", "gpu", "tpu" ..."""
        return self.devices[0].platform


def resolve(execution: Execution, capacity: int) -> Layout:
    """Checks an Execution against the machine and fills in what it leaves open.

    Args:
      execution: what the user asked for.
      capacity: the most clients in a cohort; more lanes than that would stay empty.

    Returns:
      a Layout; `with_lanes` fills in the lanes, once the model is known.

    Raises:
      TypeError, ValueError: for lanes, devices, a mapping or max_steps that are not possible here.
    """
    if not isinstance(execution, Execution):
        raise TypeError(f"`execution` is {execution!r}; expected an fl.Execution, such as fl.Execution(lanes=4).")
    deterministic, donate, jit = checks.flag(
        deterministic=execution.deterministic, donate=execution.donate, jit=execution.jit
    )
    execution = execution._replace(
        mapping=checks.one_of(("shard_map", "pmap"), mapping=execution.mapping),
        max_steps=None if execution.max_steps is None else checks.positive_int(max_steps=execution.max_steps),
        lanes=None if execution.lanes is None else checks.positive_int(lanes=execution.lanes),
        deterministic=deterministic,
        donate=donate,
        jit=jit,
    )
    devices = _devices(execution.devices)
    lanes = execution.lanes or 0
    mesh = None
    if len(devices) > 1:
        mesh = jax.sharding.Mesh(np.asarray(devices), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
    return Layout(min(lanes, capacity), devices, mesh, execution)


def with_lanes(
    layout: Layout, model: PyTree, population: Population, capacity: int, *, memory: int | None = None
) -> Layout:
    """The layout with a number of lanes, chosen where it was left open.

    On a CPU one lane is fastest as soon as a few models do not fit into the first cache of a core (32 kB); below that
    lanes share the cost of each operation, up to 64 of them, or 16 as soon as one client is much larger than the mean:
    then more lanes cost more at each change of clients than they save. An accelerator is filled: up to 64 models, as
    its memory allows, or as few as take no more turns, unless clients are ragged.

    Args:
      layout: of `resolve`.
      model: what each lane trains a copy of; arrays, or their shapes.
      population: the data, or their shapes.
      capacity: the most clients in a cohort.
      memory: bytes of each device; None asks them.

    Returns:
      the layout, with lanes of at least 1.
    """
    if layout.lanes:
        return layout
    model_bytes = sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(model))
    share = -(-capacity // layout.num_devices)
    rows = jax.tree.leaves(dict(population.features))[0].shape[0]
    ragged = population.max_size * population.num_clients > 2 * rows
    if layout.platform == "cpu":
        fit = max(1, min(16 if ragged else 64, 2**15 // max(model_bytes, 1), share))
        return layout._replace(lanes=1 << (fit.bit_length() - 1))
    fit = max(1, min(64, (memory or _device_memory(layout)) // 64 // max(model_bytes, 1), share))
    # Clients of about one size go through as many lanes as have no empty one in the last turn.
    return layout._replace(lanes=fit if ragged else -(-share // -(-share // fit)))


def _device_memory(layout: Layout) -> int:
    # A lane holds some models and the activations of a batch; where the size is not told, a small device is assumed.
    # So it is across processes: what each reads of its own devices may differ, and their programs must not.
    small = 2**33
    for device in () if spans_processes(layout) else layout.devices:
        # Devices that a program is only compiled for do not answer.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            return int((device.memory_stats() or {}).get("bytes_limit", small))
    return small


def spans_processes(layout: Layout) -> bool:
    """Whether the devices are those of several processes, all of which have to do the same."""
    return len({device.process_index for device in layout.devices}) > 1


def _devices(devices: int | Sequence[Any] | None) -> tuple[Any, ...]:
    available = jax.devices()
    if devices is None:
        return tuple(available)
    if isinstance(devices, (int, np.integer)) and not isinstance(devices, bool):
        if not 1 <= devices <= len(available):
            raise ValueError(
                f"`devices` is {devices}; expected 1 to {len(available)}, the {available[0].platform} devices that JAX "
                "sees. On a CPU, fl.use_cpu_cores(n) before the first use of JAX makes n."
            )
        return tuple(available[: int(devices)])
    chosen = tuple(devices) if isinstance(devices, Sequence) else ()
    if not chosen or not all(isinstance(d, jax.Device) for d in chosen):
        raise TypeError(f"`devices` is {devices!r}; expected an int, a sequence of jax devices, or None for all.")
    return chosen


def over_devices(
    body: Callable[[Any, PyTree, PyTree, PyTree], tuple[PyTree, PyTree]], layout: Layout
) -> Callable[..., Any]:
    """Maps a per-device function over the devices of a layout.

    Args:
      body: `body(device, state, data, sharded) -> (replicated, sharded)`. `device` is the device's index; state and
        data are replicated; `sharded` is this device's piece along the leading axis of every leaf; sums over devices
        are `merge`.
      layout: where to run.

    Returns:
      `run(state, data, sharded) -> (replicated, sharded)`, jitted, on global arrays. Under `Execution(donate=True)` it
      takes over the memory of `state` and `sharded`, never that of `data`.
    """
    execution = layout.execution
    donate = (0, 2) if execution.donate else ()
    if layout.mesh is None:
        run = lambda state, data, sharded: body(jnp.int32(0), state, data, sharded)  # noqa: E731
        return jax.jit(run, donate_argnums=donate) if execution.jit else run
    if execution.mapping == "pmap":
        return _pmap(body, layout)

    def local(state: PyTree, data: PyTree, sharded: PyTree) -> tuple[PyTree, PyTree]:
        # Without the cast, the gradient of a replicated argument would be summed over devices: every client would
        # also step with the gradients of clients on other devices.
        state, data = jax.tree.map(_varying, (state, data))
        return body(jax.lax.axis_index(AXIS), state, data, sharded)

    everywhere, split = jax.P(), jax.P(AXIS)
    mapped = jax.shard_map(
        local,
        mesh=layout.mesh,
        in_specs=(everywhere, everywhere, split),
        out_specs=(everywhere, split),
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=donate)


def _pmap(body: Callable[..., Any], layout: Layout) -> Callable[..., Any]:
    num = layout.num_devices
    mapped = jax.pmap(
        body,
        axis_name=AXIS,
        in_axes=(0, None, None, 0),
        out_axes=(None, 0),
        devices=list(layout.devices),
    )

    def run(state: PyTree, data: PyTree, sharded: PyTree) -> tuple[PyTree, PyTree]:
        pieces = jax.tree.map(lambda x: x.reshape((num, x.shape[0] // num, *x.shape[1:])), sharded)
        replicated, pieces = mapped(jnp.arange(num, dtype=jnp.int32), state, data, pieces)
        return replicated, jax.tree.map(lambda x: x.reshape((-1, *x.shape[2:])), pieces)

    return run


def _varying(leaf: Any) -> Any:
    return jax.lax.pcast(leaf, AXIS, to="varying")


def merge(tree: PyTree, layout: Layout) -> PyTree:
    """Sums a pytree over the devices, inside `over_devices`."""
    if layout.num_devices == 1:
        return tree
    if not layout.execution.deterministic:
        return jax.lax.psum(tree, AXIS)
    return jax.tree.map(lambda x: jax.lax.all_gather(x, AXIS).sum(0, dtype=x.dtype), tree)


def place(tree: PyTree, layout: Layout, *, sharded: bool = False) -> PyTree:
    """Puts arrays where rounds of this layout want them: one device, or replicated or sharded over the mesh.

    With several processes every process gives the same values, and keeps its own devices' part.
    """
    if layout.mesh is None:
        return jax.device_put(tree, layout.devices[0])
    target = jax.NamedSharding(layout.mesh, jax.P(AXIS) if sharded else jax.P())
    if target.is_fully_addressable:
        return jax.device_put(tree, target)
    return jax.tree.map(lambda leaf: _place_global(leaf, target), tree)


def placed_shapes(tree: PyTree, layout: Layout) -> PyTree:
    """The shapes of host arrays as they are once placed: a program that is traced for them is not traced again."""
    if layout.mesh is None or checks.is_traced(tree):
        return tree
    everywhere = jax.NamedSharding(layout.mesh, jax.P())
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), tree)


def _place_global(leaf: Any, target: jax.NamedSharding) -> Any:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return leaf  # made by an earlier round of the same processes
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _place_global(jax.random.key_data(leaf), target)
        return jax.random.wrap_key_data(data, impl=str(jax.random.key_impl(leaf)))
    value = np.asarray(leaf)
    return jax.make_array_from_callback(value.shape, target, lambda index: value[index])
