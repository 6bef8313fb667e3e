"""Chains by hand: the wire at their head, from public facts; encode, sum and decode without a run."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite import privacy

UPDATES = [
    {"w": jnp.array([[1.0, -2.0]]), "b": jnp.float32(3.0)},
    {"w": jnp.array([[0.5, 4.0]]), "b": jnp.float32(-1.0)},
]
SHAPES = jax.eval_shape(lambda: UPDATES[0])
CHAINS = {
    "mean": (lambda: fl.chain(fl.mean()), [1, 1], 1e-6),
    "weighted, clipped, quantized": (
        lambda: fl.chain(fl.weighted_mean(weight_cap=9), fl.clip_by_value(8.0), fl.quantize(bits=20)), [2, 5], 1e-3
    ),
    "masked": (lambda: fl.chain(fl.mean(), fl.clip_by_value(8.0), privacy.secure_sum()), [1, 1], 1e-3),
}  # fmt: skip


def by_hand(chain: fl.Aggregator, head: fl.Wire, weights: list[Any]) -> fl.Aggregate:
    """What the server decodes of UPDATES; nothing but public names."""
    state, _ = chain.init(head)
    return jax.jit(lambda state, updates: _one_round(chain, state, updates, weights))(state, UPDATES)


def _one_round(chain: fl.Aggregator, state: Any, updates: Any, weights: list[Any]) -> fl.Aggregate:
    there, ones = jnp.array([True, True]), jnp.ones(2)
    cohort = fl.Cohort(jnp.array([0, 1], jnp.int32), there, there, ones, ones, jnp.int32(0))
    state = chain.begin(state, cohort, jax.random.key(7))

    def encode(i: int) -> fl.Message:
        own, about = chain.init_client(updates[i]), fl.ClientInfo(i, 1.0, jax.random.key(i), True, slot=i)
        return chain.read(state, chain.encode(state, own, fl.Message(updates[i], weights[i], {}), about)[0], about)

    total = jax.tree.map(jnp.add, encode(0), encode(1))
    return chain.decode(state, total, jax.random.key(9))[0]


def _templates_and_chains() -> list[Any]:
    """Every chain from every kind of template; every day each of them once."""
    templates = [UPDATES[0], SHAPES, jax.tree.map(np.asarray, UPDATES[0])]
    often = dict(zip(reversed(CHAINS), range(3), strict=True))
    return [
        pytest.param(template, name, id=f"template{i}-{name}", marks=() if often[name] == i else pytest.mark.slow)
        for i, template in enumerate(templates)
        for name in CHAINS
    ]


@pytest.mark.parametrize(("template", "name"), _templates_and_chains())
def test_a_chain_begins_encodes_and_decodes_by_hand(name: str, template: Any) -> None:
    make, weights, error = CHAINS[name]
    aggregate = by_hand(make(), fl.wire_of(template, capacity=2, num_clients=2), weights)
    first, second = (w / sum(weights) for w in weights)
    expected = jax.tree.map(lambda a, b: first * a + second * b, *UPDATES)
    assert helpers.max_difference(aggregate.value, expected) < error
    assert float(aggregate.weight) == sum(weights)


def test_it_is_the_wire_that_rounds_make() -> None:
    """The end of a chain by hand, against the end that a run states of itself."""
    sampler, chain = fl.sampling.uniform(3), fl.chain(fl.weighted_mean(weight_cap=50), fl.clip_by_value(1.0))
    people, params = helpers.regression(), helpers.linear_params()
    run = fl.rounds(helpers.normalized(), sampler=sampler, aggregator=chain)
    head = fl.wire_of(
        params,
        weight=1,
        scalars={"steps": 1.0},
        scalar_bounds=dict(run.algorithm.scalar_bounds),
        capacity=sampler.capacity,
        num_clients=people.num_clients,
        participation=sampler.accounting,
    )
    assert chain.init(head)[1] == run.wire(params, people)


def test_the_end_of_a_chain_is_no_beginning() -> None:
    chain = fl.chain(fl.mean())
    end = chain.init(fl.wire_of(SHAPES, capacity=2))[1]
    with pytest.raises(
        ValueError, match=r"`mean` is not the first codec.*begin with fl.wire_of\(update, capacity=...\)"
    ):
        chain.init(end)


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"template": {"n": jnp.arange(2)}}, ValueError, r"the update has int32\[2\] at \['n'\]; expected floats"),
        ({"template": {"w": "words"}}, TypeError, r"`template\['w'\]` is 'words'; expected an array or a number"),
        ({"capacity": 0}, ValueError, "`capacity` is 0; expected an int of at least 1. It is the most clients in one"),
        ({"capacity": 2.0}, TypeError, "`capacity` is 2.0; expected an int"),
        ({"num_clients": 0}, ValueError, "`num_clients` is 0; expected an int of at least 1"),
        ({"weight": [1, 2]}, ValueError, "(?s)the weight is no tree prefix of the update: .*Give one number, or one for"),
        ({"weight": jnp.ones(3)}, ValueError, r"weights, scalars and info are scalars; got float32\[3\]"),
        ({"weight": None}, ValueError, "the weight is no tree prefix of the update"),
        ({"scalars": {"loss": jnp.ones(2)}}, ValueError, r"are scalars; got float32\[2\] at \['loss'\]"),
        ({"scalars": {"a": 1.0}, "weight": {"w": 1, "b": 1}}, ValueError, r"scalars \['a'\] beside a tree of weights"),
    ],
)  # fmt: skip
def test_what_no_chain_can_take_is_refused(given: dict[str, Any], error: type[Exception], text: str) -> None:
    given = {"template": SHAPES, "capacity": 2, **given}
    with pytest.raises(error, match=text):
        fl.wire_of(given.pop("template"), **given)
