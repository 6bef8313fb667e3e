"""Who takes part in the rounds of every method: one sampler that holds several kinds of participation.

The run's sampling key says which kind, so that one compiled program serves them all, with the same keys for clients.
"""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fedjaxlite as fl
from fedjaxlite import sampling

ROUNDS = 5
VICTIM = 1
"""The client whose data become NaN, or who is absent; it does all of its work."""

PARTICIPATIONS = ("everyone", "stragglers", "poisson")
SCENARIOS = (*PARTICIPATIONS, "turned", "absent")
"""The kinds of participation; the stragglers' cohorts backwards; everyone but that the victim does not report."""


@lru_cache
def cohorts(num_clients: int) -> fl.Cohort:
    """The cohorts of all scenarios and rounds, in numpy: every leaf is `[S, R, C]`, with one slot more than clients."""
    rounds = jnp.arange(ROUNDS, dtype=jnp.int32)
    people = fl.Population({}, np.zeros(num_clients + 1, np.int32), max_size=1)

    def drawn(sampler: fl.Sampler, seed: int) -> fl.Cohort:
        draw = jax.jit(lambda key: jax.lax.map(lambda r: sampler.sample(key, r, people), rounds))
        return _with_spare_slots(jax.device_get(draw(jax.random.key(seed))), num_clients + 1)

    slow = sampling.with_stragglers(sampling.uniform(num_clients - 1), fraction=0.6, min_work=0.2)
    # Seeds with which somebody never reports, and a round that stays empty.
    everyone = drawn(sampling.full(num_clients), 0)
    stragglers = drawn(sampling.with_dropout(slow, 0.3), 21)
    poisson = drawn(sampling.poisson(0.3, num_clients), 3)
    by_slot = [
        name for name, value in stragglers._asdict().items() if name not in ("overflow", "late") and value is not None
    ]
    slots = {name: getattr(stragglers, name)[:, ::-1] for name in by_slot}
    absent = everyone._replace(reported=everyone.reported & (everyone.ids != VICTIM))
    rows = (everyone, stragglers, poisson, stragglers._replace(**slots), absent)
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)


def _with_spare_slots(cohort: fl.Cohort, capacity: int) -> fl.Cohort:
    """Spare slots behind the first, up to a capacity."""
    missing = capacity - cohort.ids.shape[1]
    spare = {"ids": 0, "selected": False, "reported": False, "work": 1.0, "scale": 1.0}
    wider = {name: np.insert(getattr(cohort, name), [1] * missing, value, axis=1) for name, value in spare.items()}
    return cohort._replace(**wider)


def sampler(num_clients: int) -> fl.Sampler:
    """The sampler whose key is a scenario; see `key`."""
    rows = jax.tree.map(lambda leaf: jnp.asarray(leaf.reshape((-1, *leaf.shape[2:]))), cohorts(num_clients))

    def sample(key: Any, round_number: Any, population: Any) -> fl.Cohort:
        scenario = jax.random.key_data(key)[-1].astype(jnp.int32) % len(SCENARIOS)
        row = scenario * ROUNDS + jax.lax.rem(jnp.asarray(round_number, jnp.int32), jnp.int32(ROUNDS))
        return jax.tree.map(lambda leaf: leaf.at[row].get(mode="clip", wrap_negative_indices=False), rows)

    accounting = sampling.Accounting("replay", cohort_size=num_clients)
    return fl.Sampler(sample, num_clients + 1, accounting, "scenarios")


def key(scenario: str) -> jax.Array:
    """The sampling key with which `sampler` draws a scenario."""
    return jax.random.wrap_key_data(jnp.uint32([0, SCENARIOS.index(scenario)]), impl="threefry2x32")


def idle(num_clients: int, scenario: str) -> list[list[int]]:
    """The clients that do not report, round by round."""
    table, which = cohorts(num_clients), SCENARIOS.index(scenario)
    busy = [set(table.ids[which, r][table.reported[which, r]].tolist()) for r in range(ROUNDS)]
    return [sorted(set(range(num_clients)) - here) for here in busy]
