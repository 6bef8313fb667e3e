"""The laws of every rule: in rounds of FedAvg and SCAFFOLD with ragged cohorts and dropouts."""

import itertools
from typing import Any

import chains
import helpers
import jax.numpy as jnp
import pytest

import fedjaxlite as fl
from fedjaxlite.testing import check_algorithm

PEOPLE = helpers.regression((1, 9, 4, 6, 2, 5))
PARAMS = {"w": jnp.zeros((3,)), "b": jnp.zeros(())}
LAYOUTS = (fl.Execution(lanes=3, devices=1), fl.Execution(lanes=1, devices=helpers.available(4)))
ALGORITHMS = {"fed_avg": helpers.fed_avg, "scaffold": helpers.scaffold}
LAWS = ("layout", "padding", "nonfinite", "steps", "resume")


def _cells() -> list[Any]:
    """Every rule with every algorithm; CI runs one."""
    product = itertools.product(chains.RULES, ALGORITHMS)
    in_ci = [("median", "fed_avg")]  # of SCAFFOLD, rows are shared out over devices every day
    return [pytest.param(*pair, marks=pytest.mark.whole if pair in in_ci else pytest.mark.slow) for pair in product]


@pytest.mark.parametrize(("rule", "algorithm"), _cells())
def test_a_rule_in_rounds(rule: str, algorithm: str) -> None:
    # SCAFFOLD gives its two parts a weight each, which only a mean that counts clients makes one.
    weighted = rule.endswith("/weighted") and algorithm == "fed_avg"
    head = fl.weighted_mean(weight_cap=16) if weighted else fl.mean()
    check_algorithm(
        ALGORITHMS[algorithm](),
        PARAMS,
        PEOPLE,
        aggregator=fl.chain(head, *chains.RULES[rule]()),
        layouts=LAYOUTS,
        laws=LAWS,
        num_rounds=2,
        rtol=1e-4,
        atol=1e-4,
    )
