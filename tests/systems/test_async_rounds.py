"""Asynchronous servers inside of rounds: laws that hold for the numbers, whatever the clock says."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite import algorithms, systems

pytestmark = pytest.mark.usefixtures("no_pictures")

N = 12
KEY = jax.random.key(3)


def _population():
    draw = np.random.default_rng(0)
    owners = np.repeat(np.arange(N), draw.integers(1, 6, N))
    x = draw.normal(size=(len(owners), 3)).astype(np.float32)
    return fl.Population.from_arrays({"x": x, "y": (x @ np.float32([1, -2, 3])).astype(np.float32)}, client_ids=owners)


DATA = _population()


def loss(params, batch, key):
    del key
    return (batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2


def first():
    return {"w": jnp.zeros(3), "b": jnp.float32(0)}


def averaging(**more):
    return algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.05), batch_size=2, epochs=1, **more)


def composed(sampler, algorithm=None, aggregator=None, **execution):
    return fl.rounds(
        algorithm or averaging(),
        sampler=sampler,
        aggregator=aggregator or fl.weighted_mean(),
        execution=fl.Execution(**execution),
    )


def buffered(buffer=3, concurrency=5, mean=1.0, **more):
    return systems.fed_buff(buffer, concurrency=concurrency, service=systems.service.exponential(mean), **more)


def ran(rounds, num, population=DATA):
    state = rounds.init(first(), population, key=KEY)
    return rounds.steps(state, population, num)


@functools.cache
def plainly():
    """Four rounds of `buffered`, one client after another."""
    return ran(composed(buffered(), lanes=1), 4)


@jax.jit
def sent(params, client, number, keys):
    """What a client sends in a round by itself, for a model that it was given."""
    key = jax.random.fold_in(jax.random.fold_in(keys.client, number), client)
    return averaging().client_update(params, (), fl.client_view(DATA, client, key=key), key).update


def same_bits(one, other):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(one), jax.device_get(other))


@pytest.mark.parametrize("method", ["fed_avg", pytest.param("scaffold", marks=pytest.mark.slow), "di_lo_co"])
def test_a_buffer_of_all_that_are_at_work_and_equal_speeds_is_federated_averaging_bit_for_bit(method):
    algorithm = averaging()
    if method == "scaffold":
        algorithm = algorithms.scaffold(loss, client_lr=0.05, batch_size=2, epochs=1, num_clients=N)
    if method == "di_lo_co":
        algorithm = algorithms.di_lo_co(loss, inner_optimizer=optax.sgd(0.05, momentum=0.9), batch_size=2, steps=2)
    rounds = ran(composed(fl.sampling.uniform(4), algorithm, lanes=2), 4)
    service, grace = systems.service.constant(2.0), 1.0 if method == "di_lo_co" else None
    clocked = ran(composed(systems.fed_buff(4, concurrency=4, service=service, grace=grace), algorithm, lanes=2), 4)
    same_bits(rounds[0].server_state, clocked[0].server_state)
    same_bits(rounds[0].clients, clocked[0].clients)
    assert np.all(clocked[1].sampler["staleness_max"] == 0)


def test_fed_async_with_one_client_at_work_trains_one_after_the_other():
    rounds = composed(systems.fed_async(concurrency=1, service=systems.service.exponential(1.0)), lanes=1)
    state, infos = ran(rounds, 5)
    by_hand = first()
    for number, client in enumerate(np.asarray(infos.clients["id"])[:, 0]):
        by_hand = jax.tree.map(jnp.subtract, by_hand, sent(by_hand, client, number, state.keys))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-6), state.params, by_hand)


def test_a_mixing_server_moves_a_share_of_the_way_to_the_model_that_came():
    """Xie et al. (2019): x <- (1 - a s) x + a s x_new, from the versions that clients began from."""
    rate = 0.5
    sampler = systems.fed_async(
        concurrency=3, service=systems.service.exponential(1.0), staleness=systems.staleness.polynomial(0.5)
    )
    rounds = composed(sampler, averaging(server_optimizer=optax.sgd(rate)), fl.mean(), lanes=1)
    state, told, models = rounds.init(first(), DATA, key=KEY), [], [first()]
    for number in range(6):
        state, info = rounds.step(state, DATA)
        told.append(int(info.sampler["staleness_max"]))
        client, then = info.clients["id"][0], models[number - told[-1]]
        update = sent(then, client, number, state.keys)
        share = rate * (1 + told[-1]) ** -0.5
        mixed = jax.tree.map(lambda x, t, u: (1 - share) * x + share * (t - u), models[-1], then, update)  # noqa: B023
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state.params, mixed)
        models.append(jax.device_get(state.params))
    assert max(told) > 0


def test_staleness_takes_off_the_update_and_not_the_weight():
    """Nguyen et al. (2022): the sum of s(tau) Delta over K, whatever the weights of a mean would make of it."""
    sampler = buffered(2, 4, staleness=systems.staleness.polynomial(1.0))
    rounds = composed(sampler, aggregator=fl.mean(), lanes=1)
    state = rounds.init(first(), DATA, key=KEY)
    sample, seen, models = jax.jit(sampler.memory.sample), [], [first()]
    for number in range(5):
        drawn, _ = sample(state.sampler, state.keys.sample, jnp.int32(number), DATA)
        total = jax.tree.map(jnp.zeros_like, first())
        for client, version, discount in zip(drawn.ids, drawn.version, drawn.discount, strict=True):
            then = jax.tree.map(lambda kept: kept[version], state.versions)  # noqa: B023
            update = sent(then, client, number, state.keys)
            total = jax.tree.map(lambda t, u: t + discount * u / 2, total, update)  # noqa: B023
            seen.append(float(discount))
        expected = jax.tree.map(lambda p, t: p - t, models[-1], total)
        state, _ = rounds.step(state, DATA)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state.params, expected)
        models.append(jax.device_get(state.params))
    assert min(seen) < 1


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_lanes_devices_and_dispatches_do_not_change_the_numbers(devices):
    reference, _ = plainly()
    rounds = composed(buffered(), lanes=2, devices=devices)
    state = rounds.init(first(), DATA, key=KEY)
    for _ in range(4):
        state, info = rounds.step(state, DATA)
    same_bits(reference.sampler, state.sampler)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # noqa: E731
    jax.tree.map(close, jax.device_get(reference.server_state), jax.device_get(state.server_state))
    assert int(info.num_reported) == 3


def test_a_run_that_ends_with_clients_at_work_goes_on_bit_for_bit(tmp_path):
    rounds = composed(buffered(staleness=systems.staleness.polynomial(0.5)), lanes=2)

    def trained(num, out, **more):
        state = rounds.init(first(), DATA, key=KEY)
        options = {"num_rounds": num, "out_dir": out, "progress": False, "rounds_per_dispatch": 2, **more}
        return fl.train(rounds, state, DATA, **options)

    whole = trained(6, tmp_path / "whole")
    trained(2, tmp_path / "parts", checkpoint_every=2)
    again = trained(6, tmp_path / "parts", checkpoint_every=2, resume=True)
    same_bits(whole.state.server_state, again.state.server_state)
    same_bits(whole.state.sampler, again.state.sampler)
    times = [record["simulated_seconds"] for record in again.records]
    assert times == [record["simulated_seconds"] for record in whole.records]
    assert all(a <= b for a, b in itertools.pairwise(times))
    assert {"staleness_mean", "staleness_max", "dropped_stale"} <= set(again.records[-1])


def test_runs_of_many_seeds_speeds_and_exponents_side_by_side_are_those_one_by_one():
    def run(seed, mean, exponent):
        sampler = buffered(mean=mean, staleness=systems.staleness.polynomial(exponent))
        rounds = composed(sampler, lanes=1)
        state = rounds.init(first(), DATA, key=jax.random.key(seed))
        state, info = rounds.steps(state, DATA, 3)
        return state.params, info.sampler["simulated_seconds"].part

    each = (jnp.arange(2, dtype=jnp.int32), jnp.float32([1.0, 3.0]), jnp.float32([0.1, 0.5]))
    together = jax.jit(jax.vmap(run))(*each)
    one = jax.jit(run)
    for i in range(2):
        alone = one(*(values[i] for values in each))
        close = lambda a, b: np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-6)  # noqa: B023, E731
        jax.tree.map(close, together, alone)


def test_what_a_buffer_cannot_mean_is_refused():
    weighs = buffered(staleness=systems.staleness.polynomial(0.5))
    masked = fl.chain(fl.mean(), fl.clip_by_global_norm(1.0), fl.privacy.secure_sum())
    with pytest.raises(ValueError, match=r"weighs updates by their staleness.*a mask hides single updates"):
        composed(weighs, aggregator=masked).init(first(), DATA, key=KEY)
    composed(buffered(), aggregator=masked).init(first(), DATA, key=KEY)  # all of a buffer alike: a sum
    fragments = algorithms.streaming_di_lo_co(loss, inner_optimizer=optax.sgd(0.05), batch_size=2, steps=2, fragments=2)
    with pytest.raises(ValueError, match=r"streaming_di_lo_co sends something else from round to round"):
        composed(buffered(), fragments).init(first(), DATA, key=KEY)
    rounds = composed(weighs)
    state = rounds.init(first(), DATA, key=KEY)
    cohort = fl.sampling.uniform(3).sample(KEY, 0, DATA)
    with pytest.raises(ValueError, match=r"carries a memory.*Give `step` the whole Population"):
        rounds.step(state, fl.prepare_cohort(DATA, cohort))
    with pytest.raises(ValueError, match=r"cannot be drawn ahead"):
        other = composed(weighs, algorithms.scaffold(loss, client_lr=0.05, batch_size=2, epochs=1, num_clients=N))
        other = fl.rounds(
            other.algorithm,
            sampler=weighs,
            aggregator=fl.weighted_mean(),
            execution=fl.Execution(client_states="host"),
        )
        fl.train(other, other.init(first(), DATA, key=KEY), DATA, num_rounds=1, progress=False)
