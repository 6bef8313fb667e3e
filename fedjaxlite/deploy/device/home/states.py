"""A client's state on its disk, and the update that left with a new one and is not yet known to be in a sum.

    state/committed   the state after the last update that the server has counted
    state/pending     the state that goes with an update that was sent; `message` beside it is that update
    state/dropped     the last one that did not count, in case the same work is asked for again
    state/progress    the last work that was begun

The server says whether an update counted, and only then is the state that came with it the client's: so a client's
state changes exactly when its update is in the sum. Settling is one rename.
"""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from fedjaxlite.deploy.device.home.folder import Home, HomeDamaged
from fedjaxlite.transport.whole_file import to_disk, write_whole

_LONGEST_HEADER = 4096


class Progress(NamedTuple):
    """The last work that a client began.

    Attributes:
      program: sha256 of the program that it ran, hex.
      round: the round's number, -1 before the first.
      attempt: which try of the round.
      done: whether the server has settled it: nothing may be asked under the same numbers again.
    """

    program: str = ""
    round: int = -1
    attempt: int = -1
    done: bool = False


class Kept(NamedTuple):
    """A client's state, and the work that it came out of.

    Attributes:
      program: sha256 of the program, hex.
      round: the round's number.
      attempt: which try of the round.
      work: what it was computed from, a sha256 of model and key, hex: equal work is not done, and noised, twice.
      message: sha256 of the update, hex; "" where it is not kept (masked rounds: it leaves in a sum only).
      num_examples: how many examples it was told to be of.
      state: bytes of the state's leaves, in the manifest's order.
    """

    program: str
    round: int
    attempt: int
    work: str
    message: str
    num_examples: int
    state: bytes


def committed(home: Home) -> Kept | None:
    """The state after the last update that counted; None before the first.

    Raises:
      HomeDamaged: the file is damaged.
    """
    return _read(_at(home, "committed"))


def pending(home: Home) -> Kept | None:
    """What was sent, or is about to be, and not settled yet; None where nothing is.

    Raises:
      HomeDamaged: the file is damaged.
    """
    return _read(_at(home, "pending"))


def dropped(home: Home) -> Kept | None:
    """What was sent last and did not count; None where that is not known any longer.

    Raises:
      HomeDamaged: the file is damaged.
    """
    return _read(_at(home, "dropped"))


def message_of(home: Home, kept: Kept) -> bytes | None:
    """The update that belongs to a state, byte for byte as it was first sent; None where it is not kept."""
    try:
        message = _at(home, "message").read_bytes()
    except FileNotFoundError:
        return None
    return message if kept.message and hashlib.sha256(message).hexdigest() == kept.message else None


def keep(home: Home, kept: Kept, message: bytes | None) -> None:
    """Writes what is about to be sent; it takes the place of an older one, which then never counts.

    Args:
      home: the device.
      kept: the state that goes with the update.
      message: the update, for sending it again after a restart; None where it may not lie on a disk.

    Guarantees:
      A pending state never stands beside another one's update: `message_of` compares hashes.
    """
    if message is None:
        _at(home, "message").unlink(missing_ok=True)
    else:
        write_whole(_at(home, "message"), message)
    header = {name: value for name, value in kept._asdict().items() if name != "state"}
    header["sha256"] = hashlib.sha256(kept.state).hexdigest()
    write_whole(_at(home, "pending"), json.dumps(header).encode() + b"\n" + kept.state)


def settle(home: Home, round_number: int, counted: bool) -> Kept | None:
    """Takes the pending state over where its update counted, and lays it aside where it did not.

    Args:
      home: the device.
      round_number: of which round the server spoke; of any other than the pending one nothing is done.
      counted: whether the update is in the round's sum.

    Returns:
      What was pending and no longer is; None where nothing was done.

    Guarantees:
      One rename: a kill leaves the old state with its pending one, or the new state.
    """
    kept = pending(home)
    if kept is None or kept.round != round_number:
        return None
    _tell(home, Progress(kept.program, kept.round, kept.attempt, done=True))
    _at(home, "pending").replace(_at(home, "committed" if counted else "dropped"))
    to_disk(_at(home, "pending").parent)
    if counted:
        _at(home, "message").unlink(missing_ok=True)
    return kept


def progress(home: Home) -> Progress:
    """The last work that was begun.

    Raises:
      HomeDamaged: the file is damaged.
    """
    try:
        told = json.loads(_at(home, "progress").read_bytes())
        return Progress(str(told["program"]), int(told["round"]), int(told["attempt"]), bool(told["done"]))
    except FileNotFoundError:
        return Progress()
    except (ValueError, KeyError, TypeError) as error:
        raise HomeDamaged(f"{str(_at(home, 'progress'))!r} is damaged ({error}); remove it to go on.") from error


def begin(home: Home, program: str, round_number: int, attempt: int) -> None:
    """Writes down that a work was begun, before it is."""
    _tell(home, Progress(program, round_number, attempt))


def _tell(home: Home, told: Progress) -> None:
    write_whole(_at(home, "progress"), json.dumps(told._asdict()).encode())


def _at(home: Home, name: str) -> Path:
    return home.folder / "state" / name


def _read(path: Path) -> Kept | None:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        end = content.index(b"\n", 0, _LONGEST_HEADER)
        header, state = json.loads(content[:end]), content[end + 1 :]
        if header.pop("sha256") != hashlib.sha256(state).hexdigest():
            raise ValueError("its hash is another one")
        kept = Kept(**header, state=state)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HomeDamaged(
            f"{str(path)!r} is damaged ({error}). Remove it to go on without: the client then starts from the state "
            "before it."
        ) from error
    return kept
