"""The benchmark of the clock at sizes that say nothing about speed: it runs, and counts what it says it counts."""

import jax
import pytest

import fedjaxlite as fl
from fedjaxlite.benchmarks.clock import __main__ as clock
from fedjaxlite.benchmarks.contenders import Setting


@pytest.mark.whole
def test_a_dispatch_tells_the_local_steps_of_all_its_buffers() -> None:
    problem = clock.digits(6)
    server = fl.systems.fed_buff(2, concurrency=3, service=fl.systems.service.exponential(1.0))
    run = clock.dispatch(problem._replace(sampler=server), Setting(lanes=1, devices=1), 3)
    assert run() == 3 * 2 * 2  # buffers, messages, steps of a client


@pytest.mark.slow
def test_it_measures_what_it_is_asked_for() -> None:
    found = clock.main("tiny", turns=2)
    assert set(found["workloads"]) == {"w1", "w3", "w3, crowded"}
    for result in found["workloads"].values():
        assert 0 < result["fed_buff_over_synchronous"]["low"] <= result["fed_buff_over_synchronous"]["high"]
    rates = found["events"]["arrivals_per_second"]
    assert {name.partition(",")[0] for name in rates} == {"fed_buff", "fed_async", "synchronous"}
    assert found["machine"]["packages"]["jax"] == jax.__version__
