"""A run's rounds, one cohort after the other: data and states of the next ones are fetched while this one trains."""

import contextlib
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjaxlite.data.population import Population
from fedjaxlite.execution.cohort_pass import PassInfo
from fedjaxlite.execution.composition import Rounds
from fedjaxlite.execution.layout import Layout, resolve
from fedjaxlite.execution.prepared.checking import streams as streams
from fedjaxlite.execution.prepared.checking import whole_of
from fedjaxlite.execution.prepared.placing import is_here
from fedjaxlite.execution.round_state import RoundState
from fedjaxlite.streaming.background import Background, Later, background
from fedjaxlite.streaming.client_store import ClientStore
from fedjaxlite.streaming.drawing import drawer
from fedjaxlite.streaming.loading import Loaded, loader
from fedjaxlite.streaming.states import States, states_of

PyTree = Any

_One = Callable[[RoundState], tuple[RoundState, PassInfo]]

_AHEAD = 2
"""Cohorts whose data are gathered, or lie on the devices, beside the one that trains."""


class Stream(NamedTuple):
    """The rounds of a run that streams; see `opened`.

    Attributes:
      run: `run(state, num_rounds) -> (state, infos)`, as `rounds.steps`, for the state that the last call returned.
      settle: `settle()`, waits until the client states of all rounds that are done are written, and raises what
        went wrong beside the rounds.
    """

    run: Callable[[RoundState, int], tuple[RoundState, PassInfo]]
    settle: Callable[[], None]


@contextlib.contextmanager
def opened(
    rounds: Rounds, population: Population, state: RoundState, num_rounds: int, store: ClientStore | None = None
) -> Generator[Stream]:
    """Streams the rounds of a run, for the time of a `with`.

    Args:
      rounds: the composed run.
      population: in host memory or on disk.
      state: where it begins.
      num_rounds: the round at which it ends at the latest.
      store: where the clients' states are kept, a ClientStore after the rounds that `state` has done; None where
        devices keep them, or clients keep nothing.

    Yields:
      a Stream. Its threads end with the `with`.
    """
    layout, done = resolve(rounds.execution, rounds.sampler.capacity), int(_here(state.round))
    with background("fedjaxlite-data") as data, background("fedjaxlite-states") as kept:
        cohorts = _cohorts(rounds, population, state, range(done, num_rounds), layout, data)
        if store is None:
            one, write_back = _one_without_states(rounds, cohorts), lambda: None
        else:
            states = states_of(store, state.clients, layout, kept)
            one, write_back = _one_with_states(rounds, cohorts, states, kept, done)

        def run(state: RoundState, num: int) -> tuple[RoundState, PassInfo]:
            infos: list[PassInfo] = []
            for _ in range(num):
                state, info = one(state)
                infos.append(info)
                if len(infos) > 1:  # one round runs and one waits for it: more would pile up cohorts on the devices
                    jax.block_until_ready(infos[-2])
            return state, infos[0] if num == 1 else _stacked(infos)

        def settle() -> None:
            write_back()
            kept.drain()

        yield Stream(run, settle)
        settle()


class _Cohorts(NamedTuple):
    """The cohorts of the next rounds.

    Attributes:
      take: `take() -> Loaded`, that of the next round; begins to load another one.
      after: `after() -> Later | None`, what is being loaded for the round after the one that was taken last.
    """

    take: Callable[[], Loaded]
    after: Callable[[], Later | None]


def _cohorts(
    rounds: Rounds, population: Population, state: RoundState, numbers: range, layout: Layout, thread: Background
) -> _Cohorts:
    sampler, sampling = rounds.sampler, state.keys.sample
    key = jax.random.wrap_key_data(_here(jax.random.key_data(sampling)), impl=str(jax.random.key_impl(sampling)))
    draw = drawer(sampler, population, key, next(filter(is_here, layout.devices)))
    load = loader(population, sampler.capacity, whole_of(sampler, population), layout)
    to_come, loading = iter(numbers), deque[Later]()

    def look_ahead() -> None:
        while len(loading) < _AHEAD and (number := next(to_come, None)) is not None:
            loading.append(thread.begin(f"the data of round {number + 1} were gathered", load, draw(number)))

    def take() -> Loaded:
        look_ahead()
        loaded = loading.popleft().found()
        look_ahead()  # before the round is dispatched: what a device is given later, it does later
        return loaded

    look_ahead()
    return _Cohorts(take, lambda: loading[0] if loading else None)


def _one_without_states(rounds: Rounds, cohorts: _Cohorts) -> _One:
    return lambda state: rounds.step(state, cohorts.take().prepared)


def _one_with_states(
    rounds: Rounds, cohorts: _Cohorts, states: States, thread: Background, done: int
) -> tuple[_One, Callable[[], None]]:
    """`one(state)`, a round, and `write_back()`, which begins to write what the last one trained.

    A round is written once the caller has come back with its state: so no client's state is ever ahead of it.
    """
    fetched: Later | None = None
    before: Loaded | None = None
    unwritten: PyTree = None

    def write_back() -> None:
        nonlocal unwritten
        if before is not None and unwritten is not None:
            states.write(done, before, unwritten)
            unwritten = None

    def one(state: RoundState) -> tuple[RoundState, PassInfo]:
        nonlocal done, before, unwritten, fetched
        thread.look()
        write_back()
        loaded = cohorts.take()
        fetched = fetched or states.fetch(_at_once(loaded))
        clients = states.joined(fetched.found(), loaded, before, state.clients)
        state, info = rounds.step(state, loaded.prepared._replace(clients=clients))
        done, before, unwritten, after = done + 1, loaded, state.clients, cohorts.after()
        fetched = states.fetch(after) if after is not None else None
        return state, info

    return one, write_back


def _at_once(loaded: Loaded) -> Later:
    future: Future[Loaded] = Future()
    future.set_result(loaded)
    return Later(future)


def _stacked(infos: list[PassInfo]) -> PassInfo:
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(_here(leaf)) for leaf in leaves]), *infos)


def _here(leaf: Any) -> Any:
    return leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf
