"""The folder of a device: who it is, whom it trusts, and which program it has agreed to run.

key.pem  certificate.pem  authority.pem  known.json   who the device, the server and (signed sums) the others are
device.json                                           its number, the server's address, the pinned program
policy.toml                                           what its owner allows
state/  programs/  models/  log.jsonl                 see `states`, and `ledger`
"""

import contextlib
import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple

from fedjaxlite.transport.credentials import Credentials, keep
from fedjaxlite.transport.whole_file import write_whole

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None

FORMAT = "fedjaxlite device 1"
KNOWN, POLICY, LOG = "known.json", "policy.toml", "log.jsonl"
ABOUT, _LOCK = "device.json", "lock"
_HEX = frozenset("0123456789abcdef")


class HomeDamaged(ValueError):
    """A file of a device's folder is missing, or holds something else than it should."""


class Home(NamedTuple):
    """A device, as its folder tells.

    Attributes:
      folder: where it keeps everything.
      client: its number, as in its certificate.
      server: "HOST:PORT" of the server at which it enrolled.
      program: sha256 of the program that it has agreed to run, hex; "" until the first one comes.
    """

    folder: Path
    client: int
    server: str
    program: str = ""


def write(
    folder: str | os.PathLike[str],
    *,
    client: int,
    server: str,
    program: str = "",
    credentials: Credentials,
) -> Home:
    """Makes a device's folder, which nobody but its owner can read.

    Args:
      folder: where; it may exist, but holds no device yet.
      client: the device's number, as in its certificate.
      server: "HOST:PORT".
      program: sha256 of the program to agree to, hex; "" pins the first one that comes.
      credentials: its key and certificate, and the authority that names the server.

    Returns:
      `Home`.

    Raises:
      FileExistsError: a device lives there already.
      ValueError: `program` is no sha256.

    Guarantees:
      What a kill in the middle leaves is no device: `device.json` comes last.
    """
    home = Home(Path(folder), client, server, checked_hash(program, "program", empty=True))
    if (home.folder / ABOUT).exists():
        raise FileExistsError(f"{str(home.folder)!r} is a device's folder already; give another one, or remove it.")
    home.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    home.folder.chmod(0o700)
    for name in ("state", "programs", "models"):
        (home.folder / name).mkdir(mode=0o700, exist_ok=True)
    keep(home.folder, credentials)
    _tell(home)
    return home


def read(folder: str | os.PathLike[str]) -> Home:
    """The device that lives in a folder.

    Raises:
      HomeDamaged: none does, or its files are not what `write` wrote.
    """
    path = Path(folder) / ABOUT
    try:
        about = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise HomeDamaged(
            f"{str(folder)!r} is no device's folder: it has no {ABOUT}. Make one with `enroll`, which takes a token."
        ) from None
    except ValueError as error:
        raise HomeDamaged(f"{str(path)!r} is damaged ({error}); enroll anew into another folder.") from error
    expected: dict[str, type[Any]] = {"format": str, "client": int, "server": str, "program": str}
    if not isinstance(about, dict) or {name: type(value) for name, value in about.items()} != expected:
        raise HomeDamaged(f"{str(path)!r} holds other fields than {', '.join(expected)}; enroll anew.")
    if about["format"] != FORMAT:
        raise HomeDamaged(f"{str(path)!r} is of the format {about['format']!r}; this program reads {FORMAT!r}.")
    return Home(Path(folder), about["client"], about["server"], checked_hash(about["program"], "program", empty=True))


def pin(home: Home, program: str) -> Home:
    """Agrees to run a program from now on.

    Args:
      home: the device.
      program: sha256, hex.

    Returns:
      The device, with that program pinned on its disk.
    """
    changed = home._replace(program=checked_hash(program, "program"))
    if changed != home:
        _tell(changed)
    return changed


def _tell(home: Home) -> None:
    about = {"format": FORMAT, "client": home.client, "server": home.server, "program": home.program}
    write_whole(home.folder / ABOUT, json.dumps(about, indent=1).encode())


def checked_hash(value: Any, name: str, *, empty: bool = False) -> str:
    """A sha256 in hex; it becomes a file's name, so nothing else may pass."""
    if isinstance(value, str) and ((empty and not value) or (len(value) == 64 and set(value) <= _HEX)):
        return value
    raise ValueError(f"`{name}` is {str(value)[:80]!r}; expected a sha256, 64 digits of lower-case hex.")


@contextlib.contextmanager
def locked(home: Home) -> Generator[None]:
    """Holds the folder for this process: two that train from one would tell the server two stories.

    Raises:
      RuntimeError: another process holds it.
    """
    with (home.folder / _LOCK).open("a") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RuntimeError(
                    f"{str(home.folder)!r} is in use by another process of this device; end that one, or wait for it."
                ) from None
        yield
