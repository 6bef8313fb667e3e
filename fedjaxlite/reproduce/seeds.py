"""Seeds of a table's runs, and what every table takes; how seeds run side by side is `sweeps/`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import fedjaxlite as fl
from fedjaxlite.sweeps.intervals import Interval as Interval
from fedjaxlite.sweeps.intervals import interval as interval
from fedjaxlite.sweeps.intervals import number as number
from fedjaxlite.sweeps.intervals import rounds_to as rounds_to
from fedjaxlite.sweeps.seeds import begin as begin
from fedjaxlite.sweeps.seeds import keys as keys
from fedjaxlite.sweeps.seeds import of_seed as of_seed
from fedjaxlite.sweeps.seeds import player as player

PyTree = Any
ONE = fl.Execution(devices=1)
"""One device: the seeds are what runs side by side."""


def accuracy_of(model: Any, test: Mapping[str, Any]) -> Callable[..., jax.Array]:
    """`f(params) -> float32 []`, a classifier's accuracy on a plain test set: traceable, and a player's measure."""
    x, y = jnp.asarray(test["x"]), jnp.asarray(test["y"])

    def accuracy(params: PyTree, info: Any = None) -> jax.Array:
        del info  # a player tells of the round, too
        logits = model.apply(params, x, train=False)
        return jnp.mean((jnp.argmax(logits, -1) == y).astype(jnp.float32))

    return accuracy


class Arguments(NamedTuple):
    """What every table takes.

    Attributes:
      num_seeds: S.
      smoke: sizes that run in seconds and show nothing.
      out: a folder for rows, table and figure, or None.
      rows: patterns such as "2nn*B=10*"; none means all but those that take too long.
      rates: client learning rates to search, where the table has such a grid; none means its own.
      again: run rows again that are in `out` already.
      data_dir: the folder of prepared data, or None for the environment's.
    """

    num_seeds: int = 5
    smoke: bool = False
    out: Path | None = None
    rows: tuple[str, ...] = ()
    rates: tuple[float, ...] = ()
    again: bool = False
    data_dir: Path | None = None
