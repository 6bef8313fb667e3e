"""What a party holds: its key, its certificate and whom it trusts; and the TLS settings that follow from it.

An Ed25519 key is a party's identity: its certificate is for it, and where a protocol has signatures, it signs.
"""

import base64
import os
import re
import ssl
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fedjaxlite.transport.certificates import certificate, load_cryptography
from fedjaxlite.transport.errors import TransportError, UnknownPeer

KEY_BYTES = 32
# The names that clients expect in the server's certificate and in its authority's, unless a protocol has its own.
SERVER_NAME, AUTHORITY_NAME = "fedjaxlite-server", "fedjaxlite-authority"
_CLIENT_NAME = re.compile(r"client-(0|[1-9][0-9]{0,9})")
# An Ed25519 key in DER is always these bytes and the key's own 32, so that reading one needs no library.
_PRIVATE_DER = bytes.fromhex("302e020100300506032b657004220420")
_PUBLIC_DER = bytes.fromhex("302a300506032b6570032100")
_FILES = ("key.pem", "certificate.pem", "authority.pem")


class Credentials(NamedTuple):
    """What one party holds; the private key is its own.

    Attributes:
      private: Ed25519 private key, 32 bytes.
      public: Ed25519 public key, 32 bytes.
      certificate: its certificate, PEM.
      authority: the authority's certificate, PEM: whom it trusts.
    """

    private: bytes
    public: bytes
    certificate: bytes
    authority: bytes

    def __repr__(self) -> str:
        return f"Credentials(public={self.public.hex()[:8]}..., private=...)"


def issue(
    ids: Iterable[int],
    *,
    hours: float = 24.0,
    random: Callable[[int], bytes] = os.urandom,
    server_name: str = SERVER_NAME,
    authority_name: str = AUTHORITY_NAME,
) -> tuple[Credentials, dict[int, Credentials]]:
    """Credentials for the server and every client of one run; the authority's private key is forgotten.

    Args:
      ids: of the clients.
      hours: how long they are good for.
      random: where private keys come from.
      server_name: the server's name in its certificate.
      authority_name: the authority's.

    Returns:
      The server's, and {id: the client's}.

    Raises:
      ModuleNotFoundError: `cryptography` is not installed.

    Example:
      >>> server, clients = issue([0, 1])
      >>> server.authority == clients[1].authority
      True
    """
    load_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    top = Ed25519PrivateKey.from_private_bytes(random(KEY_BYTES))
    authority = certificate(authority_name, top.public_key(), top, issuer=authority_name, hours=hours)

    def made(name: str) -> Credentials:
        key = Ed25519PrivateKey.from_private_bytes(random(KEY_BYTES))
        public = key.public_key()
        own = certificate(name, public, top, issuer=authority_name, hours=hours, is_server=name == server_name)
        return Credentials(key.private_bytes_raw(), public.public_bytes_raw(), own, authority)

    return made(server_name), {u: made(f"client-{u}") for u in ids}


def server_context(credentials: Credentials, *, strangers: bool = False) -> ssl.SSLContext:
    """TLS settings of a server: 1.3 only, and no client without a certificate of the authority.

    Args:
      credentials: the server's.
      strangers: whether a peer without a certificate is let in, to enrol; one with a wrong certificate never is.

    Returns:
      The settings.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_OPTIONAL if strangers else ssl.CERT_REQUIRED
    context.num_tickets = 0  # no session outlives its connection
    return _load(context, credentials)


def client_context(credentials: Credentials) -> ssl.SSLContext:
    """TLS settings of a client: 1.3 only, and no server but the one that the authority named."""
    return _load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), credentials)


def stranger_context(authority: bytes | None) -> ssl.SSLContext:
    """TLS settings of a client that has no certificate yet.

    Args:
      authority: the authority's certificate, PEM; None where even that is unknown: then nothing that the other side
        says is to be believed, and nothing may be told to it, before its authority's certificate has been compared
        with a fingerprint.

    Returns:
      The settings.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if authority is None:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    else:
        context.load_verify_locations(cadata=authority.decode("ascii"))
    return context


def client_id(certificate: Mapping[str, Any] | None) -> int:
    """The id that a client's verified certificate names.

    Args:
      certificate: as `ssl.SSLSocket.getpeercert` gives it.

    Returns:
      The id.

    Raises:
      UnknownPeer: there is none.

    Example:
      >>> client_id({"subject": ((("commonName", "client-7"),),)})
      7
    """
    for part in (certificate or {}).get("subject", ()):
        for key, value in part:
            found = _CLIENT_NAME.fullmatch(value) if key == "commonName" else None
            if found:
                return int(found[1])
    raise UnknownPeer("a certificate names no client.")


def keep(folder: str | Path, credentials: Credentials) -> None:
    """Writes credentials into a folder of its owner's: key.pem (0600), certificate.pem, authority.pem."""
    folder = Path(folder)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    texts = (private_pem(credentials.private), credentials.certificate, credentials.authority)
    for name, text in zip(_FILES, texts, strict=True):
        path = folder / name
        path.unlink(missing_ok=True)
        path.touch(mode=0o600, exist_ok=False)
        path.write_bytes(text)


def kept(folder: str | Path) -> Credentials:
    """The credentials of a folder that `keep` wrote; the standard library reads them.

    Raises:
      FileNotFoundError: a file is missing. TransportError: one is not what it should be.

    Example:
      >>> import tempfile
      >>> _, clients = issue([3])
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     keep(folder, clients[3])
      ...     kept(folder) == clients[3]
      True
    """
    private, own, authority = ((Path(folder) / name).read_bytes() for name in _FILES)
    return Credentials(private_of(private), public_of(own), own, authority)


def private_pem(private: bytes) -> bytes:
    """An Ed25519 private key of 32 bytes as PEM (PKCS 8)."""
    text = base64.b64encode(_PRIVATE_DER + private)
    return b"-----BEGIN PRIVATE KEY-----\n" + text + b"\n-----END PRIVATE KEY-----\n"


def private_of(pem: bytes) -> bytes:
    """The 32 bytes of an Ed25519 private key from its PEM.

    Raises:
      TransportError: it is no such key.
    """
    lines = pem.split(b"\n")
    try:
        der = base64.b64decode(lines[1], validate=True)
    except (ValueError, IndexError):
        der = b""
    private = der[len(_PRIVATE_DER) :]
    if len(private) != KEY_BYTES or private_pem(private).strip() != pem.strip():
        raise TransportError("key.pem holds no Ed25519 private key as this library writes it; enrol again.")
    return private


def public_of(certificate: bytes) -> bytes:
    """The 32 bytes of the Ed25519 public key that a certificate (PEM) is for.

    Raises:
      TransportError: it is no certificate for such a key.
    """
    try:
        der = ssl.PEM_cert_to_DER_cert(certificate.decode("ascii"))
    except ValueError:
        der = b""
    _, found, after = der.partition(_PUBLIC_DER)
    if not found or len(after) < KEY_BYTES:
        raise TransportError("certificate.pem holds no certificate for an Ed25519 key; enrol again.")
    return after[:KEY_BYTES]


def _load(context: ssl.SSLContext, credentials: Credentials) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=credentials.authority.decode())
    # OpenSSL takes a key from a file only; the folder is readable by this user alone and gone in a moment.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "party.pem"
        path.touch(mode=0o600)
        path.write_bytes(credentials.certificate + private_pem(credentials.private))
        context.load_cert_chain(path)
    return context
