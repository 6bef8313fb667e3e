"""A clock tells the sampler inside of it how long clients took."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_timed_rounds import EXAMPLES, N, devices, exponential, people, setting

from fedjaxlite import sampling, systems
from fedjaxlite.sampling import Seen
from fedjaxlite.systems import timed

ROUNDS = 6


def told(sampler: Any) -> tuple[Any, Any]:
    """The last state, and the cohorts, of rounds in which every client lost as much as its id."""
    population, start = people(examples=EXAMPLES), sampler.memory.init(setting(examples=EXAMPLES))

    def one(state: Any, number: Any) -> Any:
        cohort, state = sampler.memory.sample(state, jax.random.key(0), number, population)
        loss = {"loss": cohort.ids.astype(jnp.float32)}
        seen = Seen(cohort, cohort.reported, jnp.asarray(EXAMPLES)[cohort.ids], loss)
        return sampler.memory.learn(state, seen), cohort

    return jax.jit(lambda: jax.lax.scan(one, start, jnp.arange(ROUNDS, dtype=jnp.int32)))()


def oort(latency: Any) -> sampling.Sampler:
    return sampling.oort(3, latency=latency, preferred_seconds=1.0, exploration=0.3)


def test_the_clock_tells_what_a_latency_of_the_same_draws_would_tell() -> None:
    one, cohorts = told(timed(oort("clock"), exponential, deadline=1.5))
    other, same = told(timed(oort(exponential), exponential, deadline=1.5))
    jax.tree.map(np.testing.assert_array_equal, cohorts, same)
    np.testing.assert_array_equal(one.inner.seconds, other.inner.seconds)
    assert (np.asarray(one.inner.seconds) > 0).sum() > 3
    np.testing.assert_array_equal(one.inner.preferred, other.inner.preferred)


def test_seconds_are_those_of_the_devices_without_the_wait_for_them() -> None:
    nights = systems.availability({i: [(50.0, 500.0)] for i in range(N)}, period=1000)
    state, cohorts = told(timed(oort("clock"), devices(), availability=nights))
    every = systems.seconds_of(devices(), jnp.arange(N), jnp.asarray(EXAMPLES), 20, 40)
    asked = np.unique(np.asarray(cohorts.ids))
    np.testing.assert_allclose(np.asarray(state.inner.seconds)[asked], np.asarray(every)[asked], rtol=1e-6)


def test_a_sampler_that_does_not_ask_keeps_nothing() -> None:
    memory: Any = timed(sampling.oort(3), exponential).memory
    state = memory.init(setting())
    assert state.taking == ()


def test_a_clock_that_is_not_there_is_missed_by_name() -> None:
    sampler: Any = oort("clock")
    with pytest.raises(ValueError, match="oort: `latency` is 'clock', and there is none around it. Put it into one"):
        told(sampler)
    with pytest.raises(ValueError, match="`latency` is 'clocks'; expected one of 'clock'. Or pass"):
        oort("clocks")
    with pytest.raises(ValueError, match="oort: a `latency` is given without `preferred_seconds`"):
        sampling.oort(3, latency="clock")
