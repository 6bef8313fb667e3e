"""Who can begin at an asynchronous server: whose device is enough, and who is there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjaxlite.data.population import Population
from fedjaxlite.sampling import Seconds, Setting
from fedjaxlite.systems import Devices, availability, fed_async, fed_buff, service

ONES = np.ones(4, np.float32)
LIMITED = Devices(
    ONES,
    10 * ONES,
    20 * ONES,
    ONES,
    joules_per_step=ONES,
    joules_per_byte=0.125 * ONES,
    battery_joules=np.float32([30, 29, 29, 31]),
    memory_bytes=np.float32([64, 64, 64, 63]),
)
SETTING = Setting(4, jnp.array([5, 5, 4, 5], jnp.int32), 100, 100, None, 16)


def test_devices_that_cannot_do_the_work_are_never_chosen():
    # 200 bytes are 25 joules: 30 with five steps, 29 with four.
    served = service.on_devices(LIMITED, memory_models=4)
    assert served.able is not None
    assert served.able(served.facts(SETTING)).tolist() == [True, False, True, False]
    with pytest.warns(
        UserWarning, match=r"on_devices: memory or battery of 2 of 4 devices are not enough for this run"
    ):
        state = fed_buff(2, concurrency=4, service=served).memory.init(SETTING)
    assert state.able.tolist() == [True, False, True, False]
    bytes_needed = service.on_devices(LIMITED._replace(battery_joules=None), memory_bytes=64)
    assert bytes_needed.able is not None
    assert bytes_needed.able(bytes_needed.facts(SETTING)).tolist() == [True, True, True, False]
    with pytest.raises(ValueError, match=r"`service` \(on_devices\): memory and battery of 2 of 4 devices are enough"):
        fed_buff(3, concurrency=4, service=served).memory.init(SETTING)
    assert service.on_devices(LIMITED._replace(battery_joules=None)).able is None
    with pytest.raises(ValueError, match=r"`memory_bytes` is 8 without Devices.memory_bytes"):
        service.on_devices(LIMITED._replace(memory_bytes=None), memory_bytes=8)
    with pytest.raises(ValueError, match=r"`memory_bytes` and `memory_models` are both given"):
        service.on_devices(LIMITED, memory_bytes=8, memory_models=4)


def test_availability_that_does_not_fit():
    second = service.constant(1.0)
    with pytest.raises(ValueError, match="`availability` is of 2 clients, but the population has 3; expected one row"):
        fed_buff(1, concurrency=1, service=second, availability=availability({0: [(0, 5)], 1: []}, period=9)).check(3)
    with pytest.raises(ValueError, match="`availability` has no window of any client: nobody is ever there"):
        fed_async(1, service=second, availability=availability({0: [], 1: []}, period=9)).check(2)
    with pytest.raises(TypeError, match="`availability` is 3; expected an Availability"):
        fed_async(1, service=second, availability=3)  # pyright: ignore[reportArgumentType]


@pytest.mark.slow
def test_after_a_year_the_night_still_begins_at_its_second():
    # An hour each, from 22:00 to 6:00 and a half: eight come back, and who begins at 6:00 leaves at half past.
    nights = availability({0: [(79200, 109800)], 1: []}, period=86400)
    sampler = fed_async(1, service=service.constant(3600.0), availability=nights)
    state = sampler.memory.init(Setting(2, jnp.ones((2,), jnp.int32), 8, 8, None, 8))
    noon = 365 * 86400 + 43200
    state = state._replace(now=Seconds(jnp.int32(noon), jnp.float32(0.25)))
    people = Population({}, jnp.arange(3), max_size=1)

    def fill(state, number):
        drawn, state = sampler.memory.sample(state, jax.random.key(0), number, people)
        return state, (drawn.selected[0], sampler.memory.tell(state))

    came, told = jax.lax.scan(fill, state, jnp.arange(10, dtype=jnp.int32))[1]
    night = 36000 + 3600 * np.arange(1, 9)
    assert came.all()
    assert (told["simulated_seconds"].whole - noon).tolist() == [*night, 36000 + 86400 + 3600, 36000 + 86400 + 7200]
    np.testing.assert_array_equal(told["simulated_seconds"].part, 0)
    assert told["left_midway"].tolist() == [0] * 8 + [1, 0]
