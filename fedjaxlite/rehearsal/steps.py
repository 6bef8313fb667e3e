"""Steps one after another: how long the schedule of a round is, from the sizes of the clients alone."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite.data.client_view import mean_size
from fedjaxlite.data.local_loop import Block
from fedjaxlite.data.population import Population
from fedjaxlite.data.prepared.drawing import all_alike
from fedjaxlite.execution.lanes import queues
from fedjaxlite.execution.lanes.queues import Cut
from fedjaxlite.execution.lanes.schedule import balanced, dealt, owned
from fedjaxlite.execution.layout import Layout
from fedjaxlite.execution.remembering import steps_of
from fedjaxlite.sampling import Cohort, Sampler

_COHORTS = 8


class Length(NamedTuple):
    """How long a round is on its busiest device, on average over cohorts that were drawn.

    Attributes:
      steps: local steps one after another.
      turns: how often lanes end clients and begin others.
      even: steps where all lanes of all devices shared the cohort's steps evenly.
      cohorts: how many cohorts were drawn; 1 where every round has the same.
      exact: whether the clients' sizes are known; else every client has the mean size.
    """

    steps: float
    turns: float
    even: float
    cohorts: int
    exact: bool


def sizes_of(population: Population) -> tuple[np.ndarray, bool]:
    """Examples of each client, `[N]`, and whether they are known; else every client has the mean size, rounded up."""
    if not isinstance(population.offsets, jax.ShapeDtypeStruct):
        return np.diff(np.asarray(population.offsets)), True
    rows = jax.tree.leaves(dict(population.features))[0].shape[0]
    return np.full(population.num_clients, -(-rows // population.num_clients)), False


def client_steps(hparams: Mapping[str, Any], sizes: np.ndarray) -> np.ndarray | None:
    """Local steps of clients of these sizes, `[N]`.

    None where the algorithm's hyperparameters do not say: it has no "batch_size" with "epochs" or "steps".
    """
    count = steps_of(hparams)
    return None if count is None else np.asarray(count(sizes, np.float32(1)))


def length_of(
    hparams: Mapping[str, Any],
    sampler: Sampler,
    population: Population,
    layout: Layout,
    *,
    tied: bool,
    change_cost: int | None,
) -> Length | None:
    """How many steps a round takes one after another.

    Args:
      hparams: the algorithm's.
      sampler: who takes part.
      population: the data; their sizes are what matters, and may be shapes.
      layout: lanes and devices.
      tied: whether clients keep states, so that each is trained where its state is.
      change_cost: what a client costs apart from its loop, in steps; None where its program is not taken apart.

    Returns:
      a Length, or None where the number of local steps is not known.
    """
    sizes, exact = sizes_of(population)
    steps = client_steps(hparams, sizes)
    if steps is None or sampler.memory is not None:  # whose cohorts follow from the rounds before
        return None
    # The sampler may read sizes, and no features: these may be larger than this machine.
    people = Population({}, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32), int(sizes.max()))
    number = 1 if sampler.accounting.kind == "full" else min(_COHORTS, sampler.num_rounds or _COHORTS)
    cut = WAVES if change_cost is None else _cut(hparams, sampler, population, layout, change_cost)
    found = [steps_in_turn(_cohort(sampler, people, i), sizes, steps, layout, cut, tied=tied) for i in range(number)]
    steps_taken, turns, even = (float(np.mean(column)) for column in zip(*found, strict=True))
    return Length(steps_taken, turns, even, number, exact)


WAVES = Cut(Block(1, whole=False, exact=False), None, queues=False)
"""Lanes that begin together, and as many steps as the longest has."""


def _cut(hparams: Mapping[str, Any], sampler: Sampler, population: Population, layout: Layout, change_cost: int) -> Cut:
    sizes = np.array([population.max_size, mean_size(population)])
    steps = client_steps(hparams, sizes)
    largest, mean = (None, None) if steps is None else map(int, steps)
    return queues.cut_for(
        largest=largest,
        mean=mean,
        alike=all_alike(sampler, population),
        turns=sampler.capacity / (layout.lanes * layout.num_devices),
        lanes=layout.lanes,
        platform=layout.platform,
        change_cost=change_cost,
        in_step=layout.in_step,
    )


def steps_in_turn(
    cohort: Cohort, sizes: np.ndarray, steps: np.ndarray, layout: Layout, cut: Cut, *, tied: bool
) -> tuple[int, int, float]:
    """One round's schedule: (steps one after another on the busiest device, its changes, an even share of the steps).

    Args:
      cohort: of a sampler.
      sizes: `[N]` examples of each client.
      steps: `[N]` local steps of each client that does all of its work.
      layout: lanes and devices.
      cut: how the clients' loops are run.
      tied: whether clients are trained where their states are.
    """
    ids, share = np.asarray(cohort.ids), np.asarray(cohort.work)
    active = np.asarray(cohort.selected & cohort.reported)
    todo = np.where(share < 1, np.maximum(np.ceil(share * steps[ids] - 1e-4), 1), steps[ids])
    todo = np.where(active & (steps[ids] > 0), todo, 0).astype(int)
    lanes, num_devices = layout.lanes, layout.num_devices
    even = todo.sum() / (lanes * num_devices)
    if layout.execution.max_steps is not None:  # all waves are as long as the largest client
        waves = -(-len(ids) // lanes)
        return waves * int(steps.max()), waves, float(even)
    work = jnp.asarray(sizes[ids] * share, jnp.float32)
    owners = ids // -(-len(sizes) // num_devices) if tied and num_devices > 1 else None
    orders = [np.asarray(part) for part in _schedules(work, jnp.asarray(active), owners, layout, cut)]
    parts = [todo[order[start : start + size]] for order, start, size in zip(*orders, strict=True)]
    if layout.in_step:  # in each turn all devices take the steps of the one with the most
        width = max(len(part) for part in parts)
        parts = [np.stack([np.pad(part, (0, width - len(part))) for part in parts]).max(0)]
    longest = max(queues.steps_in_turn(part, lanes=lanes, cut=cut) for part in parts)
    return longest[0], longest[1], float(even)


def _schedules(work: jax.Array, active: jax.Array, owners: Any, layout: Layout, cut: Cut) -> Any:
    """The engine's own schedule of every device."""

    def of(device: jax.Array) -> Any:
        if owners is not None:
            return owned(work, active, jnp.asarray(owners), device=device)
        split: dict[str, Any] = {"device": device, "num_devices": layout.num_devices}
        return (
            dealt(work, active, **split)
            if cut.queues or layout.in_step
            else balanced(work, active, lanes=layout.lanes, **split)
        )

    return jax.jit(jax.vmap(of))(jnp.arange(layout.num_devices, dtype=jnp.int32))


def _cohort(sampler: Sampler, people: Population, number: int) -> Cohort:
    draw = jax.jit(lambda offsets: sampler.sample(jax.random.key(0), number, _with_offsets(people, offsets)))
    return draw(people.offsets)


def _with_offsets(people: Population, offsets: Any) -> Population:
    return Population({}, offsets, people.max_size)
