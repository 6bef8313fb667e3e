"""Lanes that take their next client as they are done: nobody is forgotten, and nearly no step is padding."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.data.local_loop import Block
from fedjaxlite.execution.lanes.queues import Cut, cut_for, steps_in_turn, until_change
from fedjaxlite.execution.lanes.schedule import dealt

ONE_BY_ONE = Block(1, whole=False, exact=False)
STEPS = st.lists(st.integers(0, 60), min_size=1, max_size=40)
FORTY = st.lists(st.integers(0, 60), min_size=40, max_size=40)
"""For what is compiled for every length."""


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 60), min_size=8, max_size=8), st.booleans(), st.sampled_from([1, 4]))
def test_the_host_counts_as_the_program_does(left: list[int], more: bool, size: int) -> None:
    queue = Cut(Block(size, whole=size > 1, exact=False), None, queues=True)
    found = int(until_change(jnp.int32(left), jnp.bool_(more), queue))
    steps, changes = steps_in_turn(np.array(sorted(left, reverse=True)), lanes=8, cut=queue)
    assert (steps, changes) == (-(-max(left) // size) * size, 1)
    assert found in range(steps + 1)
    assert found > 0 or max(left) == 0
    if not more:
        assert found == steps


@settings(max_examples=100, deadline=None)
@given(STEPS, st.integers(2, 9))
def test_a_schedule_is_near_the_best_there_is(num_steps: list[int], lanes: int) -> None:
    ordered = np.array(sorted(num_steps, reverse=True))
    steps, changes = steps_in_turn(ordered, lanes=lanes, cut=Cut(ONE_BY_ONE, None, queues=True))
    best = max(ordered[0], -(-ordered.sum() // lanes))
    assert best <= steps <= 2 * best + changes, "list scheduling, and one step of waiting a change"
    waves, _ = steps_in_turn(ordered, lanes=lanes, cut=Cut(ONE_BY_ONE, None, queues=False))
    assert steps <= waves + changes


@settings(max_examples=50, deadline=None)
@given(FORTY, st.integers(1, 5))
@example([7], 4)
def test_dealt_clients_are_all_of_them_once_and_evenly(work: list[int], devices: int) -> None:
    active = np.array([w % 7 != 3 for w in work])
    hands = [dealt(jnp.float32(work), jnp.asarray(active), device=d, num_devices=devices) for d in range(devices)]
    slots = [np.asarray(hand.order)[int(hand.start) :][: int(hand.size)] for hand in hands]
    assert sorted(np.concatenate(slots).tolist()) == np.flatnonzero(active).tolist()
    loads = [np.array(work)[hand].sum() for hand in slots]
    assert max(loads) - min(loads) <= max(work)
    assert all((np.diff(np.array(work)[hand]) <= 0).all() for hand in slots), "the largest first"


def lognormal_clients() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.clip(rng.lognormal(np.log(20), 1.2, 500).astype(int), 1, 1000)


@pytest.mark.parametrize(("platform", "lanes"), [("gpu", 64), ("tpu", 64), ("gpu", 16), ("cpu", 8), ("cpu", 64)])
def test_five_hundred_ragged_clients(platform: str, lanes: int) -> None:
    steps_of = np.sort(-(-lognormal_clients() // 10))[::-1]
    mean = -(-round(lognormal_clients().mean()) // 10)
    largest, even = int(steps_of[0]), steps_of.sum() / lanes
    cut = cut_for(largest=largest, mean=mean, alike=False, turns=500 / lanes, lanes=lanes, platform=platform)
    steps, _ = steps_in_turn(steps_of, lanes=lanes, cut=cut)
    print(
        f"{platform}, {lanes} lanes: {steps} steps in turn; an even split is {even:.1f}, the largest client {largest}"
    )
    assert steps <= max(1.15 * even, 1.05 * largest)


def test_the_dearer_a_change_the_longer_lanes_wait() -> None:
    ordered = np.sort(-(-lognormal_clients() // 10))[::-1]
    found = [steps_in_turn(ordered, lanes=8, cut=Cut(ONE_BY_ONE, None, True, cost)) for cost in (1, 4, 16, 64)]
    waves = steps_in_turn(ordered, lanes=8, cut=Cut(ONE_BY_ONE, None, False))
    steps, changes = zip(*found, strict=True)
    assert list(changes) == sorted(changes, reverse=True)
    assert changes[-1] <= waves[1] + 1
    assert max(steps) <= waves[0]


def ragged(sizes: list[int]) -> fl.Population:
    owner = np.repeat(np.arange(len(sizes)), sizes)
    rng = np.random.default_rng(1)
    features = {"x": rng.standard_normal((len(owner), 3)).astype(np.float32), "y": rng.random(len(owner), np.float32)}
    return fl.Population.from_arrays(features, client_ids=owner, order=list(range(len(sizes))), allow_empty=True)


def loss(params: Any, batch: Any, key: Any) -> Any:
    noisy = batch["x"] + 0.1 * jax.random.normal(key, batch["x"].shape)
    return (noisy @ params - batch["y"]) ** 2


@lru_cache(maxsize=3)
def trained(lanes: int) -> Any:
    population = ragged([3, 0, 17, 1, 9, 2, 2, 30, 4, 5])
    sampler = fl.sampling.with_stragglers(fl.sampling.full(10), 0.5, 0.2)
    algorithm = algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.02, momentum=0.9), batch_size=2, epochs=2)
    execution = fl.Execution(lanes=lanes, devices=1)
    run = fl.rounds(algorithm, sampler=sampler, aggregator=fl.weighted_mean(), execution=execution)
    state = run.init(jnp.zeros(3), population, key=jax.random.key(0))
    state, _ = run.step(state, population)
    state, info = run.step(state, population)
    return state.params, info


@pytest.mark.parametrize("lanes", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_clients_do_not_notice_their_lane(lanes: int) -> None:
    alone, told = trained(1)
    together, heard = trained(lanes)
    np.testing.assert_allclose(together, alone, rtol=2e-5, atol=1e-6)
    for name in ("id", "num_examples", "in_sum", "loss"):
        np.testing.assert_allclose(heard.clients[name], told.clients[name], rtol=2e-5, atol=1e-6)
    assert int(heard.num_examples) == int(told.num_examples) == 73
