"""An authority in a folder: it enrols clients with one-time tokens, names them 0, 1, 2, ..., and revokes them.

The folder is its owner's alone (0700, files 0600): the authority's key and certificate, `book.json` (the next id, and
each token by its hash), `clients/ID.pem`, and an empty file `revoked/ID` for each client that is let in no longer. A
token is told to one person by a way that is trusted, says whom its bearer may believe, and is worth one certificate.

Guarantees: a token is spent once, and ids are never given twice, whatever is killed when and however many processes
use the folder (on one machine, where files can be locked: not on Windows, where one process has to do it). The bearer
who asks again with the same key gets the same certificate: an answer may be lost.
"""

import hashlib
import hmac
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from fedjaxlite.transport import record
from fedjaxlite.transport.certificates import certificate, load_cryptography
from fedjaxlite.transport.credentials import (
    AUTHORITY_NAME,
    KEY_BYTES,
    SERVER_NAME,
    Credentials,
    private_of,
    private_pem,
)
from fedjaxlite.transport.enrolment import SECRET_BYTES, fingerprint, public_key_of, token_of, told
from fedjaxlite.transport.errors import EnrolmentRefused, TransportError
from fedjaxlite.transport.whole_file import write_whole


class Signed(NamedTuple):
    """A client that is enrolled: its id and its certificate (PEM)."""

    client: int
    certificate: bytes


def create(folder: str | Path, *, hours: float = 10 * 365 * 24.0, random: Callable[[int], bytes] = os.urandom) -> Path:
    """Makes an authority in a new folder.

    Args:
      folder: it must not exist, or be empty.
      hours: how long its certificate is good for.
      random: where its key comes from.

    Returns:
      The folder.

    Raises:
      TransportError: the folder holds something. ModuleNotFoundError: `cryptography` is not installed.

    Example:
      >>> import tempfile
      >>> from fedjaxlite.transport import enrolment
      >>> with tempfile.TemporaryDirectory() as place:
      ...     folder = create(Path(place) / "authority")
      ...     token = new_token(folder)
      ...     asked = enrolment.request()
      ...     first, again = sign(folder, token, asked.pem), sign(folder, token, asked.pem)
      >>> first.client, first == again
      (0, True)
    """
    load_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    folder = Path(folder)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise TransportError(f"`folder` {str(folder)!r} is not empty; expected a new one for the authority.")
    folder.chmod(0o700)
    for name in ("clients", "revoked"):
        (folder / name).mkdir(mode=0o700)
    key = Ed25519PrivateKey.from_private_bytes(random(KEY_BYTES))
    own = certificate(AUTHORITY_NAME, key.public_key(), key, issuer=AUTHORITY_NAME, hours=hours)
    write_whole(folder / "key.pem", private_pem(key.private_bytes_raw()))
    write_whole(folder / "certificate.pem", own)
    record.write(folder, record.EMPTY)  # last: who finds it finds the rest
    return folder


def open_at(folder: str | Path) -> Path:
    """The folder, once it is known to hold an authority that only its owner can read.

    Raises:
      TransportError: it holds none, or others can read its key.
    """
    folder = Path(folder)
    record.read(folder)
    key = folder / "key.pem"
    if os.name == "posix" and key.stat().st_mode & 0o077:
        raise TransportError(f"{str(key)!r} can be read by others: chmod 600 it, or make a new authority if they did.")
    private_of(key.read_bytes())
    return folder


def own_certificate(folder: str | Path) -> bytes:
    """The authority's certificate, PEM: what its clients and its server trust."""
    return (Path(folder) / "certificate.pem").read_bytes()


def server_credentials(
    folder: str | Path, *, hours: float = 365 * 24.0, random: Callable[[int], bytes] = os.urandom
) -> Credentials:
    """A new key and certificate for the server; nothing of them is kept, each start of a server asks anew."""
    load_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    folder = open_at(folder)
    key = Ed25519PrivateKey.from_private_bytes(random(KEY_BYTES))
    own = _signed(folder, SERVER_NAME, key.public_key(), hours, is_server=True)
    return Credentials(key.private_bytes_raw(), key.public_key().public_bytes_raw(), own, own_certificate(folder))


def new_token(
    folder: str | Path,
    *,
    hours: float = 72.0,
    now: float | None = None,
    random: Callable[[int], bytes] = os.urandom,
) -> str:
    """A token that enrols one client.

    Args:
      folder: the authority's.
      hours: until when it can be used.
      now: seconds since 1970; the clock's where left out.
      random: where its secret comes from.

    Returns:
      The token: a secret, of which the folder keeps SHA-256 alone, and the fingerprint of the authority's certificate.

    Raises:
      TransportError: the folder holds no authority. ValueError: `hours` is not positive.
    """
    if not hours > 0:
        raise ValueError(f"`hours` is {hours}; expected how long the token can be used, above 0.")
    folder, now = open_at(folder), time.time() if now is None else now
    secret = random(SECRET_BYTES)
    with record.alone(folder):
        book = record.read(folder)
        unspent = {name: t for name, t in book["tokens"].items() if "client" in t or t["until"] > now}
        tokens = unspent | {hashlib.sha256(secret).hexdigest(): {"until": now + 3600 * hours}}
        record.write(folder, book | {"tokens": tokens})
    return token_of(secret, fingerprint(own_certificate(folder)))


def sign(
    folder: str | Path,
    token: str,
    csr_pem: bytes,
    *,
    hours: float = 2 * 365 * 24.0,
    most: int | None = None,
    now: float | None = None,
) -> Signed:
    """Spends a token: the next id, and a certificate that names it.

    Args:
      folder: the authority's.
      token: from `new_token`.
      csr_pem: from `enrolment.request`.
      hours: how long the certificate is good for.
      most: how many clients there may be; None for any number.
      now: seconds since 1970; the clock's where left out.

    Returns:
      The client's id and certificate; the same ones for the same token and key.

    Raises:
      EnrolmentRefused: the token is unknown, too old or spent with another key, there are enough clients, or the
        request is none. Nothing is spent then.
      TransportError: the folder holds no authority.
    """
    folder, now = open_at(folder), time.time() if now is None else now
    secret, mark = told(token)
    if not hmac.compare_digest(mark, fingerprint(own_certificate(folder))):
        raise EnrolmentRefused("the token is another authority's.")
    public = public_key_of(csr_pem)
    name, key = hashlib.sha256(secret).hexdigest(), hashlib.sha256(public.public_bytes_raw()).hexdigest()
    with record.alone(folder):
        book = record.read(folder)
        entry = _usable(book["tokens"].get(name), key, now)
        if "client" in entry:
            return Signed(entry["client"], _path(folder, "clients", entry["client"]).read_bytes())
        client = book["next"]
        if most is not None and client >= most:
            raise EnrolmentRefused(f"all {most} places are taken.")
        own = _signed(folder, f"client-{client}", public, hours)
        # The certificate first: an id is taken, and the token spent, in the one moment in which the book is replaced.
        write_whole(_path(folder, "clients", client), own)
        spent = {name: entry | {"client": client, "key": key}}
        record.write(folder, book | {"next": client + 1, "tokens": book["tokens"] | spent})
    return Signed(client, own)


def revoke(folder: str | Path, client: int) -> None:
    """Lets a client in no longer, from now on and for good; a new token makes it a new client.

    Raises:
      TransportError: no client has that id.
    """
    folder = open_at(folder)
    if client not in clients(folder):
        raise TransportError(
            f"`client` is {client}; this authority has enrolled {len(clients(folder))} clients, from 0."
        )
    with record.alone(folder):
        write_whole(_path(folder, "revoked", client), b"")


def is_revoked(folder: str | Path, client: int) -> bool:
    """Whether a client is let in no longer: one look at the disk, cheap enough for every message."""
    return _path(Path(folder), "revoked", client).exists()


def clients(folder: str | Path) -> dict[int, bool]:
    """{id of every client that was enrolled: whether it is still let in}, in order."""
    folder = Path(folder)
    gone = {path.name for path in (folder / "revoked").iterdir()}
    return {u: str(u) not in gone for u in range(record.read(folder)["next"])}


def _usable(entry: dict[str, Any] | None, key: str, now: float) -> dict[str, Any]:
    """What the book says of a token, if a client with this key may use it."""
    if entry is None:
        raise EnrolmentRefused("the token is not known here; ask the server's owner for one.")
    if entry.get("key", key) != key:
        raise EnrolmentRefused("the token is spent; ask the server's owner for another.")
    if "client" not in entry and entry["until"] <= now:
        raise EnrolmentRefused("the token is too old; ask the server's owner for another.")
    return entry


def _signed(folder: Path, name: str, public: Any, hours: float, *, is_server: bool = False) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    signer = Ed25519PrivateKey.from_private_bytes(private_of((folder / "key.pem").read_bytes()))
    return certificate(name, public, signer, issuer=AUTHORITY_NAME, hours=hours, is_server=is_server)


def _path(folder: Path, room: str, client: int) -> Path:
    return folder / room / (f"{client}.pem" if room == "clients" else str(client))
