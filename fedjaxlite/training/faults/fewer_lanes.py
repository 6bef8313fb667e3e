"""A device that is out of memory: the same rounds, from the same state, with half as many lanes.

Lanes share the parameters that the server sent and have all else for themselves: half of them need about half of a
round's temporary memory. Numbers stay the same up to rounding, since lanes only decide who trains beside whom.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax

from fedjaxlite import processes
from fedjaxlite.data.population import Population
from fedjaxlite.execution import composition
from fedjaxlite.execution.cohort_pass import PassInfo
from fedjaxlite.execution.composition import Rounds
from fedjaxlite.execution.layout import Layout, resolve, spans_processes, with_lanes
from fedjaxlite.execution.round_state import RoundState
from fedjaxlite.training import run_config

LOG = logging.getLogger("fedjaxlite.training")
Result = TypeVar("Result")

_REMEDY = (
    "Take smaller batches, `micro_batch_size` or `remat=True` in the local steps, a smaller cohort where messages are "
    "kept side by side, Execution(client_states=...) for states that need not be on the device, or a device with more "
    "memory; fl.plan(...) tells what a round takes"
)


def that_fit(
    rounds: Rounds, state: RoundState, population: Population, do: Callable[[Rounds], Result]
) -> tuple[Rounds, Result]:
    """Does something with rounds; where the device is out of memory, again with half as many lanes, down to one.

    Args:
      rounds: the composed run.
      state: what `do` begins with; it must be left as it is.
      population: what it trains on.
      do: `do(rounds)`, which waits for its results: memory may run out after a call has returned.

    Returns:
      the rounds that fit, which are `rounds` where these did, and what `do` returned.

    Raises:
      RuntimeError: one lane does not fit either; or the program has taken over the memory of the state (`donate`); or
        several processes run it, of which the others cannot know. The text says what to do.
    """
    while True:
        try:
            return rounds, do(rounds)
        except jax.errors.JaxRuntimeError as error:
            if not out_of_memory(error):
                raise
            failed = error.with_traceback(None)  # which holds the arrays of the frames
        rounds = _half(rounds, state, population, failed)


def halving(rounds: Rounds, population: Population) -> tuple[Rounds, Callable[[], Rounds]]:
    """Rounds for data that stream, whose `step` halves the lanes itself: a cohort is not fetched twice.

    A step is not waited for, so that the next cohort is fetched meanwhile: memory that runs out after it has begun ends
    the run, as `dispatched` says.

    Args:
      rounds: the composed run.
      population: what it trains on.

    Returns:
      the rounds, and `now()`, those that fit.
    """
    held = [rounds]

    def step(state: RoundState, data: Any) -> tuple[RoundState, PassInfo]:
        held[0], result = that_fit(held[0], state, population, lambda fitting: fitting.step(state, data))
        return result

    return rounds._replace(step=step), lambda: held[0]


def dispatched(
    rounds: Rounds,
    state: RoundState,
    population: Population,
    num_rounds: int,
    *,
    stepwise: bool,
    stream: Callable[[RoundState, int], tuple[RoundState, PassInfo]] | None,
    now: Callable[[], Rounds],
) -> tuple[Rounds, tuple[RoundState, PassInfo]]:
    """The rounds of a dispatch, waited for, with as many lanes as fit.

    Args:
      rounds: what is to run.
      state: where they begin.
      population: what they train on.
      num_rounds: how many.
      stepwise: by `step`, of which a dispatch has one.
      stream: what runs them where data or client states stream, by the rounds of `halving`; else None.
      now: what `halving` returned with them.

    Returns:
      the rounds that fit, and what they returned.
    """
    if stream is None:
        return that_fit(
            *(rounds, state, population),
            lambda fitting: jax.block_until_ready(
                fitting.step(state, population) if stepwise else fitting.steps(state, population, num_rounds)
            ),
        )
    try:
        result = jax.block_until_ready(stream(state, num_rounds))
    except jax.errors.JaxRuntimeError as error:
        if not out_of_memory(error):
            raise
        half = max(1, layout_of(now(), state, population).lanes // 2)
        raise RuntimeError(
            f"the device ran out of memory while data streamed ({_first_line(error)}), after the round had begun. Go "
            f"on from the last checkpoint with Execution(lanes={half}) and resume=True (--lanes {half} --resume)."
        ) from error
    return now(), result


def note(folder: Path | None, lanes: int | None, number: int) -> None:
    """Says in a run's config.toml from which round on it has fewer lanes; the first process for all."""
    if folder is None or not processes.is_first():
        return
    try:
        run_config.note(folder, "fewer_lanes", {"from_round": number, "lanes": lanes})
    except OSError as error:  # it stands in the records and in the checkpoint as well
        LOG.warning("config.toml could not be written to: %s", error.strerror or error)


def out_of_memory(error: BaseException) -> bool:
    """Whether a device, or its compiler, said that memory does not suffice."""
    return isinstance(error, jax.errors.JaxRuntimeError) and str(error).startswith("RESOURCE_EXHAUSTED")


def layout_of(rounds: Rounds, state: RoundState, population: Population) -> Layout:
    """The layout of rounds, with the lanes that they have where their number was left open."""
    capacity = rounds.sampler.capacity
    return with_lanes(resolve(rounds.execution, capacity), rounds.params(state), population, capacity)


def recomposed(rounds: Rounds, lanes: int) -> Rounds:
    """The same rounds with another number of lanes.

    Raises:
      TypeError: a function of the rounds was replaced by hand, which a new composition would lose.
    """
    own = (rounds.step, rounds.steps)
    if any(getattr(function, "__module__", None) != composition.__name__ for function in own):
        raise TypeError(
            "`step` or `steps` of these rounds was replaced by hand, and would be lost with another number of lanes."
        )
    execution = rounds.execution._replace(lanes=lanes)
    return composition.rounds(
        rounds.algorithm, sampler=rounds.sampler, aggregator=rounds.aggregator, execution=execution
    )


def _half(rounds: Rounds, state: RoundState, population: Population, error: Exception) -> Rounds:
    """The rounds with half as many lanes, or the error that says why not."""
    layout = layout_of(rounds, state, population)
    half, told = layout.lanes // 2, _first_line(error)
    number = f"{layout.lanes} lanes" if half else "a single lane"
    begin = f"the device is out of memory with {number} ({told})"
    if not half:
        raise RuntimeError(f"{begin}. {_REMEDY}.") from error
    if any(leaf.is_deleted() for leaf in jax.tree.leaves(state)):
        raise RuntimeError(
            f"{begin}, and the program had taken over the state's memory, as Execution(donate=True) asks. Go on from "
            f"the last checkpoint with Execution(lanes={half}) and resume=True (--lanes {half} --resume)."
        ) from error
    if spans_processes(layout):
        raise RuntimeError(
            f"{begin}, in one process of several, which all have to run the same program. Start them again with "
            f"Execution(lanes={half}) and resume=True (--lanes {half} --resume)."
        ) from error
    fewer = recomposed(rounds, half)
    LOG.warning("%s; the run goes on with %d, and the same numbers up to rounding", begin, half)
    return fewer


def _first_line(error: Any) -> str:
    return str(error).strip().splitlines()[0].removeprefix("RESOURCE_EXHAUSTED:").strip().rstrip(".")
