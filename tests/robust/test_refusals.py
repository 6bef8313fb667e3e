"""What cannot stand beside a rule is refused in words that say what to do instead."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite import robust

RULE = robust.mean()
STEP = fl.restack(lambda state, rows, key: (rows, state), name="step")
MASK, CLIP = fl.Aggregator(role="mask", name="mask"), fl.clip_by_value(1.0)
FULL = np.ones((3, 2), np.float32)


@pytest.mark.parametrize(
    ("codecs", "told"),
    [
        (
            [MASK, RULE],
            "has both mask and robust_mean: behind a mask the server sees a sum of updates alone, and robust",
        ),
        ([RULE, MASK], "has both mask and robust_mean: behind a mask"),
        ([STEP, MASK], "has both mask and step: behind a mask the server sees a sum of updates alone, and step needs"),
        ([MASK, STEP, RULE], "has both mask and step"),
        ([MASK, RULE], "What survives a secure sum is a bound on what each client adds: fl.clip_by_global_norm(...)"),
        ([RULE, RULE], "has robust_mean behind robust_mean, which makes one update of all messages. One rule ends a"),
        ([RULE, STEP], "has step behind robust_mean, which makes one update of all messages. Put step before it."),
        ([RULE, CLIP], "has clip_by_value behind robust_mean, which makes one update of all messages. Put clip_by"),
        ([STEP, CLIP], "has clip_by_value behind step, which works on all messages of a round at once. Put clip_by"),
        ([STEP], "ends with step, which hands all messages on and makes no update of them. Put a rule behind it"),
    ],
)
def test_orders(codecs: list[Any], told: str) -> None:
    with pytest.raises(ValueError) as refusal:
        fl.chain(fl.mean(), *codecs)
    assert told in str(refusal.value)


@pytest.mark.parametrize(
    ("head", "facts", "told"),
    [
        (
            fl.mean(over=4),
            {},
            "`rule` is not a sum, so mean(over=4) has nothing to divide. Use fl.mean(); noise on the",
        ),
        (fl.weighted_mean(), {}, "`rule` counts every client as one: it takes no weights, and fl.weighted_mean() sets"),
        (fl.mean(), {"scaled": True}, "and the sampler scales them. Use fl.mean() at the head of the chain, and a"),
        (fl.mean(), {"capacity": 2}, "`rule` needs at least 3 clients in a round, and there are at most 2. Draw more"),
    ],
)
def test_facts_of_the_wire(head: fl.Aggregator, facts: dict[str, Any], told: str) -> None:
    rule = fl.rule(lambda state, rows, key: (rows.values, state), name="rule", minimum=3)
    facts = {"capacity": 4, "weight": np.float32(1)} | facts
    scaled = facts.pop("scaled", False)
    wire = fl.wire_of(jnp.zeros(2), **facts)._replace(scaled=scaled)
    with pytest.raises(ValueError) as refusal:
        fl.chain(head, rule).init(wire)
    assert told in str(refusal.value)


@pytest.mark.parametrize(
    ("arguments", "options", "told"),
    [
        (
            (3, FULL),
            {},
            "`codecs` is 3; expected a rule, such as fl.robust.median(), or a sequence that ends with one.",
        ),
        (([], FULL), {}, "`codecs` is empty; expected a rule"),
        (([STEP, 3], FULL), {}, "`codecs[1]` is 3; expected a rule"),
        ((CLIP, FULL), {}, "`codecs` is clip_by_value, whose messages are summed; expected a rule at the end"),
        (([fl.mean(), RULE], FULL), {}, "`codecs` has mean, and the head of the chain is put there for you. Leave it"),
        ((RULE, np.float32(1)), {}, "`values` has leaves of shapes [[]]; expected [K, ...] in all, a row for each"),
        ((RULE, {"a": FULL, "b": FULL[:2]}), {}, "`values` has leaves of shapes [[3, 2], [2, 2]]; expected [K, ...]"),
        (
            (RULE, FULL),
            {"weights": [1, 2]},
            "`weights` has shape [2]; expected float32 [3], one for each row of `values`.",
        ),
        ((RULE, FULL), {"present": [True]}, "`present` has shape [1]; expected bool [3]"),
        ((RULE, FULL), {"ids": 1}, "`ids` has shape []; expected int32 [3]"),
    ],
)
def test_a_rule_by_hand(arguments: tuple[Any, Any], options: dict[str, Any], told: str) -> None:
    with pytest.raises((TypeError, ValueError)) as refusal:
        robust.apply(*arguments, **options)
    assert told in str(refusal.value)
