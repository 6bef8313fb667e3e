"""A prepared cohort held against the rounds that take it, and its shapes before there is one."""

from typing import Any

import jax
import numpy as np

from fedjaxlite import checks
from fedjaxlite.data.on_disk.folder import about
from fedjaxlite.data.population import Population
from fedjaxlite.data.prepared.drawing import alike_ahead, drawn_by, offsets_shape
from fedjaxlite.data.prepared.gathering import most_examples
from fedjaxlite.data.prepared.whole import Whole, cohort_population, counted
from fedjaxlite.data.prepared_cohort import PreparedCohort
from fedjaxlite.execution.layout import Execution, placed_shapes
from fedjaxlite.execution.one_round import Program
from fedjaxlite.execution.round_state import RoundState
from fedjaxlite.sampling import Sampler

PyTree = Any


def check(program: Program, state: RoundState, data: Any) -> None:
    """Refuses a prepared cohort that does not fit the devices, or the states that the rounds keep."""
    if not isinstance(data, PreparedCohort):
        return
    if program.sampler.memory is not None:
        raise ValueError(
            f"{program.sampler.name} carries a memory from round to round, and a prepared cohort was drawn without it. "
            "Give `step` the whole Population."
        )
    devices = program.layout.num_devices
    rows = [leaf.shape[0] for leaf in jax.tree.leaves(data.population.features)]
    if data.owner is not None and any(number % devices for number in rows):
        raise ValueError(
            f"the prepared cohort has {rows[0]} rows of data in pieces, which {devices} devices cannot share equally. "
            f"Prepare it for them: fl.prepare_cohort(..., num_devices={devices})."
        )
    if data.owner is not None and devices == 1:
        raise ValueError(
            "the prepared cohort is shared out over several devices (it has an `owner`), and these rounds run on one. "
            "Prepare it for one: fl.prepare_cohort(..., num_devices=1)."
        )
    kept = jax.tree.leaves(state.clients)
    if not kept and not jax.tree.leaves(data.clients):
        return
    elsewhere = program.layout.execution.states_elsewhere
    if elsewhere != bool(jax.tree.leaves(data.clients)):
        where = program.layout.execution.client_states
        raise ValueError(
            f"these rounds keep clients' states elsewhere (client_states={where!r}), and the prepared cohort has none. "
            "Give it those of its clients: fl.prepare_cohort(..., clients=states); fl.train does that by itself."
            if elsewhere
            else "the prepared cohort brings states of its clients, and these rounds keep all of them on the devices. "
            'Compose the rounds with Execution(client_states="host"), or leave `clients` out.'
        )
    if elsewhere:
        checks.same_structure(
            data.clients,
            state.clients,
            what="what the prepared cohort holds of its clients' states",
            than="what the state holds of clients (one row a slot, for each device)",
            remedy=f"Prepare it for {devices} devices, with a state of every slot of the cohort.",
        )


def check_whole(program: Program, state: RoundState, population: Population) -> None:
    """Refuses a step on a population that lies on a disk, or where rounds need the states of a cohort with its data."""
    if population.stored is not None:
        raise ValueError(
            f"the population lies on a disk ({about(population.stored)}), and rounds.step and rounds.steps put all "
            "of it on every device. fl.train takes it and streams it; fl.prepare_cohort gathers one round's clients "
            "for rounds.step; population.in_memory() reads it whole where it fits."
        )
    if program.layout.execution.states_elsewhere and jax.tree.leaves(state.clients):
        raise ValueError(
            f"these rounds keep clients' states elsewhere (client_states={program.layout.execution.client_states!r}), "
            "so that a step needs those of its cohort. fl.train fetches and writes them; a step of your own takes "
            "fl.prepare_cohort(population, cohort, clients=states)."
        )


def streams(execution: Execution, population: Population) -> bool:
    """Whether rounds on a population go cohort by cohort."""
    return population.on_disk or execution.states_elsewhere


def whole_of(sampler: Sampler, population: Population) -> Whole:
    """What the cohorts of a population tell of it, as all rounds are compiled for."""
    rows, num_clients = counted(population)
    return Whole(num_clients, rows, alike_ahead(sampler, population))


def shapes(program: Program, population: Any, clients: PyTree) -> Any:
    """The data of a round as shapes, as they are once placed; nothing is read of a population but its sizes.

    Args:
      program: the four axes.
      population: what the run trains on, or a prepared cohort.
      clients: what the state holds of the clients.
    """
    layout = program.layout
    if not isinstance(population, Population) or not streams(layout.execution, population):
        return placed_shapes(population, layout)
    slots, devices = program.sampler.capacity, layout.num_devices
    rows = most_examples(population, slots) * devices
    sample, key = drawn_by(program.sampler, population), jax.random.key(0, impl="threefry2x32")
    cohort = jax.eval_shape(sample, key, np.int32(0), offsets_shape(population))
    features = {
        name: jax.ShapeDtypeStruct((rows, *array.shape[1:]), jax.dtypes.canonicalize_dtype(array.dtype))
        for name, array in population.features.items()
    }
    offsets = jax.ShapeDtypeStruct((slots + 1,), np.int32)
    owner = jax.ShapeDtypeStruct((slots,), np.int32) if devices > 1 else None
    everywhere = lambda tree: placed_shapes(tree, layout)  # noqa: E731
    features = placed_shapes(features, layout, sharded=devices > 1)
    own = cohort_population(features, everywhere(offsets), population.max_size, whole_of(program.sampler, population))
    clients = clients if layout.execution.states_elsewhere else ()
    return PreparedCohort(own, everywhere(cohort), everywhere(owner), clients)
