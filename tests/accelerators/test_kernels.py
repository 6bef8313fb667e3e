"""Kernels that a local step starts on an H100: ceilings, beside a plain scan of the same steps.

Each is about two microseconds, whatever it computes, and in a loop whose trip count the compiler does not know the
host looks at the condition at every trip.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import subjects

import fedjaxlite as fl
from fedjaxlite import models
from fedjaxlite.rehearsal import hlo, loops, programs
from fedjaxlite.rehearsal.absent import devices_of
from fedjaxlite.rehearsal.targets import target_named

pytestmark = [pytest.mark.accelerators, pytest.mark.covering]


class Workload(NamedTuple):
    """As `fedjaxlite bench` has it, with as many lanes as an accelerator takes.

    Attributes:
      model: what is trained.
      sizes: examples of each client.
      shape: of an example.
      batch_size: B.
      lanes: clients side by side.
      ceiling: the most kernels in the loop of local steps.
    """

    model: models.Model
    sizes: np.ndarray
    shape: tuple[int, ...]
    batch_size: int
    lanes: int
    ceiling: int


def _ragged() -> np.ndarray:
    sizes = np.random.default_rng(0).lognormal(np.log(20), 1.2, 500)
    return np.clip(sizes.astype(int), 1, 1000)


WORKLOADS = {
    "W1": lambda: Workload(
        models.mlp(features=(200, 200, 10), input_shape=(28, 28, 1)), np.full(20, 600), (28, 28, 1), 10, 20, 18
    ),
    "W2": lambda: Workload(models.cnn(), np.full(40, 200), (28, 28, 1), 20, 16, 37),
    "W3": lambda: Workload(models.logistic(num_classes=10, input_shape=(60,)), _ragged(), (60,), 10, 64, 9),
}


@pytest.mark.parametrize("name", WORKLOADS)
def test_kernels_of_a_local_step(name: str, record_property: Any) -> None:
    work = WORKLOADS[name]()
    own, limit = loops.step_loop(_round(work)), loops.step_loop(_scan(work))
    assert own is not None
    assert limit is not None
    record_property(
        "kernels",
        f"{name}: {own.kernels} kernels a local step with {work.lanes} lanes on an H100 (at most {work.ceiling}), trip "
        f"count {own.trips or 'unknown'}; a plain scan {limit.kernels}, trip count {limit.trips or 'unknown'}",
    )
    assert own.kernels <= work.ceiling
    assert own.trips is not None


def _round(work: Workload) -> hlo.Text:
    owner = np.repeat(np.arange(len(work.sizes)), work.sizes)
    data = {"x": np.zeros((len(owner), *work.shape), np.float32), "y": np.zeros(len(owner), np.int32)}
    algorithm = fl.algorithms.fed_avg(
        fl.losses.cross_entropy(work.model), client_optimizer=optax.sgd(0.1), batch_size=work.batch_size, epochs=1
    )
    made = subjects.Made(
        algorithm,
        fl.weighted_mean(),
        fl.sampling.full(len(work.sizes)),
        jax.eval_shape(work.model.init, jax.random.key(0)),
        fl.Population.from_arrays(data, client_ids=owner),
    )
    return hlo.read(subjects.compiled(made, "h100", work.lanes).as_text())


def _scan(work: Workload) -> hlo.Text:
    """As many steps of as many models side by side, and nothing else: no shuffle, weight, mask or metric."""
    (device,) = devices_of(target_named("h100"))
    loss = fl.lower(fl.losses.cross_entropy(work.model), platform="gpu", lanes=work.lanes)
    mask = jnp.ones(work.batch_size, bool)

    def mean(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.mean(loss(params, {"x": x, "y": y, "mask": mask}, jax.random.key(0))[0])

    def client(params: Any, x: jax.Array, y: jax.Array) -> Any:
        def step(own: Any, rows: Any) -> tuple[Any, None]:
            return jax.tree.map(lambda p, g: p - 0.1 * g, own, jax.grad(mean)(own, *rows)), None

        return jax.tree.map(jnp.subtract, params, jax.lax.scan(step, params, (x, y))[0])

    def one_round(params: Any, x: jax.Array, y: jax.Array) -> Any:
        deltas = jax.vmap(client, (None, 0, 0))(params, x, y)
        return jax.tree.map(lambda p, d: p - d.mean(0), params, deltas)

    shape = (work.lanes, 60, work.batch_size)
    there = jax.sharding.SingleDeviceSharding(device)
    params = jax.eval_shape(work.model.init, jax.random.key(0))
    args = (params, jax.ShapeDtypeStruct((*shape, *work.shape), np.float32), jax.ShapeDtypeStruct(shape, np.int32))
    placed = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=there), args)
    return hlo.read(programs.compiled_for(jax.jit(one_round).lower(*placed), "gpu").as_text())
