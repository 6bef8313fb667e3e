"""A round's cohort on one device: drawn by the sampler from a whole population, or as the host prepared it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from fedjaxlite.data.population import Population
from fedjaxlite.data.prepared.whole import CohortPopulation
from fedjaxlite.data.prepared_cohort import PreparedCohort
from fedjaxlite.sampling import Cohort, Sampler

PyTree = Any


class Drawn(NamedTuple):
    """A round's cohort as one device trains it.

    Attributes:
      population: the data that this device reads.
      cohort: who takes part.
      rows: int32 `[K]`, each slot's index in `population`.
      sizes: int32 `[K]`, each slot's examples, on every device; None where `population` tells.
      owner: int32 `[K]`, the device that trains each slot; None where nothing says.
      bank_rows: int32 `[K]`, each slot's row among the states that this device holds; None where clients' ids say.
      remembered: what the sampler carries on.
    """

    population: Population
    cohort: Cohort
    rows: jax.Array
    sizes: jax.Array | None = None
    owner: jax.Array | None = None
    bank_rows: jax.Array | None = None
    remembered: PyTree = ()


def apart(data: Any) -> tuple[Any, Any, PyTree]:
    """What every device gets of the data of a step, what is shared out over them, and the clients' states or None."""
    if not isinstance(data, PreparedCohort):
        return data, (), None
    population, clients = data.population, data.clients
    shared: Any = ()
    if data.owner is not None:
        shared = dict(population.features)
        population = _rebuilt(population, {}, population.offsets)
    given = bool(jax.tree.leaves(clients))
    # None says to the round that its rows of states are this cohort's own.
    return data._replace(population=population, clients=None if given else ()), shared, clients if given else None


def _rebuilt(like: Population, features: Any, offsets: Any) -> Population:
    return type(like).tree_unflatten(like.tree_flatten_with_keys()[1], (features, offsets))


def draw(
    sampler: Sampler, key: Any, round_number: Any, data: Any, device: Any, shared: Any, remembered: PyTree = ()
) -> Drawn:
    """A round's cohort, its data, and each slot's row in them: drawn by the sampler, or as prepared.

    Args:
      sampler: who takes part.
      key: the run's sampling key.
      round_number: int32.
      data: what `apart` gave to every device.
      device: int32, this one's index.
      shared: this device's piece of what `apart` shared out.
      remembered: what the sampler carries from round to round.
    """
    if not isinstance(data, PreparedCohort) and sampler.memory is not None:
        cohort, remembered = sampler.memory.sample(remembered, key, round_number, data)
        return Drawn(data, cohort, cohort.ids, remembered=remembered)
    if not isinstance(data, PreparedCohort):
        cohort = sampler.sample(key, round_number, data)
        return Drawn(data, cohort, cohort.ids)
    slots = jnp.arange(data.cohort.ids.shape[0], dtype=jnp.int32)
    own = data.clients is None
    if data.owner is None:
        return Drawn(data.population, data.cohort, slots, bank_rows=slots if own else None)
    mine = data.owner == device
    sizes = data.population.offsets[1:] - data.population.offsets[:-1]
    ends = jnp.cumsum(jnp.where(mine, sizes, 0), dtype=jnp.int32)
    local = _rebuilt(data.population, shared, jnp.concatenate([jnp.zeros((1,), jnp.int32), ends]))
    rank = jnp.maximum(jnp.cumsum(mine, dtype=jnp.int32) - 1, 0)
    return Drawn(local, data.cohort, slots, sizes, data.owner, rank if own else None)


def drawn_by(sampler: Sampler, population: Population) -> Any:
    """`draw(key, round_number, offsets) -> Cohort`, a sampler's draw that reads no feature of the population.

    Raises:
      TypeError: when it is called (or traced), for a sampler that reads features.
    """
    if sampler.memory is not None:
        raise ValueError(
            f"{sampler.name} carries a memory from round to round, so its cohorts cannot be drawn ahead of the rounds: "
            "it works with a population in memory and client states on the devices. Load the population whole, and "
            'leave client_states="device".'
        )

    def sample(key: Any, round_number: Any, offsets: Any) -> Cohort:
        sizes = Population.tree_unflatten(population.max_size, ({}, offsets))
        try:
            return sampler.sample(key, round_number, sizes)
        except KeyError as error:
            raise TypeError(
                f"{sampler.name} asks for the feature {error} of the population, whose features do not lie on the "
                "devices when a cohort is drawn ahead. A sampler of a streamed run may read `population.num_clients` "
                "and `population.offsets`."
            ) from error

    return sample


def offsets_shape(population: Population) -> jax.ShapeDtypeStruct:
    """Of the offsets as a draw gets them. Beyond 2^31 rows they wrap, and sizes, their differences, stay right."""
    return jax.ShapeDtypeStruct((population.num_clients + 1,), np.int32)


def all_alike(sampler: Sampler, data: Any) -> bool:
    """Whether shapes alone tell that all clients have as many examples, and the sampler's program that all do all work.

    What is known so before anything runs makes the number of local steps a constant of the compiled round.
    """
    if isinstance(data, PreparedCohort):
        return isinstance(data.population, CohortPopulation) and data.population.whole.alike
    if sampler.memory is not None or not _alike_sizes(data):
        return False
    key = jax.random.key(0, impl="threefry2x32")
    program = jax.make_jaxpr(lambda key, number: sampler.sample(key, number, data).work)(key, jnp.int32(0)).jaxpr
    return _is_one(program, program.outvars[0])


def alike_ahead(sampler: Sampler, population: Population) -> bool:
    """`all_alike` of a population of which cohorts are drawn ahead, on the host: it reads no feature."""
    if not _alike_sizes(population):
        return False
    key, sample = jax.random.key(0, impl="threefry2x32"), drawn_by(sampler, population)
    traced = jax.make_jaxpr(lambda *args: sample(*args).work)(key, jnp.int32(0), offsets_shape(population))
    return _is_one(traced.jaxpr, traced.jaxpr.outvars[0])


def _alike_sizes(population: Population) -> bool:
    rows = {leaf.shape[0] for leaf in jax.tree.leaves(dict(population.features))}
    return rows == {population.num_clients * population.max_size}


def _is_one(program: Any, atom: Any) -> bool:
    """Whether a value of a program is filled with the constant 1."""
    if isinstance(atom, Literal):
        return bool(np.all(np.asarray(atom.val) == 1))
    made_by = next((equation for equation in program.eqns if atom in equation.outvars), None)
    if made_by is None:
        return False
    inner = made_by.params.get("jaxpr") if made_by.primitive.name in ("jit", "pjit") else None
    if inner is not None:
        return _is_one(inner.jaxpr, inner.jaxpr.outvars[made_by.outvars.index(atom)])
    return made_by.primitive.name == "broadcast_in_dim" and _is_one(program, made_by.invars[0])
