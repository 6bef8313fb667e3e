"""A cohort prepared on the host, for data and client states that stream from elsewhere a cohort ahead."""

from typing import Any, NamedTuple

import jax
import numpy as np

from fedjaxlite import checks
from fedjaxlite.data.population import Population
from fedjaxlite.data.prepared import gathering
from fedjaxlite.data.prepared.whole import Whole, cohort_population, counted
from fedjaxlite.sampling import Cohort

PyTree = Any
_MOST_DEVICES = 2**16
_STATES = "It holds the states of the cohort's clients, [K, ...] on every leaf."


class PreparedCohort(NamedTuple):
    """One round's clients with their data; `rounds.step` takes it in place of the whole Population.

    K slots in the cohort, D devices.

    Attributes:
      population: the cohort's examples only, client k of the cohort at index k, padded to a fixed number of rows. For
        D devices features are `[D * rows, ...]`: piece d holds the rows of the slots that device d trains, in slot
        order. `offsets` int32 `[K + 1]` count all slots' examples, on every device.
      cohort: who takes part; `ids` are the clients' indices in the whole population, as keys and states need them.
      owner: int32 `[K]`, the device that trains each slot; None where data are not shared out over devices.
      clients: the states of the cohort's clients where they are kept elsewhere, `[D * K, ...]` on every leaf: piece d
        holds those of its own slots in slot order. The step's new state holds their new ones in the same places. `()`
        where devices keep them all, or clients keep nothing.
    """

    population: Population
    cohort: Cohort
    owner: Any = None
    clients: PyTree = ()


def prepare_cohort(
    population: Population,
    cohort: Cohort,
    *,
    num_examples: int | None = None,
    num_devices: int = 1,
    clients: PyTree = (),
) -> PreparedCohort:
    """Gathers a cohort's examples on the host.

    Args:
      population: the whole population, in host memory, memory-mapped or on disk.
      cohort: who takes part: `sampler.sample(key, round, population)`.
      num_examples: rows to pad to, on each device. One number for all rounds keeps shapes static, so that nothing
        recompiles. None takes the most that as many clients of this population can have.
      num_devices: D. For more than one, each device gets the rows of its own clients alone: client i belongs to device
        `i // ceil(N / D)`, as its state does.
      clients: pytree of `[K, ...]` in cohort order, the states of the cohort's clients where rounds keep them
        elsewhere (`Execution(client_states=...)`); `cohort_clients` puts those of the next state back in that order.

    Returns:
      a PreparedCohort. Rounds on it give the numbers that they give on the whole population. Its clients have no names,
      since slots may be nobody's: `population.names[cohort.ids]` are theirs.

    Raises:
      TypeError: for what is no population or cohort, or traced. ValueError: if the cohort's examples on one device are
        more than `num_examples`; for states that are not one a slot.

    Example:
      >>> import fedjaxlite as fl, jax.numpy as jnp, numpy as np
      >>> everyone = fl.Population.from_arrays({"x": np.arange(6.0)}, client_ids=[0, 0, 1, 2, 2, 2])
      >>> cohort = fl.sampling.cohort(jnp.array([2, 1]), jnp.array([True, True]))
      >>> fl.prepare_cohort(everyone, cohort, num_examples=5).population.features["x"].tolist()
      [3.0, 4.0, 5.0, 2.0, 0.0]
    """
    checks.one_instance(Population, "a Population", population=population)
    checks.one_instance(Cohort, "a Cohort, as a sampler draws it", cohort=cohort)
    checks.numeric_leaves("clients", clients, remedy=_STATES)
    if checks.is_traced((cohort, population, clients)):
        raise TypeError(
            "`cohort`, `population` or `clients` is traced; expected all on the host. Prepare cohorts outside of jit."
        )
    num_slots, num_devices = len(cohort.ids), int(checks.positive_int(num_devices=num_devices))
    if num_devices > _MOST_DEVICES:
        raise ValueError(f"`num_devices` is {num_devices}; expected at most {_MOST_DEVICES}.")
    if num_examples is None:
        num_examples = gathering.most_examples(population, num_slots)
    most = int(checks.positive_int(num_examples=num_examples))
    slots = gathering.slots_of(gathering.plain(population.offsets), cohort, num_devices)
    _check_fit(slots, most, population.max_size)
    gather = gathering.gathering(population, most, zeros=True)
    pieces = [gather(slots, device) for device in range(num_devices)]
    packed = {name: _joined([piece[name] for piece in pieces]) for name in population.features}
    offsets = np.concatenate([[0], np.cumsum(slots.sizes)]).astype(np.int32)
    rows, num_clients = counted(population)
    own = cohort_population(packed, offsets, population.max_size, Whole(num_clients, rows))
    owner = slots.owner if num_devices > 1 else None
    return PreparedCohort(own, cohort, owner, _states(clients, slots.owner, num_devices))


def cohort_clients(prepared: PreparedCohort, clients: PyTree) -> PyTree:
    """The states of a prepared cohort's clients in cohort order, from those that a step left in the state.

    Args:
      prepared: what the step got, with `clients`.
      clients: `state.clients` after it, `[D * K, ...]` on every leaf.

    Returns:
      pytree of numpy `[K, ...]`. What spare slots hold does not matter.

    Raises:
      TypeError: for what is no PreparedCohort. ValueError: for states of another number of slots.

    Example:
      >>> import fedjaxlite as fl, jax.numpy as jnp, numpy as np
      >>> everyone = fl.Population.from_arrays({"x": np.arange(4.0)}, client_ids=[0, 1, 2, 3])
      >>> cohort = fl.sampling.cohort(jnp.array([3, 0]), jnp.array([True, True]))
      >>> prepared = fl.prepare_cohort(everyone, cohort, num_devices=2, clients=np.float32([30, 0]))
      >>> prepared.clients.tolist(), cohort_clients(prepared, prepared.clients).tolist()
      ([0.0, 0.0, 30.0, 0.0], [30.0, 0.0])
    """
    checks.one_instance(PreparedCohort, "a PreparedCohort", prepared=prepared)
    checks.numeric_leaves("clients", clients, remedy="They are `state.clients` of the state that the step returned.")
    if checks.is_traced((prepared, clients)):
        raise TypeError(
            "`prepared` or `clients` is traced; expected both outside of jit, where their values are known."
        )
    num_slots = len(prepared.cohort.ids)
    owner = np.zeros(num_slots, np.int32) if prepared.owner is None else np.asarray(prepared.owner)
    sizes = {(*np.shape(leaf), 1)[0] for leaf in jax.tree.leaves(clients)}
    if any(size % num_slots for size in sizes) or len(sizes) > 1:
        raise ValueError(
            f"`clients` has {sorted(sizes)} rows on its leaves; expected one number, a multiple of the cohort's "
            f"{num_slots} slots: the `clients` of the state that the step on this cohort returned."
        )
    num_devices = next(iter(sizes), 0) // num_slots
    whole = jax.tree.map(np.asarray, clients)
    pieces = [jax.tree.map(lambda a: a[d * num_slots : (d + 1) * num_slots], whole) for d in range(num_devices)]  # noqa: B023
    return gathering.in_cohort_order(pieces, owner) if pieces else clients


def _check_fit(slots: gathering.Slots, most: int, max_size: int) -> None:
    have = np.bincount(slots.owner, weights=slots.sizes).max().astype(int)
    if have > most:
        where = "this cohort has" if slots.owner.max() == 0 else "this cohort has on one device"
        raise ValueError(
            f"`num_examples` is {most}, and {where} {have}. Raise it to the most that a cohort "
            f"can have, at most {len(slots.ids)} x {max_size} here."
        )


def _joined(pieces: list[np.ndarray]) -> np.ndarray:
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _states(clients: PyTree, owner: np.ndarray, num_devices: int) -> PyTree:
    """States in cohort order as pieces, `[D * K, ...]`."""
    leaves = [np.shape(leaf) for leaf in jax.tree.leaves(clients)]
    wrong = [shape for shape in leaves if not shape or shape[0] != len(owner)]
    if wrong:
        raise ValueError(
            f"`clients` holds an array of shape {list(wrong[0])}; expected the states of the cohort's {len(owner)} "
            f"slots in order, [{len(owner)}, ...] on every leaf."
        )
    if not leaves:
        return clients
    whole = jax.tree.map(np.asarray, clients)
    pieces = [
        gathering.padded(jax.tree.map(lambda a: a[owner == d], whole), len(owner))  # noqa: B023
        for d in range(num_devices)
    ]
    return jax.tree.map(lambda *parts: _joined(list(parts)), *pieces)
