"""What a store of client states does, wherever its rows are."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedjaxlite import checks
from fedjaxlite.storage import patiently
from fedjaxlite.streaming.client_store import files, in_folder, in_memory, journal, writing
from fedjaxlite.streaming.client_store.rows import Form, first_row, form_of, identity, packed, unpacked

PyTree = Any


class ClientStore(NamedTuple):
    """The states of all clients of a run, outside of its devices; see `open_at`.

    Attributes:
      read: `read(ids) -> states`, int64 `[n]` to arrays `[n, ...]` that are the caller's own. Random keys come as their
        data; `as_keys` makes keys of them.
      write: `write(round, ids, states)`, after `round` rounds are done: what was there goes to the journal first. Every
        client at most once. It may be tried again after an error.
      mark: `mark(round)`, waits until all that was written is on the disk; a checkpoint of this round may follow.
      forget: `forget(round)`, what is needed only to go back behind this round, that of the oldest checkpoint kept.
      rewind: `rewind(round)`, back to the end of that round, whatever a crash left. In a run of several processes the
        first rewinds for all, while the others wait.
      save: `save(round, folder)`, what a checkpoint of this round needs, into a folder of it: in host memory all rows
        that were ever written, in a folder a mark.
      load: `load(round, folder)`, likewise back.
      round: `round() -> int`, the rounds after which the states are.
      is_at: `is_at(round) -> bool`, whether they are those of this round; not where a killed run left them within one.
      close: `close()`, lets others open the folder.
      where: "host", or the folder.
      told: what a checkpoint says of the store, as JSON can hold it.
      row_bytes: of one client's state.
    """

    read: Callable[[Any], PyTree]
    write: Callable[[int, Any, PyTree], None]
    mark: Callable[[int], None]
    forget: Callable[[int], None]
    rewind: Callable[[int], None]
    save: Callable[[int, Path], None]
    load: Callable[[int, Path], None]
    round: Callable[[], int]
    is_at: Callable[[int], bool]
    close: Callable[[], None]
    where: str
    told: Mapping[str, Any]
    row_bytes: int


class _Of(NamedTuple):
    """What all stores know.

    Attributes:
      form: of a row.
      first: the row of a client that was never written.
      num_clients: N.
      own: the first client that this process writes, and the one behind the last.
      process: its number.
    """

    form: Form
    first: np.ndarray
    num_clients: int
    own: tuple[int, int]
    process: int


def open_at(
    where: str, one: PyTree, num_clients: int, *, own: tuple[int, int] | None = None, process: int = 0, begin: int = 0
) -> ClientStore:
    """Opens the client states of a run, or begins them.

    Args:
      where: "host", or a folder, which is made where it is missing. Only one run can have it open.
      one: the first state of any client.
      num_clients: N.
      own: the clients that this process writes, `(first, stop)`; None for all. In host memory it keeps no others.
      process: its number among those of the run; only the first (0) locks and rewinds a folder.
      begin: the rounds after which the states of a folder that is new are.

    Returns:
      a ClientStore. A row that was never written is `one`, and takes no room.

    Raises:
      ValueError: the folder holds other clients' states, or something else.
      RuntimeError: another run has it open.
      OSError: it cannot be made; later, a disk that is full or fails.
      MemoryError: there is no such room in host memory.

    Guarantees:
      In a folder, whatever ends the process or the machine at any moment, `rewind` to a round that was marked gives the
      bits of the end of that round, as long as it was not forgotten. A row that the disk changed is refused when it is
      read.
    """
    form = form_of(one)
    num_clients = checks.positive_int(num_clients=num_clients)
    of = _Of(form, first_row(form, one), num_clients, own or (0, num_clients), process)
    if where == "host":
        return _host_store(of, begin)
    if not files.HERE:
        raise ValueError("client states in a folder need a system that reads at a place of a file (os.preadv).")
    return _folder_store(of, Path(where).expanduser().resolve(), begin)


def _host_store(of: _Of, begin: int) -> ClientStore:
    memory = in_memory.opened(of.own, of.form.size)
    live = {"round": begin}

    def read(ids: Any) -> PyTree:
        return unpacked(of.form, in_memory.read(memory, _ids(ids, of.own), of.first))

    def write(number: int, ids: Any, states: PyTree) -> None:
        ids, rows = _to_write(of, ids, states)
        if number < live["round"]:
            raise ValueError(f"the states of round {number} come after those of round {live['round']}.")
        in_memory.write(memory, ids, rows)
        live["round"] = number

    def load(number: int, folder: Path) -> None:
        in_memory.load(memory, folder)
        live["round"] = number

    def rewind(number: int) -> None:
        if number == live["round"]:
            return
        if number:
            raise ValueError(f"client states in host memory go back to a checkpoint alone, not to round {number}.")
        memory.written[:] = False
        live["round"] = 0

    def mark(number: int) -> None:
        live["round"] = max(live["round"], number)

    return ClientStore(
        read=read,
        write=write,
        mark=mark,
        forget=lambda number: None,
        rewind=rewind,
        save=lambda number, folder: in_memory.save(memory, folder, of.process),
        load=load,
        round=lambda: live["round"],
        is_at=lambda number: live["round"] == number,
        close=lambda: None,
        where="host",
        told={"kept": "host", **identity(of.form, of.first, of.num_clients)},
        row_bytes=of.form.size,
    )


def _folder_store(of: _Of, path: Path, begin: int) -> ClientStore:
    who = identity(of.form, of.first, of.num_clients)
    with contextlib.ExitStack() as opening:
        if of.process == 0:
            in_folder.prepare(path, who, of.first, opening)
        folder = in_folder.opened(path, of.form.size, of.num_clients)
        opening.callback(in_folder.closed, folder)
        now = writing.standing(folder, of.process, begin)
        opening.callback(writing.close, now)
        held = opening.pop_all()

    def write(number: int, ids: Any, states: PyTree) -> None:
        ids, rows = _to_write(of, ids, states)
        order = np.argsort(ids)
        ids, rows = ids[order], rows[order]
        what = f"the client states of round {number} could not be written to {str(path)!r}"
        patiently(lambda: writing.write(now, number, ids, rows), what)

    return ClientStore(
        read=lambda ids: unpacked(of.form, in_folder.read(folder, _ids(ids, (0, of.num_clients)), of.first)),
        write=write,
        mark=lambda number: writing.mark(now, number),
        forget=lambda number: journal.forget(path / "journal", number) if of.process == 0 else None,
        rewind=lambda number: writing.rewind(now, number),
        save=lambda number, place: writing.mark(now, number),
        load=lambda number, place: writing.rewind(now, number),
        round=lambda: writing.round_of(now),
        is_at=lambda number: now.round == number,
        close=held.close,
        where=str(path),
        told={"kept": "folder", "name": folder.name, **who},
        row_bytes=of.form.size,
    )


def _ids(ids: Any, allowed: tuple[int, int]) -> np.ndarray:
    """Clients' ids as int64 `[n]`; refuses those of clients that are not there."""
    found = np.asarray(ids)
    if found.ndim != 1 or not (np.issubdtype(found.dtype, np.integer) or not found.size):
        raise TypeError(f"`ids` is {found.dtype}{list(found.shape)}; expected clients' ids, ints [n].")
    found = found.astype(np.int64)
    if found.size and not allowed[0] <= found.min() <= found.max() < allowed[1]:
        wrong = found[(found < allowed[0]) | (found >= allowed[1])][0]
        raise IndexError(f"client {wrong} is out of range; expected {allowed[0]} to {allowed[1] - 1}.")
    return found


def _to_write(of: _Of, ids: Any, states: PyTree) -> tuple[np.ndarray, np.ndarray]:
    """Ids and rows of a write, checked."""
    ids, rows = _ids(ids, of.own), packed(of.form, states)
    if len(ids) != len(rows):
        raise ValueError(f"{len(rows)} states are to be written for {len(ids)} clients; expected one for each.")
    if len(np.unique(ids)) != len(ids):
        raise ValueError("a client is to be written twice in one round; expected every client at most once.")
    return ids, rows
