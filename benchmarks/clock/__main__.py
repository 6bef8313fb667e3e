"""`python -m fedjaxlite.benchmarks.clock`: what a clock inside the program costs, as JSON.

Two questions. How many arrivals a second an asynchronous server takes in on a model so small that little else is done:
that is what the event loop costs. And how many client steps a second FedBuff makes on the 2NN (W1) and on ragged
logistic regression (W3), beside synchronous rounds of as many clients: that is what is lost by not waiting.
"""

import argparse
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

import fedjaxlite as fl
from fedjaxlite.benchmarks import contenders, machine
from fedjaxlite.benchmarks.contenders import Setting
from fedjaxlite.benchmarks.problem import Problem, Workload, batches, dense_layers, images, packed, weights
from fedjaxlite.benchmarks.timing import ratios, seconds, spread
from fedjaxlite.benchmarks.workloads import WORKLOADS

_EVENTS = {"full": (100, 20, 10, 200), "tiny": (12, 4, 2, 3)}
"""Clients, clients at work, messages in a buffer, buffers in a dispatch."""
_CASES = {"w1": ("w1", 2), "w3": ("w3", 5), "w3, crowded": ("w3", 2)}
"""Of what is timed beside rounds: the workload, and of how many clients one is at work."""
_LANES = {"w1": (1,), "w3": (4, 16)}
"""What rounds of these are fastest with on a CPU."""


def main(size: str = "full", turns: int = 7) -> dict[str, Any]:
    """Measures both.

    Args:
      size: "full" or "tiny", whose times mean nothing.
      turns: how often each program is timed.

    Returns:
      what is printed.
    """
    found: dict[str, Any] = {"machine": machine.describe(), "size": size, "turns": turns}
    found["events"] = events(size, turns)
    found["workloads"] = {
        name: against_rounds(WORKLOADS[which], share, size, turns) for name, (which, share) in _CASES.items()
    }
    found["machine"]["load_average_at_the_end"] = machine.load_average()
    return found


def events(size: str, turns: int) -> dict[str, Any]:
    """Arrivals a second of FedBuff and of FedAsync: 64 features, 10 classes, 20 examples and 2 steps a client."""
    num_clients, at_work, buffer, rounds = _EVENTS[size]
    problem = digits(num_clients)
    service = fl.systems.service.exponential(1.0)
    fed_buff = fl.systems.fed_buff(buffer, concurrency=at_work, service=service)
    fed_async = fl.systems.fed_async(at_work, service=service)
    ways = {
        "fed_buff": (fed_buff, buffer, rounds),
        "fed_async": (fed_async, 1, rounds * buffer),
        "synchronous": (fl.sampling.uniform(buffer), buffer, rounds),
    }
    settings = {lanes: Setting(lanes, 1) for lanes in (1, buffer)}
    runs: dict[str, Callable[[], int]] = {}
    arrivals = {name: slots * count for name, (_, slots, count) in ways.items()}
    for name, (sampler, slots, count) in ways.items():
        for lanes, setting in settings.items():
            if lanes <= slots:
                key = f"{name}, {lanes} at a time"
                runs[key] = dispatch(problem._replace(sampler=sampler), setting, count)
                arrivals[key] = slots * count
    times, _ = _turns(runs, turns)
    rates = {name: spread([arrivals[name] / t for t in values])._asdict() for name, values in times.items()}
    return {
        "clients": num_clients, "at_work": at_work, "buffer": buffer, "buffers_a_dispatch": rounds,
        "arrivals_per_second": rates,
    }  # fmt: skip


def against_rounds(workload: Workload, share: int, size: str, turns: int) -> dict[str, Any]:
    """Client steps a second of FedBuff over those of rounds with as many clients.

    As many clients are at work as make a buffer, one in `share` of all, so both ways train as many at a time; times are
    exponential. With a share of 2 nearly everyone is at work or in the buffer, and most candidates are passed over:
    some ten cohorts are drawn for a buffer, and the smaller the model, the more that is felt.
    Clients of unlike sizes come in unlike numbers, so it is steps that are counted, of the very rounds that are timed.
    All settings of both take turns. Told are the ratio in each setting, and that of each way's fastest by the median.
    """
    problem = workload.build(size)
    slots = math.ceil(problem.population.num_clients / share)
    service = fl.systems.service.exponential(1.0)
    samplers = {
        "synchronous": fl.sampling.uniform(slots),
        "fed_buff": fl.systems.fed_buff(slots, concurrency=slots, service=service),
    }
    on = contenders.placements(problem.population)
    settings = contenders.settings(_LANES[workload.name], jax.device_count(), size == "tiny")
    runs: dict[tuple[str, Setting], Callable[[], int]] = {}
    for setting in settings:
        for name, sampler in samplers.items():
            step = contenders.ours(problem._replace(sampler=sampler), setting, on(setting.devices))
            runs[name, setting] = _counted(step)
            runs[name, setting]()
    times, steps = _turns(runs, turns)
    per_step = {key: [t / n for t, n in zip(times[key], steps[key], strict=True)] for key in runs}
    fastest = {
        name: min(settings, key=lambda setting, name=name: spread(per_step[name, setting]).median) for name in samplers
    }
    ratio = lambda theirs, ours: ratios(per_step["synchronous", theirs], per_step["fed_buff", ours])._asdict()  # noqa: E731
    return {
        "clients_a_round": slots,
        "fastest": {name: str(setting) for name, setting in fastest.items()},
        "client_steps_per_second": {
            name: spread([1 / t for t in per_step[name, setting]])._asdict() for name, setting in fastest.items()
        },
        "fed_buff_over_synchronous": ratio(fastest["synchronous"], fastest["fed_buff"]),
        "in_each_setting": {str(setting): ratio(setting, setting) for setting in settings},
    }


def dispatch(problem: Problem, setting: Setting, count: int) -> Callable[[], int]:
    """Many server steps in one program, compiled: each call goes on from the last and tells its local steps."""
    execution = fl.Execution(lanes=setting.lanes, devices=setting.devices)
    run = fl.rounds(problem.algorithm, sampler=problem.sampler, aggregator=fl.weighted_mean(), execution=execution)
    population = contenders.placements(problem.population)(setting.devices)
    state = run.init(problem.params, population, key=jax.random.key(1))

    def step() -> fl.PassInfo:
        nonlocal state
        state, info = run.steps(state, population, count)
        jax.block_until_ready(state)
        return info

    counted = _counted(step)
    counted()
    return counted


def _counted(step: Callable[[], fl.PassInfo]) -> Callable[[], int]:
    def run() -> int:
        info = step()
        return int(np.asarray(info.clients["local_steps"])[np.asarray(info.clients["in_sum"])].sum())

    return run


def _turns(runs: Mapping[Any, Callable[[], int]], turns: int) -> tuple[dict[Any, list[float]], dict[Any, list[int]]]:
    """Seconds and local steps by program; all take their turns, once in every round of turns."""
    times: dict[Any, list[float]] = {name: [] for name in runs}
    steps: dict[Any, list[int]] = {name: [] for name in runs}
    for _ in range(turns):
        for name, run in runs.items():
            times[name].append(seconds(lambda run=run, name=name: steps[name].append(run())))
    return times, steps


def digits(num_clients: int) -> Problem:
    """Logistic regression on clients of 20 examples of 64 features, B = 10; no limit stands beside it."""
    sizes = np.full(num_clients, 20)
    population = packed(images(20 * num_clients, (64,)), sizes)
    model = fl.models.logistic(num_classes=10, input_shape=(64,))
    loss = fl.losses.cross_entropy(model)
    return Problem(
        loss_fn=loss,
        params=weights(model),
        population=population,
        sampler=fl.sampling.full(num_clients),
        rows=batches(population.offsets, range(num_clients), 10),
        to_limit=lambda params: dense_layers(params)[0],
        plain_loss=loss,
        fast_loss=loss,
        learning_rate=0.05,
    )


parser = argparse.ArgumentParser(prog="python -m fedjaxlite.benchmarks.clock", description="Servers that do not wait.")
parser.add_argument("--smoke", action="store_true", help="tiny sizes, whose times mean nothing")
parser.add_argument("--turns", type=int, default=7, help="how often every program is timed")
parser.add_argument("--out", type=Path, default=None, help="a file for what is printed")

if __name__ == "__main__":
    given = parser.parse_args()
    fl.use_cpu_cores()
    text = json.dumps(main("tiny" if given.smoke else "full", 2 if given.smoke else given.turns), indent=1)
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n", encoding="utf-8")
