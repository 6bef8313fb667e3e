"""Certificates for one run: an authority, one for the server and one for every client, and the TLS settings for them.

An Ed25519 key is a party's identity: its certificate is for it, and a client signs with it where the server may lie.
"""

import datetime
import os
import re
import ssl
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fedjaxlite.privacy.secagg import masking
from fedjaxlite.privacy.secagg.errors import SecureAggregationError, UnknownClient
from fedjaxlite.privacy.secagg.keys import KEY_BYTES, Random
from fedjaxlite.privacy.secagg.parties.client_state import Identity

# The name that clients expect in the server's certificate.
SERVER_NAME = "secagg-server"
_CLIENT_NAME = re.compile(r"client-(0|[1-9][0-9]{0,9})")


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
    ids: Iterable[int], *, hours: float = 24.0, random: Random = os.urandom
) -> tuple[Credentials, dict[int, Credentials]]:
    """Credentials for the server and every client of a run; the authority's private key is forgotten.

    Args:
      ids: of the clients.
      hours: how long they are good for.
      random: where private keys come from.

    Returns:
      The server's, and {id: the client's}.

    Raises:
      ModuleNotFoundError: `cryptography` is not installed.

    Example:
      >>> server, clients = issue([0, 1])
      >>> server.authority == clients[1].authority
      True
    """
    masking.load_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    top = Ed25519PrivateKey.from_private_bytes(random(KEY_BYTES))
    authority = _certificate("secagg-authority", top, top, hours)

    def made(name: str) -> Credentials:
        key = Ed25519PrivateKey.from_private_bytes(random(KEY_BYTES))
        public = key.public_key().public_bytes_raw()
        return Credentials(key.private_bytes_raw(), public, _certificate(name, key, top, hours), authority)

    return made(SERVER_NAME), {u: made(f"client-{u}") for u in ids}


def identities(clients: Mapping[int, Credentials]) -> dict[int, Identity]:
    """Every client's identity for the signed variant, all known to each other."""
    known = {u: who.public for u, who in clients.items()}
    return {u: Identity(who.private, known) for u, who in clients.items()}


def server_context(credentials: Credentials) -> ssl.SSLContext:
    """TLS settings of the server: 1.3 only, and no client without a certificate of the authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0  # no session outlives its connection
    return _load(context, credentials)


def client_context(credentials: Credentials) -> ssl.SSLContext:
    """TLS settings of a client: 1.3 only, and no server but the one that the authority named."""
    return _load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), credentials)


def client_id(certificate: Mapping[str, Any] | None) -> int:
    """The id that a client's verified certificate names.

    Args:
      certificate: as `ssl.SSLSocket.getpeercert` gives it.

    Returns:
      The id.

    Raises:
      UnknownClient: there is none.

    Example:
      >>> client_id({"subject": ((("commonName", "client-7"),),)})
      7
    """
    for part in (certificate or {}).get("subject", ()):
        for key, value in part:
            found = _CLIENT_NAME.fullmatch(value) if key == "commonName" else None
            if found:
                return int(found[1])
    raise UnknownClient("a certificate names no client.")


def _load(context: ssl.SSLContext, credentials: Credentials) -> ssl.SSLContext:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=credentials.authority.decode())
    key = Ed25519PrivateKey.from_private_bytes(credentials.private)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    # OpenSSL takes a key from a file only; the folder is readable by this user alone and gone in a moment.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "party.pem"
        path.touch(mode=0o600)
        path.write_bytes(credentials.certificate + pem)
        context.load_cert_chain(path)
    return context


def _certificate(name: str, key: Any, signer: Any, hours: float) -> bytes:
    """A certificate for `key` under `name`, signed by the authority's key: by itself where it is the authority."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    is_authority = key is signer
    now = datetime.datetime.now(datetime.UTC)
    usage = dict.fromkeys(
        ("digital_signature", "key_cert_sign", "crl_sign", "content_commitment", "key_encipherment"), False
    )
    usage |= dict.fromkeys(("data_encipherment", "key_agreement", "encipher_only", "decipher_only"), False)
    usage |= {"key_cert_sign": True, "crl_sign": True} if is_authority else {"digital_signature": True}
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named("secagg-authority"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=hours))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=0 if is_authority else None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if not is_authority:
        is_server = name == SERVER_NAME
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if is_server else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        if is_server:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    return builder.sign(signer, None).public_bytes(Encoding.PEM)


def reason(error: BaseException) -> str:
    """An error as a log line: its type and its words.

    Example:
      >>> reason(UnknownClient("client 3 is not in the round."))
      'UnknownClient: client 3 is not in the round.'
    """
    words = str(error) or "no further words"
    blame = f" (blames {error.offender})" if isinstance(error, SecureAggregationError) and error.offender else ""
    return f"{type(error).__name__}: {words}{blame}"
