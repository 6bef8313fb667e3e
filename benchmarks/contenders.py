"""Ours and the limits, each as a function without arguments to be timed."""

import functools
import itertools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import fedjaxlite as fl
from fedjaxlite.benchmarks.limits import loops
from fedjaxlite.benchmarks.problem import Problem
from fedjaxlite.benchmarks.timing import take_turns


class Setting(NamedTuple):
    """How a program runs: models side by side on a device, and devices."""

    lanes: int
    devices: int

    def __str__(self) -> str:
        return f"{self.lanes}x{self.devices}"


class Contender(NamedTuple):
    """A compiled program.

    Attributes:
      setting: how it runs.
      run: runs it once; what it returns is to be waited for.
      compile_seconds: of the first call, beyond what a later call takes; tracing included.
      trial_seconds: the best time of the trials that chose the setting.
    """

    setting: Setting
    run: Callable[[], Any]
    compile_seconds: float
    trial_seconds: float


def lanes_on(platform: str, lanes: Sequence[int], capacity: int) -> list[int]:
    """The numbers of lanes to search: the workload's on a CPU, and on an accelerator more and never one.

    Args:
      platform: "cpu", "gpu", "tpu".
      lanes: the workload's, ascending.
      capacity: the most clients in a cohort; more lanes than that would stay empty.

    Example:
      >>> lanes_on("cpu", (1, 2, 4), 20), lanes_on("gpu", (1, 2, 4), 20)
      ([1, 2, 4], [2, 4, 16, 20])
    """
    if platform == "cpu":
        return list(lanes)
    return sorted({min(n, capacity) for n in (*lanes[1:], 16, 64, 256)})


def settings(lanes: Sequence[int], num_devices: int, tiny: bool) -> list[Setting]:
    """The short list that is searched: the lanes given, on one device and on all; one of them where time is short."""
    if tiny:
        return [Setting(min(2, max(lanes)), num_devices)]
    counts = sorted({1, num_devices})
    return [Setting(*both) for both in itertools.product(lanes, counts)]


def best(prepare: Callable[[Setting], Callable[[], Any]], candidates: Sequence[Setting], trials: int = 3) -> Contender:
    """Compiles a program in every setting, times them in turns, and keeps the one with the best single time.

    Args:
      prepare: makes the program of a setting; what it does before the first call counts as compiling.
      candidates: the settings.
      trials: turns, where there is more than one setting.

    Returns:
      the fastest Contender; the others are forgotten.
    """
    runs: dict[Setting, Callable[[], Any]] = {}
    first: dict[Setting, float] = {}
    for setting in candidates:
        start = time.perf_counter()
        runs[setting] = prepare(setting)
        jax.block_until_ready(runs[setting]())
        first[setting] = time.perf_counter() - start
    turns = trials if len(candidates) > 1 else 1  # then there is nothing to choose
    trial = {setting: min(times) for setting, times in take_turns(runs, turns).items()}
    chosen = min(trial, key=lambda setting: trial[setting])
    return Contender(chosen, runs[chosen], max(first[chosen] - trial[chosen], 0.0), trial[chosen])


def placements(population: fl.Population) -> Callable[[int], fl.Population]:
    """`on(num_devices)`: the population on the first devices, with one copy for all programs that run there."""

    @functools.cache
    def on(num_devices: int) -> fl.Population:
        devices = jax.devices()[:num_devices]
        mesh = jax.sharding.Mesh(np.asarray(devices), ("clients",), axis_types=(jax.sharding.AxisType.Auto,))
        return jax.device_put(population, devices[0] if num_devices == 1 else jax.NamedSharding(mesh, jax.P()))

    return on


def ours(
    problem: Problem, setting: Setting, population: fl.Population, aggregator: fl.Aggregator | None = None
) -> Callable[[], fl.PassInfo]:
    """A round of fedjaxlite, weighted by examples where not told otherwise; every call goes on from the last state."""
    run = fl.rounds(
        problem.algorithm,
        sampler=problem.sampler,
        aggregator=fl.weighted_mean() if aggregator is None else aggregator,
        execution=fl.Execution(lanes=setting.lanes, devices=setting.devices),
    )
    state = run.init(problem.params, population, key=jax.random.key(1), noise_key=jax.random.key(2))

    def step() -> fl.PassInfo:
        nonlocal state
        state, info = run.step(state, population)
        jax.block_until_ready(state)
        return info

    return step


def find_ours(problem: Problem, candidates: Sequence[Setting]) -> Contender:
    """Ours in its best setting; copies of the data for other settings are gone when this returns."""
    on = placements(problem.population)
    return best(lambda setting: ours(problem, setting, on(setting.devices)), candidates)


def plain(problem: Problem, population: fl.Population) -> Callable[[], Any]:
    """The plain limit: one scan over all batches, on one device."""
    run = loops.one_scan(problem.plain_loss, problem.learning_rate)
    params, rows, key = jax.device_put((problem.to_limit(problem.params), problem.rows, jax.random.key(3)))
    return lambda: run(params, dict(population.features), rows, key)


def fastest(problem: Problem, setting: Setting, population: fl.Population) -> Callable[[], Any]:
    """The faster limit: the loss written for speed, models side by side, spread over devices."""
    rows = loops.chains(problem.rows, setting.devices, setting.lanes)
    place = loops.split_scan(problem.fast_loss, problem.learning_rate, jax.devices()[: setting.devices])
    return place(problem.to_limit(problem.params), dict(population.features), rows, jax.random.key(3))


def everyone(problem: Problem, candidates: Sequence[Setting], mine: Contender) -> dict[str, Contender]:
    """The limits, and ours on the companions and on users' models; ours itself was found before.

    Args:
      problem: the workload.
      candidates: what to try for the faster limit.
      mine: ours; the companions and users' models run in its setting.

    Returns:
      Contenders by name: "ours", "plain", "fastest", each in its best setting, and the names of the others.
    """
    on = placements(problem.population)
    found = {
        "ours": mine,
        "plain": best(lambda setting: plain(problem, on(setting.devices)), [Setting(1, 1)]),
        "fastest": best(lambda setting: fastest(problem, setting, on(setting.devices)), candidates),
    }
    for name, population in problem.companions.items():
        data = placements(population)(mine.setting.devices)
        found[name] = best(lambda setting, data=data: ours(problem, setting, data), [mine.setting])
    for name, model in problem.written.items():
        by_user = problem._replace(loss_fn=model.loss_fn, params=model.params)
        found[name] = best(lambda setting, by=by_user: ours(by, setting, on(setting.devices)), [mine.setting])
    return found


def check_steps(info: fl.PassInfo, problem: Problem, name: str) -> int:
    """The local steps of a round, which must be those of the limits.

    Args:
      info: of the round.
      problem: the workload.
      name: its name, for the message.

    Returns:
      the number of steps.

    Raises:
      RuntimeError: if the round took another number of steps, or a client was left out.
    """
    in_sum = np.asarray(info.clients["in_sum"])
    steps = int(np.asarray(info.clients["local_steps"])[in_sum].sum())
    if steps != problem.num_steps:
        raise RuntimeError(
            f"{name}: the round took {steps} local steps and its limits take {problem.num_steps}; times of unlike work "
            "are not compared. Change the workload's `rows`, or its sampler."
        )
    if int(info.num_nonfinite) or int(info.num_reported) != int(info.num_selected):
        raise RuntimeError(
            f"{name}: {int(info.num_nonfinite)} clients became NaN and {int(info.num_reported)} of "
            f"{int(info.num_selected)} reported; expected all of them, with finite updates. Lower the rate."
        )
    return steps


def steps_of_fastest(problem: Problem, setting: Setting) -> int:
    """The steps of the faster limit: those of the plain one, or a few more that make its chains equally long."""
    lanes = setting.lanes * setting.devices
    return lanes * math.ceil(problem.num_steps / lanes)
