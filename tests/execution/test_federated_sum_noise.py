"""Noise of a sum outside of rounds: from a secret key, never from the one that others know."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite import privacy
from fedjaxlite.algorithms import analytics

PEOPLE = helpers.one_value_each(np.linspace(0, 1, 6))
EVERYONE = fl.sampling.full(6).sample(None, 0, PEOPLE)
KEY = jax.random.key(5)


def noised(*behind: fl.Aggregator) -> fl.Aggregator:
    return fl.chain(fl.mean(over=6), privacy.gaussian(clip_norm=1.0, noise_multiplier=3.0), *behind)


def send(shared: Any, data: fl.ClientData) -> fl.ClientOutput:
    return fl.ClientOutput(helpers.first_value(data))


def private_step(shared: Any, data: fl.ClientData) -> fl.ClientOutput:
    """A client that noises for itself, behind a chain without a mechanism."""
    loss = lambda params, batch, key: (params - batch["x"]) ** 2  # noqa: E731
    train = privacy.dp_sgd(
        loss, client_optimizer=optax.sgd(0.1), rate=1.0, steps=1, clip_norm=1.0, noise_multiplier=1.0
    )
    return fl.ClientOutput(train(jnp.float32(0), data).delta)


SUMS = {
    "on the sum": fl.federated_sum(send, aggregator=noised(), execution=helpers.ONE),
    "by the chain's clients": fl.federated_sum(
        send,
        aggregator=fl.chain(fl.mean(), privacy.local_gaussian(clip_norm=1.0, epsilon=1.0, delta=1e-5)),
        execution=helpers.ONE,
    ),
    "by the client's function": fl.federated_sum(private_step, aggregator=fl.mean(), execution=helpers.ONE),
}


@pytest.mark.parametrize("kind", SUMS)
def test_two_calls_with_one_key_have_two_noises(kind: str) -> None:
    found = [float(SUMS[kind]((), PEOPLE, EVERYONE, key=KEY)[0].value) for _ in range(3)]
    assert len(set(found)) == 3


@pytest.mark.parametrize("kind", SUMS)
def test_a_key_that_is_given_makes_it_reproducible_whatever_the_public_key(kind: str) -> None:
    def value(key: int, noise_key: int) -> float:
        call = SUMS[kind]
        return float(call((), PEOPLE, EVERYONE, key=jax.random.key(key), noise_key=jax.random.key(noise_key))[0].value)

    assert value(0, 1) == value(0, 1) == value(2, 1)
    assert value(0, 1) != value(0, 2)


@pytest.mark.parametrize("kind", SUMS)
def test_without_a_secret_it_is_not_traced(kind: str) -> None:
    call = SUMS[kind]
    run = lambda key, noise=None: call((), PEOPLE, EVERYONE, key=key, noise_key=noise)[0].value  # noqa: E731
    keys = jax.random.split(KEY, 3)
    for traced, given in ((jax.jit(run), KEY), (jax.vmap(run), keys)):
        with pytest.raises(
            ValueError, match="a sum with noise or masks is traced .* without a `noise_key`: .* Draw one a call"
        ):
            traced(given)
    for secrets in (jax.random.split(jax.random.key(9), 3), fl.noise_keys(3)):
        values = jax.vmap(run)(keys, secrets)
        assert len(set(np.asarray(values).tolist())) == 3


def test_nor_is_it_traced_where_nothing_that_it_gets_is() -> None:
    """All arguments may be constants of the traced function: then too it would have one noise for ever."""
    with pytest.raises(ValueError, match="a sum with noise or masks is traced"):
        jax.jit(lambda x: x + SUMS["on the sum"]((), PEOPLE, EVERYONE, key=KEY)[0].value)(jnp.float32(0))


def test_a_sum_without_noise_is_a_function_of_its_key_and_may_be_traced() -> None:
    call = fl.federated_sum(send, aggregator=fl.mean(), execution=helpers.ONE)
    run = lambda key: call((), PEOPLE, EVERYONE, key=key)[0].value  # noqa: E731
    assert float(jax.jit(run)(KEY)) == float(run(KEY)) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "shared", helpers.some_often([2, 2.0, np.float64(2), np.array(2), True, jnp.float32(2)], 2), ids=repr
)
def test_what_clients_share_may_be_any_number(shared: Any) -> None:
    send_all = lambda shared, data: fl.ClientOutput(helpers.first_value(data) * jnp.float32(shared))  # noqa: E731
    call = fl.federated_sum(send_all, aggregator=fl.mean(), execution=helpers.ONE)
    assert float(call(shared, PEOPLE, EVERYONE, key=KEY)[0].value) == pytest.approx(0.5 * float(shared))


def test_masks_are_drawn_in_secret_too() -> None:
    """Which survivors can open a sum depends on the drawn graph alone: the sum itself does not."""
    chain = fl.chain(fl.weighted_mean(weight_cap=1), fl.clip_by_value(1.0), privacy.secure_sum(bits=12, neighbors=4))
    call = fl.federated_sum(
        lambda shared, data: fl.ClientOutput(helpers.first_value(data), jnp.int32(1)),
        aggregator=chain,
        execution=helpers.ONE,
    )
    with pytest.raises(ValueError, match="a sum with noise or masks is traced"):
        jax.jit(lambda key: call((), PEOPLE, EVERYONE, key=key)[0].value)(KEY)
    assert float(call((), PEOPLE, EVERYONE, key=KEY)[0].value) == pytest.approx(0.5, abs=1e-3)


def statistics(aggregator: fl.Aggregator) -> dict[str, fl.Computation]:
    options: dict[str, Any] = {"per": "clients", "aggregator": aggregator, "execution": helpers.ONE}
    return {
        "mean": analytics.federated_mean(**options),
        "variance": analytics.federated_variance(**options),
        "histogram": analytics.federated_histogram([0, 0.5, 1], **options),
        "quantiles": analytics.federated_quantiles([0.5], low=0, high=1, num_rounds=8, **options),
    }


# So much noise that a bisection, too, which has few results to take, all but surely takes another one each time.
NOISED = statistics(fl.chain(fl.mean(over=6), privacy.gaussian(clip_norm=2.0, noise_multiplier=3.0)))


@pytest.mark.parametrize("name", NOISED)
def test_no_statistic_has_noise_that_its_key_tells(name: str) -> None:
    run = NOISED[name]
    found = [np.concatenate([np.ravel(x) for x in jax.tree.leaves(run(PEOPLE, EVERYONE, KEY))]) for _ in range(4)]
    assert len({tuple(value.tolist()) for value in found}) > 1
    (secret,) = fl.noise_keys(1)
    again = [jax.tree.leaves(run(PEOPLE, EVERYONE, KEY, noise_key=secret)) for _ in range(2)]
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(*again, strict=True))
    again = [jax.tree.leaves(run(PEOPLE, EVERYONE, jax.random.key(i), noise_key=jax.random.key(1))) for i in (0, 1)]
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(*again, strict=True))


def test_the_sums_of_one_statistic_have_noises_of_their_own() -> None:
    """In each round of the bisection another draw, also where the noise key is given."""
    drawn = []
    chain = fl.chain(fl.mean(over=6), privacy.gaussian(clip_norm=2.0, noise_multiplier=0.3))
    inner = chain.decode

    def decode(state: Any, total: Any, key: Any) -> Any:
        jax.debug.callback(lambda data: drawn.append(tuple(np.asarray(data).tolist())), jax.random.key_data(key))
        return inner(state, total, key)

    run = analytics.federated_quantiles(
        [0.5], low=0, high=1, num_rounds=3, aggregator=chain._replace(decode=decode), execution=helpers.ONE
    )
    run(PEOPLE, EVERYONE, KEY, noise_key=jax.random.key(1))
    jax.effects_barrier()
    assert len(set(drawn)) == len(drawn) == 3
