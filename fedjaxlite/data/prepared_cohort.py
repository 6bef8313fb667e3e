"""A cohort prepared on the host, for data that stream from a disk or a database a cohort ahead."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from fedjaxlite import checks
from fedjaxlite.data.population import Population
from fedjaxlite.sampling import Cohort, Sampler


class PreparedCohort(NamedTuple):
    """One round's clients with their data; `rounds.step` takes it in place of the whole Population.

    Attributes:
      population: the cohort's examples only, client k of the cohort at index k, padded to a fixed number of rows.
      cohort: who takes part; `ids` are the clients' indices in the whole population, as keys and states need them.
    """

    population: Population
    cohort: Cohort


def prepare_cohort(population: Population, cohort: Cohort, *, num_examples: int) -> PreparedCohort:
    """Gathers a cohort's examples on the host.

    Args:
      population: the whole population, in host memory or memory-mapped.
      cohort: who takes part: `sampler.sample(key, round, population)`.
      num_examples: rows to pad to. One number for all rounds keeps shapes static, so that nothing recompiles.

    Returns:
      a PreparedCohort. Rounds on it give the numbers that they give on the whole population. Its clients have no names,
      since slots may be nobody's: `population.names[cohort.ids]` are theirs.

    Raises:
      ValueError: if the cohort's examples are more than `num_examples`.

    Example:
      >>> import fedjaxlite as fl, numpy as np
      >>> everyone = fl.Population.from_arrays({"x": np.arange(6.0)}, client_ids=[0, 0, 1, 2, 2, 2])
      >>> cohort = fl.sampling.cohort(jnp.array([2, 1]), jnp.array([True, True]))
      >>> fl.prepare_cohort(everyone, cohort, num_examples=5).population.features["x"].tolist()
      [3.0, 4.0, 5.0, 2.0, 0.0]
    """
    num_examples = checks.positive_int(num_examples=num_examples)
    checks.one_instance(Population, "a Population", population=population)
    checks.one_instance(Cohort, "a Cohort, as a sampler draws it", cohort=cohort)
    if checks.is_traced((cohort, population)):
        raise TypeError(
            "`cohort` or `population` is traced; expected both on the host. Prepare cohorts outside of jit."
        )
    ids, selected = np.asarray(cohort.ids), np.asarray(cohort.selected)
    offsets = np.asarray(population.offsets)
    sizes = np.where(selected, offsets[ids + 1] - offsets[ids], 0)
    if sizes.sum() > num_examples:
        raise ValueError(
            f"`num_examples` is {num_examples}, and this cohort has {sizes.sum()}. Raise it to the most that a cohort "
            f"can have, at most {len(ids)} x {population.max_size} here."
        )
    rows = [int(offsets[i]) + np.arange(int(n)) for i, n in zip(ids, sizes, strict=True)]
    index = np.concatenate([*rows, np.zeros((0,), np.int64)]).astype(np.int64)
    packed = {}
    for name, feature in population.features.items():
        feature = np.asarray(feature)
        packed[name] = np.zeros((num_examples, *feature.shape[1:]), feature.dtype)
        packed[name][: len(index)] = feature[index]
    new_offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    # Rebuilt without checks: the rows behind the last client's are padding, which belongs to nobody.
    return PreparedCohort(Population.tree_unflatten(population.max_size, (packed, new_offsets)), cohort)


def draw(sampler: Sampler, key: Any, round_number: Any, data: Any) -> tuple[Population, Cohort, jax.Array]:
    """A round's cohort, its data, and each slot's row in them: drawn by the sampler, or as prepared."""
    if isinstance(data, PreparedCohort):
        slots = jnp.arange(data.cohort.ids.shape[0], dtype=jnp.int32)
        return data.population, data.cohort, slots
    cohort = sampler.sample(key, round_number, data)
    return data, cohort, cohort.ids


def all_alike(sampler: Sampler, data: Any) -> bool:
    """Whether shapes alone tell that all clients have as many examples, and the sampler's program that all do all work.

    What is known so before anything runs makes the number of local steps a constant of the compiled round.
    """
    if isinstance(data, PreparedCohort):
        return False
    rows = {leaf.shape[0] for leaf in jax.tree.leaves(dict(data.features))}
    if rows != {data.num_clients * data.max_size}:
        return False
    key = jax.random.key(0, impl="threefry2x32")
    program = jax.make_jaxpr(lambda key, number: sampler.sample(key, number, data).work)(key, jnp.int32(0)).jaxpr
    return _is_one(program, program.outvars[0])


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
