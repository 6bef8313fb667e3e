"""How a client enrols: what its token says, its own new key, and the request to certify that key.

A token is the words fjl1, a secret of 24 bytes and SHA-256 of the authority's certificate, in base64 with dots between.
"""

import base64
import hashlib
import os
import ssl
from collections.abc import Callable
from typing import Any, NamedTuple

from fedjaxlite.transport.certificates import load_cryptography
from fedjaxlite.transport.credentials import KEY_BYTES
from fedjaxlite.transport.errors import EnrolmentRefused, TransportError

SECRET_BYTES = 24
_PREFIX = "fjl1"
_MOST_REQUEST = 4096


class Request(NamedTuple):
    """What a client asks with: its own new key, and a request for a certificate (PEM), which proves that it has it."""

    private: bytes
    public: bytes
    pem: bytes

    def __repr__(self) -> str:
        return f"Request(public={self.public.hex()[:8]}..., private=...)"


def fingerprint(pem: bytes) -> bytes:
    """SHA-256 of a certificate, as its DER bytes: 32 bytes.

    Raises:
      TransportError: it is no certificate in PEM.
    """
    try:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.decode("ascii").strip())).digest()
    except ValueError:
        raise TransportError("an authority's certificate is not in PEM.") from None


def token_of(secret: bytes, mark: bytes) -> str:
    """A token as text, of its secret and the fingerprint of the authority.

    Example:
      >>> told(token_of(b"s" * 24, b"f" * 32)) == (b"s" * 24, b"f" * 32)
      True
    """
    return ".".join((_PREFIX, *(base64.urlsafe_b64encode(data).decode("ascii").rstrip("=") for data in (secret, mark))))


def told(token: str) -> tuple[bytes, bytes]:
    """What a token says: its secret, and the fingerprint of the authority that its bearer may believe.

    Raises:
      EnrolmentRefused: it is no token.
    """
    parts = token.strip().split(".")
    try:
        secret, mark = (base64.b64decode(p + "=" * (-len(p) % 4), altchars=b"-_", validate=True) for p in parts[1:])
    except ValueError:
        secret = mark = b""
    if parts[0] != _PREFIX or len(secret) != SECRET_BYTES or len(mark) != 32:
        raise EnrolmentRefused(
            f"this is no enrolment token, which begins with {_PREFIX}. and is told by the server's owner."
        )
    return secret, mark


def request(random: Callable[[int], bytes] = os.urandom) -> Request:
    """A new key of a client's own, which never leaves it, and the request to certify it.

    Args:
      random: where the key comes from.

    Returns:
      The Request.

    Raises:
      ModuleNotFoundError: `cryptography` is not installed.
    """
    load_cryptography()
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding

    key = Ed25519PrivateKey.from_private_bytes(random(KEY_BYTES))
    # Without a name: the authority gives it.
    asked = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, None)
    return Request(key.private_bytes_raw(), key.public_key().public_bytes_raw(), asked.public_bytes(Encoding.PEM))


def public_key_of(csr_pem: bytes) -> Any:
    """The public key that a request asks a certificate for, once the request proves that the asker has the private one.

    Raises:
      EnrolmentRefused: it is no such request, or is for a key of another kind.
    """
    load_cryptography()
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if len(csr_pem) > _MOST_REQUEST:
        raise EnrolmentRefused(f"a request of {len(csr_pem)} bytes; expected at most {_MOST_REQUEST}.")
    try:
        asked = x509.load_pem_x509_csr(csr_pem)
        public, proven = asked.public_key(), asked.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature):
        raise EnrolmentRefused("the request for a certificate cannot be read; expected PEM of PKCS 10.") from None
    if not isinstance(public, Ed25519PublicKey) or not proven:
        raise EnrolmentRefused("the request for a certificate is not signed by the Ed25519 key that it is for.")
    return public
