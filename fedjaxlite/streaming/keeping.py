"""Where the client states of a run are kept, opened for the time of the run; and how one reads them afterwards."""

import contextlib
import os
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import jax

from fedjaxlite import processes
from fedjaxlite.data.population import Population
from fedjaxlite.execution.composition import Rounds
from fedjaxlite.execution.layout import resolve
from fedjaxlite.execution.prepared.placing import own_pieces
from fedjaxlite.execution.round_state import Elsewhere, RoundState
from fedjaxlite.streaming import client_store
from fedjaxlite.streaming.client_store import ClientStore

PyTree = Any


class Kept(NamedTuple):
    """The client states of a run that goes on.

    Attributes:
      store: where they are.
      elsewhere: for the states of the run, so that whoever holds one finds them.
      follow: `follow(settle)`, what has to be called before they are read while the run goes on.
    """

    store: ClientStore
    elsewhere: Elsewhere
    follow: Callable[[Callable[[], None]], None]


class _Reopened(NamedTuple):
    """What a later run goes on with.

    Attributes:
      one: the first state of any client.
      store: of host memory; None for a folder, which is opened again.
    """

    one: PyTree
    store: ClientStore | None


@contextlib.contextmanager
def kept_states(
    rounds: Rounds, state: RoundState, population: Population, *, resume: bool = False
) -> Generator[Kept | None]:
    """Opens the place of a run's client states, where it is not the devices.

    Args:
      rounds: the composed run.
      state: where the run begins: of `rounds.init`, or one that `fl.train` returned.
      population: what it trains on.
      resume: whether a checkpoint says where they go on; then they may be after any round.

    Yields:
      a Kept; None where the devices keep the states, or clients keep none.

    Raises:
      ValueError: the states of the clients are not those of `state`. FileExistsError: the folder holds those of another
        run. RuntimeError: another run has it open.
    """
    where = os.fspath(rounds.execution.client_states)
    if where == "device" or not jax.tree.leaves(state.clients):
        yield None
        return
    done, before = int(state.round.addressable_data(0)), state.elsewhere
    reopen: _Reopened | None = before.reopen if before is not None else None
    if done and reopen is None and not resume:
        raise ValueError(
            f"`state` has done {done} rounds and does not say where its clients' states are (client_states={where!r}). "
            "Give a state of rounds.init, one that fl.train returned, or resume=True with the run's out_dir."
        )
    one = client_store.first_of(state.clients) if reopen is None else reopen.one
    store = reopen.store if reopen is not None and done else None
    if store is None or store.where != where:
        store = _opened(rounds, where, one, population.num_clients)
    live: dict[str, Any] = {"settle": lambda: None, "open": True}
    try:
        if not resume:
            _check_round(store, done)
        yield Kept(
            store, _elsewhere(store, one, population.num_clients, live), lambda settle: live.update(settle=settle)
        )
    finally:
        live.update(settle=lambda: None, open=False)
        store.close()


def knowing(state: RoundState, states: Kept | None) -> RoundState:
    """The state of a run, which says where its clients' states are."""
    return state if states is None else state._replace(elsewhere=states.elsewhere)


def _opened(rounds: Rounds, where: str, one: PyTree, num_clients: int) -> ClientStore:
    layout = resolve(rounds.execution, rounds.sampler.capacity)
    share, mine = -(-num_clients // layout.num_devices), own_pieces(layout)
    first = min(min(mine) * share, num_clients)
    own = (first, max(first, min((max(mine) + 1) * share, num_clients)))
    made: list[ClientStore] = []
    # The first makes the folder; the others find it.
    if processes.count() > 1:
        processes.by_first(lambda: made.append(client_store.open_at(where, one, num_clients, own=own)))
    return made[0] if made else client_store.open_at(where, one, num_clients, own=own, process=processes.index())


def _check_round(store: ClientStore, done: int) -> None:
    at = store.round()
    if at == done:
        return
    if done == 0:
        raise FileExistsError(
            f"`client_states` is {store.where!r}, which holds the states of a run after round {at}. Go on with it by "
            "resume=True (--resume on the command line) and its out_dir, or give another folder."
        )
    raise ValueError(
        f"`state` is that of round {done}, and its clients' states in {store.where!r} are those of round {at}: they "
        "have gone on since. Give the newest state."
    )


def _elsewhere(store: ClientStore, one: PyTree, num_clients: int, live: dict[str, Any]) -> Elsewhere:
    """Reads states while a run goes on and afterwards."""

    def read(number: int, ids: Any) -> PyTree:
        if processes.count() > 1 and (live["open"] or store.where == "host"):
            raise ValueError(
                "of several processes none knows what the others' clients keep while the run goes on: look at clients "
                f"afterwards, and keep their states in a folder (client_states={store.where!r} here)."
            )
        live["settle"]()
        if live["open"] or store.where == "host":
            return _read(store, number, ids)
        if not client_store.is_there(store.where):
            raise ValueError(f"the clients' states of round {number} were in {store.where!r}, which is gone.")
        again = client_store.open_at(store.where, one, num_clients, begin=number, process=processes.index())
        try:
            return _read(again, number, ids)
        finally:
            again.close()

    return Elsewhere(read, store.where, _Reopened(one, store if store.where == "host" else None))


def _read(store: ClientStore, number: int, ids: Any) -> PyTree:
    if store.round() != number:
        raise ValueError(
            f"the state is that of round {number}, and its clients' states in {store.where!r} are those of round "
            f"{store.round()}: they have gone on since. Take the newest state."
        )
    return store.read(ids)
