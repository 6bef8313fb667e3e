"""A round as it is compiled for devices that are not there: shapes in place of arrays, and the compiler's own word."""

from typing import Any, NamedTuple

import jax

from fedjaxlite.data.population import Population
from fedjaxlite.execution.composition import Rounds
from fedjaxlite.execution.layout import Layout, shardings_like, with_model
from fedjaxlite.execution.round_state import RoundState

PyTree = Any


class Memory(NamedTuple):
    """Bytes on each device, as XLA counts them for a compiled program.

    Attributes:
      arguments: the state and the data.
      temporaries: what the round needs beside them while it runs.
      output: the next state, and what the round tells.
      alias: of the output, what lies where an argument was (`Execution(donate=True)`).
    """

    arguments: int
    temporaries: int
    output: int
    alias: int

    @property
    def total(self) -> int:
        """What has to fit at once."""
        return self.arguments + self.temporaries + self.output - self.alias


def abstract(tree: PyTree, layout: Layout, *, sharded: bool = False) -> PyTree:
    """The shapes of arrays as a layout would place them, on devices where nothing can be placed.

    Args:
      tree: pytree of arrays or shapes.
      layout: of the target's devices.
      sharded: along the leading axis over the devices; else every device holds a copy.

    Returns:
      the pytree with a `jax.ShapeDtypeStruct` in place of each leaf.
    """
    alone = jax.sharding.SingleDeviceSharding(layout.devices[0])
    there = (
        jax.tree.map(lambda _: alone, tree) if layout.mesh is None else shardings_like(tree, layout, sharded=sharded)
    )
    return jax.tree.map(lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), tree, there)


def first_shapes(run: Rounds, params: PyTree, population: Population) -> RoundState:
    """The shapes of a run's first state; whatever `run.init` refuses is refused.

    Args:
      run: composed for any devices, those of a target among them.
      params: the model, or its shapes.
      population: the data, or their shapes.

    Returns:
      a RoundState of shapes, without shardings.
    """
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (params, population))
    key = jax.random.key(0)
    return jax.eval_shape(lambda params, data: run.init(params, data, key=key, noise_key=key), *shapes)


def lowered(run: Rounds, state: RoundState, population: Population, layout: Layout) -> jax.stages.Lowered:
    """The program of a round for a layout's devices.

    Args:
      run: composed for these devices.
      state: of `first_shapes`.
      population: the data, or their shapes.
      layout: of the target's devices.
    """
    own = with_model(layout, jax.eval_shape(run.algorithm.params, state.server_state))
    clients = abstract(state.clients, own, sharded=True)
    return run.lower(abstract(state._replace(clients=()), own)._replace(clients=clients), abstract(population, layout))


def compiled_for(program: jax.stages.Lowered, platform: str) -> jax.stages.Compiled:
    """Compiles a lowered program for devices that are not there."""
    # Tuning would time kernels on the device.
    options: Any = {"xla_gpu_autotune_level": 0} if platform == "gpu" else None
    return program.compile(options)


def memory_of(program: jax.stages.Compiled) -> Memory:
    """XLA's own account of a compiled program's memory, on each device."""
    told: Any = program.memory_analysis()
    return Memory(
        told.argument_size_in_bytes,
        told.temp_size_in_bytes,
        told.output_size_in_bytes,
        told.alias_size_in_bytes,
    )
