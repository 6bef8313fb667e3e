"""The laws of this library as checkers, for its own tests and for algorithms, aggregators and samplers of your own.

    from fedjaxlite import testing
    testing.check_algorithm(my_algorithm(...), params, population)
    testing.check_aggregator(fl.chain(fl.mean(), my_codec()), params)
    testing.check_sampler(my_sampler(10), num_clients=100)
    testing.check_cross_example(loss_fn, params, batch)

A broken law raises an AssertionError that names the law, the layout, the leaf, the largest difference and the
tolerance. Single laws take a `case`, which compiles each program once: `check_padding(case(algorithm, ...))`.

What comes in: laws that hold for everything of a kind, not tests of one thing; those stand in `tests/`.
"""

from fedjaxlite.testing.aggregators import check_aggregator as check_aggregator
from fedjaxlite.testing.algorithms import LAWS as LAWS
from fedjaxlite.testing.algorithms import check_algorithm as check_algorithm
from fedjaxlite.testing.cases import REFERENCE as REFERENCE
from fedjaxlite.testing.cases import Case as Case
from fedjaxlite.testing.cases import case as case
from fedjaxlite.testing.cases import default_layouts as default_layouts
from fedjaxlite.testing.cases import mixed_cohorts as mixed_cohorts
from fedjaxlite.testing.cases import poisoned as poisoned
from fedjaxlite.testing.cases import spoiled_states as spoiled_states
from fedjaxlite.testing.compare import Tolerance as Tolerance
from fedjaxlite.testing.compare import assert_close as assert_close
from fedjaxlite.testing.layout_laws import check_layout_invariance as check_layout_invariance
from fedjaxlite.testing.layout_laws import check_nonfinite as check_nonfinite
from fedjaxlite.testing.layout_laws import check_order as check_order
from fedjaxlite.testing.layout_laws import check_padding as check_padding
from fedjaxlite.testing.losses import check_cross_example as check_cross_example
from fedjaxlite.testing.program_laws import check_derivatives as check_derivatives
from fedjaxlite.testing.program_laws import check_jit as check_jit
from fedjaxlite.testing.program_laws import check_resume as check_resume
from fedjaxlite.testing.program_laws import check_steps as check_steps
from fedjaxlite.testing.program_laws import check_vmap as check_vmap
from fedjaxlite.testing.program_laws import through_numpy as through_numpy
from fedjaxlite.testing.samplers import check_sampler as check_sampler

__all__ = [
    "LAWS",
    "REFERENCE",
    "Case",
    "Tolerance",
    "assert_close",
    "case",
    "check_aggregator",
    "check_algorithm",
    "check_cross_example",
    "check_derivatives",
    "check_jit",
    "check_layout_invariance",
    "check_nonfinite",
    "check_order",
    "check_padding",
    "check_resume",
    "check_sampler",
    "check_steps",
    "check_vmap",
    "default_layouts",
    "mixed_cohorts",
    "poisoned",
    "spoiled_states",
    "through_numpy",
]
