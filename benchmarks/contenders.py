"""Ours and the limits, each as a function without arguments to be timed."""

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
from fedjaxlite.benchmarks.timing import seconds


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


def settings(lanes: Sequence[int], num_devices: int, tiny: bool) -> list[Setting]:
    """The short list that is searched: the lanes given, on one device and on all; one of them where time is short."""
    if tiny:
        return [Setting(min(2, max(lanes)), num_devices)]
    counts = sorted({1, num_devices})
    return [Setting(*both) for both in itertools.product(lanes, counts)]


def best(prepare: Callable[[Setting], Callable[[], Any]], candidates: Sequence[Setting], trials: int = 2) -> Contender:
    """Compiles a program in every setting, and keeps the one with the best time in a few trials.

    Args:
      prepare: makes the program of a setting; what it does before the first call counts as compiling.
      candidates: the settings.
      trials: timed calls of each.

    Returns:
      the fastest Contender.
    """
    found: Contender | None = None
    for setting in candidates:
        start = time.perf_counter()
        run = prepare(setting)
        jax.block_until_ready(run())
        first = time.perf_counter() - start
        trial = min(seconds(run) for _ in range(trials))
        if found is None or trial < found.trial_seconds:
            found = Contender(setting, run, max(first - trial, 0.0), trial)
    if found is None:
        raise ValueError("there is no setting to try.")
    return found


def ours(problem: Problem, setting: Setting, population: fl.Population | None = None) -> Callable[[], fl.PassInfo]:
    """A round of fedjaxlite; every call goes on from the state of the one before."""
    population = problem.population if population is None else population
    run = fl.rounds(
        problem.algorithm,
        sampler=problem.sampler,
        aggregator=fl.weighted_mean(),
        execution=fl.Execution(lanes=setting.lanes, devices=setting.devices),
    )
    state = run.init(problem.params, population, key=jax.random.key(1), noise_key=jax.random.key(2))

    def step() -> fl.PassInfo:
        nonlocal state
        state, info = run.step(state, population)
        jax.block_until_ready(state)
        return info

    return step


def plain(problem: Problem, setting: Setting) -> Callable[[], Any]:
    """The plain limit: one scan over all batches, on one device."""
    del setting  # there is nothing to choose
    features = {name: jax.device_put(array) for name, array in problem.population.features.items()}
    rows = jax.device_put(problem.rows)
    params, key = jax.device_put(problem.to_limit(problem.params)), jax.random.key(3)
    run = loops.one_scan(problem.plain_loss, problem.learning_rate)
    return lambda: run(params, features, rows, key)


def fastest(problem: Problem, setting: Setting) -> Callable[[], Any]:
    """The faster limit: the loss written for speed, models side by side, spread over devices."""
    rows = loops.chains(problem.rows, setting.devices, setting.lanes)
    place = loops.split_scan(problem.fast_loss, problem.learning_rate, jax.devices()[: setting.devices])
    return place(problem.to_limit(problem.params), dict(problem.population.features), rows, jax.random.key(3))


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
