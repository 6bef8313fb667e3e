"""Runs as programs: the beginning of many runs, and some rounds of all of them, on one device or over several."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite.data.population import Population
from fedjaxlite.keys import NoiseKeys
from fedjaxlite.sweeps import measuring, seeds
from fedjaxlite.sweeps.grid import Point, made, numbers_of
from fedjaxlite.sweeps.measuring import Measures

PyTree = Any
AXIS = "runs"


class Study(NamedTuple):
    """What does not change in a sweep.

    Attributes:
      make: `make(**point) -> Rounds`.
      points: all points.
      init: `init(key) -> params`.
      population: whom all runs train on, on every device.
      measures: the evaluations.
      mesh: the devices.
      side_by_side: whether the runs of a device are vmapped; else one comes after the other.
    """

    make: Callable[..., Any]
    points: tuple[Point, ...]
    init: Callable[[Any], PyTree]
    population: Population
    measures: Measures
    mesh: jax.sharding.Mesh
    side_by_side: bool


class Runs(NamedTuple):
    """What begins some runs, each leaf with an axis `[R]`.

    Attributes:
      hyper: the traced numbers, by name.
      keys: the seeds' keys.
      noise: the noise keys; secret ones as NoiseKeys.
    """

    hyper: dict[str, jax.Array]
    keys: jax.Array
    noise: Any


class Programs(NamedTuple):
    """The programs of a group; see `traced`.

    Attributes:
      begin: `begin(runs, population) -> states`.
      some_rounds: `some_rounds[n](hyper, states, population) -> (states, measured, overflow)`, n rounds; it takes over
        the memory of `states`.
      params: `params((hyper, states), population)`, the models.
    """

    begin: jax.stages.Traced
    some_rounds: dict[int, jax.stages.Traced]
    params: jax.stages.Traced


def traced(study: Study, fixed: Point, example: Runs, lengths: Sequence[int]) -> Programs:
    """Traces the programs of a group of points; raises whatever `make` or the library say to a tracer.

    Args:
      study: see there.
      fixed: the values that are the same in all points of the group.
      example: some of its runs, as many as will be on the devices at once.
      lengths: the numbers of rounds between evaluations.
    """

    def begin(runs: Runs, population: Population) -> Any:
        run = made(study.make, {**fixed, **runs.hyper})
        return seeds.begin_with(run, study.init, population, runs.keys, runs.noise)

    def some_rounds(num_rounds: int, both: Any, population: Population) -> Any:
        hyper, state = both
        run = made(study.make, {**fixed, **hyper})
        state, infos = run.steps(state, population, num_rounds)
        found = measuring.in_program(study.measures, run.params(state), infos)
        return state, found, infos.overflow.max()

    def params(both: Any) -> PyTree:
        hyper, state = both
        return made(study.make, {**fixed, **hyper}).params(state)

    first = _over_runs(study, begin).trace(example, study.population)
    states = _shapes(study, first.out_info)
    hyper = _shapes(study, example.hyper)
    after = {}
    for num_rounds in dict.fromkeys(lengths):
        own = _over_runs(study, lambda both, people, n=num_rounds: some_rounds(n, both, people), takes_over=True)
        after[num_rounds] = own.trace(hyper, states, study.population)
    models = _over_runs(study, lambda both, people: params(both)).trace((hyper, states), study.population)
    return Programs(first, after, models)


def _over_runs(study: Study, one: Callable[[Any, Population], Any], *, takes_over: bool = False) -> Any:
    """`one(run, population)` for all runs along the leading axis, each device with its share of them."""

    def share(runs: Any, population: Population) -> Any:
        if study.side_by_side:
            return jax.vmap(lambda run: one(run, population))(runs)
        return jax.lax.map(lambda run: one(run, population), runs)

    if study.mesh.size > 1:
        split, everywhere = jax.P(AXIS), jax.P()
        mapped = jax.shard_map(share, mesh=study.mesh, in_specs=(split, everywhere), out_specs=split, check_vma=False)
    else:
        mapped = share
    if not takes_over:
        return jax.jit(mapped)
    return jax.jit(lambda hyper, states, population: mapped((hyper, states), population), donate_argnums=1)


def _shapes(study: Study, tree: Any) -> Any:
    """Shapes of arrays that lie where the runs are."""
    place = placement(study.mesh)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place, weak_type=_weak(leaf)), tree
    )


def _weak(leaf: Any) -> bool:
    return bool(getattr(leaf, "weak_type", False))


def placement(mesh: jax.sharding.Mesh, *, split: bool = True) -> jax.sharding.Sharding:
    """Where arrays `[R]` lie, or what all devices hold whole."""
    if mesh.size == 1:
        return jax.sharding.SingleDeviceSharding(mesh.devices.flat[0])
    return jax.sharding.NamedSharding(mesh, jax.P(AXIS) if split else jax.P())


def mesh_of(num_devices: int) -> jax.sharding.Mesh:
    """The first devices of this process."""
    return jax.sharding.Mesh(
        np.asarray(jax.local_devices()[:num_devices]), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,)
    )


def runs_of(
    study: Study, traced_names: Sequence[str], which: Sequence[tuple[int, int]], seed_list: Sequence[int], noise: Any
) -> Runs:
    """What begins the runs `(point, place of the seed)` of a list, on their devices.

    Args:
      study: see there.
      traced_names: whose values the program takes.
      which: the runs.
      seed_list: all seeds.
      noise: `[P, S]` keys, or NoiseKeys of them.
    """
    points, places = (np.asarray(column) for column in zip(*which, strict=True))
    hyper = numbers_of(study.points, traced_names, [point for point, _ in which])
    own = jax.vmap(jax.random.key)(jnp.asarray(np.asarray(seed_list)[places], jnp.uint32))
    keys = noise.key if isinstance(noise, NoiseKeys) else noise
    mine = keys[points, places]
    runs = Runs(hyper, own, NoiseKeys(mine) if isinstance(noise, NoiseKeys) else mine)
    return jax.device_put(runs, placement(study.mesh))
