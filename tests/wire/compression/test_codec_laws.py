"""The laws of every codec: alone, and in rounds of FedAvg, FedProx and SCAFFOLD with ragged cohorts and dropouts."""

import itertools
from collections.abc import Callable
from typing import Any

import chains
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.testing import check_aggregator, check_algorithm

TEMPLATE = {"w": jnp.zeros((5, 8)), "b": jnp.zeros(())}
PEOPLE = helpers.regression((1, 9, 4, 6, 2, 5))
PARAMS = {"w": jnp.zeros((3, 4)), "b": jnp.zeros((4,))}
LAYOUTS = (fl.Execution(lanes=3, devices=1), fl.Execution(lanes=1, devices=helpers.available(4)))


def loss(params: Any, batch: Any, key: Any) -> jax.Array:
    """Squared error of four linear models at once, `[B]`: a matrix for those that want one."""
    del key
    goal = batch["y"][:, None] * jnp.float32([[1.0, -0.5, 0.25, 2.0]])
    return ((batch["x"] @ params["w"] + params["b"][None] - goal) ** 2).mean(1)


ALGORITHMS: dict[str, Callable[[], fl.Algorithm]] = {
    "fed_avg": lambda: algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.02), batch_size=3),
    "fed_prox": lambda: algorithms.fed_prox(loss, mu=0.1, client_optimizer=optax.sgd(0.02), batch_size=3, epochs=1),
    "scaffold": lambda: algorithms.scaffold(loss, num_clients=6, client_lr=0.02, batch_size=3, epochs=1),
}
NOT_LINEAR = ("sign_vote",)
"""Codecs whose sum is enough, and whose decode is no linear function of it."""
NO_ZERO = ("sign_vote", "noisy_sign", "thc", "quic_fl")
"""Those whose tables hold no zero, so that an update of zeros comes out as noise around it."""
MEAN_OF_ALL = ("ef21", "ef21_sgdm", "dasha")
"""Whose mean is over clients too that are not in the round."""


@pytest.mark.parametrize("name", helpers.some_often(chains.CODECS, 8))
def test_a_codec_alone(name: str) -> None:
    """Its wire, its states, its sums, and the bounds that it claims."""
    chain = fl.chain(fl.mean(), *chains.CODECS[name]())
    if name.startswith(NOT_LINEAR) or name.endswith(MEAN_OF_ALL):
        pytest.skip("decoding is not linear in this round's total")
    check_aggregator(chain, TEMPLATE, scale=0.1, laws=[])


@pytest.mark.parametrize("name", helpers.some_often(chains.CODECS, 8, first=2))
def test_nothing_comes_of_nothing(name: str) -> None:
    """A vector of zeros, single entries, and values at the ends of float32 give numbers."""
    chain = fl.chain(fl.mean(), *chains.CODECS[name]())
    state, wire = chain.init(fl.wire_of(TEMPLATE, weight=1, capacity=2, num_clients=2))
    everyone = fl.sampling.cohort(jnp.arange(2, dtype=jnp.int32), jnp.ones(2, bool))
    state = chain.begin(state, everyone, jax.random.key(1))
    client = fl.ClientInfo(jnp.int32(1), jnp.float32(1), jax.random.key(2), jnp.bool_(True))

    @jax.jit
    def through(value: Any) -> tuple[Any, Any]:
        message, own = chain.encode(state, chain.init_client(TEMPLATE), fl.Message(value, jnp.int32(1), {}), client)
        total = chain.read(state, message, client)
        return chain.decode(state, total, jax.random.key(3))[0].value, own

    one = jax.tree.map(lambda leaf: leaf.at[(0,) * leaf.ndim].set(1.0), TEMPLATE)
    for scale in (0.0, 1e-38, 1e30):
        got, own = through(jax.tree.map(lambda leaf, scale=scale: leaf * scale, one))
        for leaf in jax.tree.leaves((got, own)):
            assert np.isfinite(leaf).all(), (scale, leaf)
        if scale == 0 and not name.startswith(NO_ZERO):
            assert not any(np.any(leaf) for leaf in jax.tree.leaves(got))
    assert wire.apart is None or not chain.sum_safe


@pytest.mark.parametrize("name", helpers.some_often(chains.CODECS, 8, first=1))
def test_the_bytes_of_a_message_are_its_arrays(name: str) -> None:
    """The ledger, the arrays and a message's file say the same; its entropy is not above."""
    update = {"w": jax.random.normal(jax.random.key(5), (33, 8)), "b": jnp.float32(0.3)}
    chain = fl.chain(fl.mean(), *chains.CODECS[name](), fl.measure_entropy())
    state, wire = chain.init(fl.wire_of(update, weight=1, capacity=2, num_clients=2))
    everyone = fl.sampling.cohort(jnp.arange(2, dtype=jnp.int32), jnp.ones(2, bool))
    state = chain.begin(state, everyone, jax.random.key(1))
    client = fl.ClientInfo(jnp.int32(1), jnp.float32(1), jax.random.key(2), jnp.bool_(True))
    sent = jax.jit(lambda value: chain.encode(state, own, fl.Message(value, jnp.int32(1), {}), client)[0])
    own = chain.init_client(update)
    message = sent(update)
    structs = jax.tree.map(lambda leaf: (leaf.shape, jnp.dtype(leaf.dtype)), message)
    told = fl.Message(wire.value, wire.weight, dict(wire.scalars), wire.aside)
    assert jax.tree.map(lambda leaf: (leaf.shape, jnp.dtype(leaf.dtype)), told) == structs
    data = fl.message_to_bytes(message)
    assert len(data) == sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(message))
    back = fl.message_from_bytes(wire, data)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(message), strict=True):
        np.testing.assert_array_equal(a, b)
    assert 0 < float(chain.tell(state, message)["entropy_up"]) <= len(data)
    whole = 4 * 265
    assert len(data) < whole or name in chains.NOT_SMALLER


def _cells() -> list[Any]:
    """Every codec with every algorithm; CI runs each algorithm and each way of reading once."""
    in_ci = [("thc", "fed_avg"), ("top_k+qsgd", "scaffold"), ("error_feedback/ef21", "fed_prox")]
    product = itertools.product(chains.CODECS, ALGORITHMS)
    return [pytest.param(*pair, marks=pytest.mark.whole if pair in in_ci else pytest.mark.slow) for pair in product]


@pytest.mark.parametrize(("codec", "algorithm"), _cells())
def test_a_codec_in_rounds(codec: str, algorithm: str) -> None:
    head = fl.mean() if codec.endswith(MEAN_OF_ALL) else fl.weighted_mean(weight_cap=16)
    check_algorithm(
        ALGORITHMS[algorithm](),
        PARAMS,
        PEOPLE,
        aggregator=fl.chain(head, *chains.CODECS[codec]()),
        layouts=LAYOUTS,
        laws=("layout", "padding", "nonfinite", "steps", "resume"),
        num_rounds=2,
        rtol=1e-4,
        atol=1e-4,
    )
