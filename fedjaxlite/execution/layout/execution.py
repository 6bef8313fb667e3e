"""Execution: on what devices a round runs, how many clients at once, and in which loops; held against the machine."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjaxlite import checks
from fedjaxlite.execution.model_axis import mesh as meshes
from fedjaxlite.execution.model_axis import shardings
from fedjaxlite.execution.model_axis.mesh import AXIS as AXIS

PyTree = Any
_KEPT = ("device", "host")
_SLIPS = {*_KEPT, "devices", "hosts", "cpu", "gpu", "tpu", "ram", "memory", "disk", "file", "folder", "none", "auto"}


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
      client_states: where what clients keep between their rounds lies: "device", a bank on the devices; "host", in host
        memory; or a folder, memory-mapped. Other than on the devices, a cohort's are fetched and written back beside
        the next round's work, by `fl.train`.
      mesh: in place of `devices`, a `jax.sharding.Mesh` with an axis "clients" and others for the model, whatever their
        names: the devices along these train each client together.
      param_shardings: how the parameters are sharded over the model's axes: a pytree of `jax.P` (or NamedSharding; None
        for a copy on each of these devices) like `params` or with fewer levels, or `f(path, leaf) -> jax.P`, where
        `path` is a tuple of names. What is like the parameters (optimizer states, messages, clients' states) follows.
    """

    lanes: int | None = None
    devices: int | Sequence[Any] | None = None
    mapping: str = "shard_map"
    deterministic: bool = False
    max_steps: int | None = None
    donate: bool = False
    jit: bool = True
    client_states: str | os.PathLike[str] = "device"
    mesh: Any = None
    param_shardings: Any = None

    @property
    def states_elsewhere(self) -> bool:
        """Whether clients' states are kept elsewhere than on the devices."""
        return os.fspath(self.client_states) != "device"


class Layout(NamedTuple):
    """An Execution that was checked against the machine.

    Attributes:
      lanes: L, or 0 where `with_lanes` is to choose.
      devices: the devices, in order.
      mesh: their mesh, or None for one device.
      execution: what was asked for.
      table: how each parameter is sharded, once the model is known; see `with_model`.
    """

    lanes: int
    devices: tuple[Any, ...]
    mesh: Any
    execution: Execution
    table: shardings.Table = ()

    @property
    def num_devices(self) -> int:
        """D, the devices that train clients of their own; each is a group of devices where a model is sharded."""
        return len(self.devices) // self.num_shards

    @property
    def num_shards(self) -> int:
        """How many devices train one client together: 1, unless the mesh has axes for the model."""
        return meshes.num_shards(self.mesh)

    @property
    def in_step(self) -> bool:
        """Whether loops take as many trips on all devices: what XLA exchanges within a lane may want all of them."""
        return self.num_shards > 1 and self.num_devices > 1

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
        client_states=_where_states(execution.client_states),
    )
    if execution.mesh is None:
        devices = _devices(execution.devices)
        mesh = meshes.line_of(devices)
    else:
        mesh = meshes.checked(execution.mesh, devices=execution.devices, mapping=execution.mapping, jit=jit)
        devices = meshes.in_order(mesh)
        if execution.states_elsewhere and meshes.model_axes(mesh):
            raise ValueError(
                f"`client_states` is {execution.client_states!r}, and `mesh` has axes for the model: what clients keep "
                'is sharded like it, which only devices can hold. Leave `client_states` at "device", or give a mesh of '
                "clients alone."
            )
    shardings.check_form(execution.param_shardings, mesh)
    return Layout(min(execution.lanes or 0, capacity), devices, mesh, execution)


def with_model(layout: Layout, model: PyTree, *, strict: bool = False) -> Layout:
    """The layout with what `Execution.param_shardings` says of a model; unchanged where no mesh has axes for one.

    Args:
      layout: of `resolve`.
      model: the parameters, or their shapes.
      strict: whether what does not fit is refused; else it lies whole on every device.

    Raises:
      TypeError, ValueError: with the path of what does not fit.
    """
    if not meshes.model_axes(layout.mesh):
        return layout
    given = layout.execution.param_shardings
    return layout._replace(table=shardings.table_of(given, model, layout.mesh, strict=strict))


def _where_states(given: Any) -> str:
    """Where clients' states are kept; a word near to one of ours is a slip, and no folder."""
    path = os.fspath(given) if isinstance(given, (str, os.PathLike)) else None
    expected = 'expected "device", "host", or a folder such as "runs/a/clients"'
    if not isinstance(path, str) or not path.strip() or "\0" in path:
        raise TypeError(f"`client_states` is {given!r}; {expected}.")
    if isinstance(given, str) and path not in _KEPT and path.strip().lower() in _SLIPS:
        raise ValueError(f"`client_states` is {given!r}; {expected}. A folder of that name is './{path.strip()}'.")
    if path not in _KEPT and os.path.exists(path) and not os.path.isdir(path):  # noqa: PTH110, PTH112
        raise ValueError(f"`client_states` is {given!r}, which is a file; {expected}.")
    return path


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
