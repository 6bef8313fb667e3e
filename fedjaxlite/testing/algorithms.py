"""All laws of an algorithm at once."""

from collections.abc import Callable, Sequence
from typing import Any

import fedjaxlite as fl
from fedjaxlite import checks
from fedjaxlite.testing.cases import Case, case
from fedjaxlite.testing.layout_laws import check_layout_invariance, check_nonfinite, check_order, check_padding
from fedjaxlite.testing.program_laws import check_derivatives, check_jit, check_resume, check_steps, check_vmap

LAWS: dict[str, Callable[[Case], None]] = {
    "layout": check_layout_invariance,
    "order": check_order,
    "padding": check_padding,
    "nonfinite": check_nonfinite,
    "steps": check_steps,
    "resume": check_resume,
    "jit": check_jit,
    "vmap": check_vmap,
    "derivatives": check_derivatives,
}
"""The laws by name, the cheapest first: those from "jit" on compile programs of their own."""


def check_algorithm(
    algorithm: fl.Algorithm,
    params: Any,
    population: fl.Population,
    *,
    aggregator: fl.Aggregator | None = None,
    sampler: fl.Sampler | None = None,
    layouts: Sequence[fl.Execution] | None = None,
    laws: Sequence[str] = tuple(LAWS),
    num_rounds: int = 3,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> None:
    """Holds an algorithm to the laws of this library.

    Args:
      algorithm: the algorithm to test.
      params: its initial model; a few dozen numbers are enough.
      population: data of at least 4 clients, of ragged sizes.
      aggregator: a mean or a chain; the weighted mean if None.
      sampler: who takes part; cohorts with spare slots, absent clients and stragglers if None.
      layouts: executions to compare; `default_layouts()` if None.
      laws: names out of `LAWS`; all by default.
      num_rounds: rounds of each run.
      rtol: allowed difference relative to the largest entry of a leaf, where bit equality is not the law.
      atol: allowed absolute difference.

    Raises:
      AssertionError: at the first law that is broken, naming law, layout, leaf, the largest difference and the
        tolerance.
      ValueError: for the name of a law that does not exist.

    Example:
      >>> import numpy as np, optax, jax.numpy as jnp
      >>> from fedjaxlite import algorithms
      >>> data = fl.Population.from_arrays({"x": np.arange(9.0)}, client_ids=[0, 1, 1, 2, 2, 2, 3, 4, 4])
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2
      >>> algorithm = algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.1), batch_size=2, shuffle=False)
      >>> check_algorithm(algorithm, jnp.float32(0), data, laws=["padding"], layouts=())
    """
    for name in laws:
        checks.one_of(tuple(LAWS), laws=name)
    held = case(
        algorithm,
        params,
        population,
        aggregator=aggregator,
        sampler=sampler,
        layouts=layouts,
        num_rounds=num_rounds,
        rtol=rtol,
        atol=atol,
    )
    for name in laws:
        LAWS[name](held)
