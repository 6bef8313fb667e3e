"""Clients that one device has to train: the one that holds their states, or their data."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite.data.prepared.drawing import Drawn
from fedjaxlite.data.prepared.whole import CohortPopulation, counted
from fedjaxlite.execution.layout import Layout

PyTree = Any


class Tie(NamedTuple):
    """Which device trains whom, where data or states say so.

    Attributes:
      owner: int32 `[K]`; None where any device may train any client.
      clients: the most that may be tied to one device; 0 where none is.
      rows: int32 `[K]`, where each slot's state stands among those of this device.
    """

    owner: jax.Array | None
    clients: int
    rows: jax.Array


def tied(drawn: Drawn, bank: PyTree, device: Any, layout: Layout) -> Tie:
    """Which device trains whom in a round, and where the states of its clients are.

    Args:
      drawn: the cohort, and on what data.
      bank: the states that this device holds, with a leading axis on every leaf; no leaves tie nobody.
      device: int32 scalar, this device's index.
      layout: the devices.
    """
    ids = drawn.cohort.ids
    per_device = jax.tree.leaves(bank)[0].shape[0] if jax.tree.leaves(bank) else 0
    banked = per_device > 0 and drawn.bank_rows is None
    if layout.num_devices == 1 or not (banked or drawn.owner is not None):
        return Tie(None, 0, ids if drawn.bank_rows is None else drawn.bank_rows)
    # A bank holds as many clients as every other device's; data that are shared out follow the same rule.
    known = isinstance(drawn.population, CohortPopulation)
    share = -(-counted(drawn.population)[1] // layout.num_devices) if known else ids.shape[0]
    clients = per_device if banked else share
    owner = ids // clients if drawn.owner is None else drawn.owner
    own = jnp.clip(ids - device * clients, 0, clients - 1) if drawn.bank_rows is None else drawn.bank_rows
    return Tie(owner, clients, own)
