"""What the engine gives a codec in a round: its beginning, protected noise, a place, metrics; and what stays public."""

from functools import lru_cache
from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjaxlite as fl

PEOPLE = helpers.one_value_each([1.0, -2.0, 4.0, 8.0, 0.5])
SLOTS = jnp.zeros((5,), jnp.float32)


def spy(*, forgets: bool = True) -> fl.Aggregator:
    """Puts a draw of the client's noise key into the client's slot, and tells the secret that the round began with."""

    def begin(state: Any, cohort: fl.Cohort, key: jax.Array) -> Any:
        return {"last": jax.random.uniform(key), "ids": cohort.ids}

    def encode(state: Any, client_state: Any, message: fl.Message, client: fl.ClientInfo) -> Any:
        drawn = jax.random.uniform(client.noise)
        return message._replace(value=message.value.at[client.slot].set(drawn)), client_state

    def decode(state: Any, total: Any, key: jax.Array) -> Any:
        return total, {"last": state["last"]} if forgets else state

    return fl.Aggregator(
        init=lambda wire: ({"last": jnp.float32(0)}, wire),
        begin=begin,
        encode=encode,
        decode=decode,
        metrics=lambda state: {"secret": state["last"]},
        name="spy",
    )


def composed(aggregator: fl.Aggregator, execution: fl.Execution = helpers.ONE, **options: Any) -> fl.Rounds:
    return fl.rounds(
        helpers.sender(lambda data: SLOTS),
        sampler=fl.sampling.uniform(5, **options),
        aggregator=aggregator,
        execution=execution,
    )


@lru_cache
def seen(execution: fl.Execution, seed: int = 0, noise: int = 1) -> Any:
    """Two rounds: each client's draw by id, and the secret told."""
    run = _run(execution)
    state = run.init(SLOTS, PEOPLE, key=jax.random.key(seed), noise_key=jax.random.key(noise))
    draws, secrets = [], []
    for _ in range(2):
        state, info = run.step(state, PEOPLE)
        by_id = np.zeros(5)
        by_id[np.asarray(info.clients["id"])] = 5 * np.asarray(run.params(state))
        draws.append(by_id)
        secrets.append(float(info.aggregator["spy_secret"]))
    return np.array(draws), secrets


@lru_cache
def _run(execution: fl.Execution) -> fl.Rounds:
    return composed(fl.chain(fl.mean(), spy()), execution)


def test_noise_of_a_client_depends_on_the_noise_key_the_round_and_the_client_alone() -> None:
    draws, secrets = seen(helpers.ONE)
    assert len(set(draws.ravel().tolist())) == 10
    assert len(set(secrets)) == 2
    other_seed, same_secrets = seen(helpers.ONE, seed=5)
    np.testing.assert_allclose(other_seed, draws, rtol=1e-6)
    assert same_secrets == secrets
    other_noise, other_secrets = seen(helpers.ONE, noise=2)
    assert not np.isclose(other_noise, draws).any()
    assert other_secrets != secrets


def test_neither_lanes_nor_devices_change_it() -> None:
    draws, secrets = seen(helpers.ONE)
    other, same = seen(fl.Execution(lanes=2, devices=helpers.available(2)))
    np.testing.assert_allclose(other, draws, rtol=1e-6)
    assert same == secrets


def test_what_a_round_began_with_must_be_dropped_again() -> None:
    run = composed(fl.chain(fl.mean(), spy(forgets=False)))
    with pytest.raises(ValueError, match=r"the decode of chain\(mean, spy\) returned has an extra leaf at .*'ids'"):
        run.init(SLOTS, PEOPLE, key=jax.random.key(0))


def test_a_fixed_denominator_is_what_the_algorithm_is_told() -> None:
    """Whoever reports: neither weight nor number of clients tells how many they were."""
    told = helpers.sender(helpers.first_value)._replace(
        server_update=lambda params, aggregate, key: jnp.stack(
            [aggregate.weight, aggregate.num_clients.astype(jnp.float32)]
        )
    )
    sampler = fl.sampling.uniform(4, dropout=0.5)
    for aggregator, want in ((fl.mean(over=4), [4.0, 4.0]), (fl.mean(), None)):
        run = fl.rounds(told, sampler=sampler, aggregator=aggregator, execution=helpers.ONE)
        state = run.init(jnp.zeros(2), PEOPLE, key=jax.random.key(3))
        state, info = run.step(state, PEOPLE)
        reported = int(info.num_reported)
        assert reported < 4
        assert run.params(state).tolist() == (want or [reported, reported])


def test_a_denominator_is_held_against_the_sampler() -> None:
    composed(fl.mean(over=9)).wire(SLOTS, PEOPLE)
    with pytest.raises(
        ValueError, match=r"`mean\(over=100\)` divides by 100 where the sampler expects 5 clients.*fl.mean\(over=5\)"
    ):
        composed(fl.mean(over=100)).wire(SLOTS, PEOPLE)


def test_a_codec_that_is_made_for_some_rounds_refuses_more() -> None:
    limited = fl.clip_by_value(1.0)._replace(name="planned", num_rounds=3)
    run = composed(fl.chain(fl.mean(), limited))
    state = run.init(SLOTS, PEOPLE, key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"chain\(mean, planned\) is made for 3 rounds; 0 are done and 4 more were"):
        run.steps(state, PEOPLE, 4)
    with pytest.raises(
        ValueError, match=r"`num_rounds` is 4, but chain\(mean, planned\) knows 3 rounds; ask for fewer"
    ):
        fl.train(run, state, PEOPLE, num_rounds=4)


def test_the_state_knows_whether_its_noise_is_secret() -> None:
    run = composed(fl.mean())
    assert bool(run.init(SLOTS, PEOPLE, key=jax.random.key(0)).keys.secret)
    assert not bool(run.init(SLOTS, PEOPLE, key=jax.random.key(0), noise_key=jax.random.key(1)).keys.secret)


@pytest.mark.parametrize(("rounding", "stretch"), [("stochastic", 1.0), ("nearest", 0.5)])
def test_the_bound_on_an_update_covers_its_rounding(rounding: str, stretch: float) -> None:
    chain = fl.chain(fl.mean(), fl.clip_by_global_norm(2.0), fl.quantize(bits=4, rounding=rounding))
    bounds = composed(chain).wire(SLOTS, PEOPLE).bounds
    assert bounds.l2 == pytest.approx(2.0 + stretch * 5**0.5 * 2.0 / 7)
    assert bounds.linf == 2.0
