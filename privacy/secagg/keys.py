"""Keys: X25519 exchanges, HKDF-SHA256 with a label for every purpose, sealed boxes, Ed25519 signatures.

What is taken from the `cryptography` package stands here, as a tuple of functions, so that a test can put stand-ins in
its place. The package is loaded on first use.
"""

import hashlib
import os
import struct
from collections.abc import Callable
from typing import NamedTuple

from fedjaxlite.privacy.secagg import masking
from fedjaxlite.privacy.secagg.errors import BadCiphertext, BadKey, BadSignature, party
from fedjaxlite.transport.certificates import load_cryptography

LABEL = b"fedjaxlite/secagg/v1/"
KEY_BYTES = 32
SIGNATURE_BYTES = 64
# A sealed box is a nonce of 12 bytes, the message, and a tag of 16.
BOX_BYTES = 28

Random = Callable[[int], bytes]


class KeyPair(NamedTuple):
    """A private key and the public key that belongs to it, 32 bytes each."""

    private: bytes
    public: bytes

    def __repr__(self) -> str:
        return f"KeyPair(private=..., public={self.public.hex()[:8]}...)"


class Primitives(NamedTuple):
    """The cryptography that the protocol is built from; `real()` is what to use outside tests.

    Attributes:
      public: private key -> public key, of an exchange.
      agree: (private, public of the other) -> the 32 bytes that both get; raises `ValueError` for a key that no
        exchange may be made with.
      derive: (secret, info) -> 32 bytes that tell nothing about the secret or about those of another info.
      seal: (key, nonce, message, header) -> ciphertext with a tag.
      unseal: (key, nonce, ciphertext, header) -> message; raises `ValueError` where anything was changed.
      prg: (key of 44 bytes, offset, n) -> uint32 `[n]`, words offset .. offset + n of the key's stream.
      identity: private key -> public key, of signatures.
      sign: (private, message) -> signature of 64 bytes.
      verify: (public, signature, message) -> None; raises `ValueError` where the signature is not theirs.
    """

    public: Callable[[bytes], bytes]
    agree: Callable[[bytes, bytes], bytes]
    derive: Callable[[bytes, bytes], bytes]
    seal: Callable[[bytes, bytes, bytes, bytes], bytes]
    unseal: Callable[[bytes, bytes, bytes, bytes], bytes]
    prg: masking.Prg
    identity: Callable[[bytes], bytes]
    sign: Callable[[bytes, bytes], bytes]
    verify: Callable[[bytes, bytes, bytes], None]


def real() -> Primitives:
    """X25519, HKDF-SHA256, ChaCha20-Poly1305, the ChaCha20 keystream and Ed25519, from `cryptography`.

    Raises:
      ModuleNotFoundError: `cryptography` is not installed.

    Source: RFC 7748 (X25519), RFC 5869 (HKDF), RFC 8439 (ChaCha20 and Poly1305), RFC 8032 (Ed25519).

    Example:
      >>> p = real()
      >>> p.agree(b"1" * 32, p.public(b"2" * 32)) == p.agree(b"2" * 32, p.public(b"1" * 32))
      True
    """
    load_cryptography(masking.NEEDS)
    return Primitives(_public, _agree, _derive, _seal, _unseal, masking.chacha20_words, _identity, _sign, _verify)


def generate(primitives: Primitives, random: Random = os.urandom) -> KeyPair:
    """A fresh pair of keys for exchanges."""
    private = random(KEY_BYTES)
    return KeyPair(private, primitives.public(private))


def below(random: Random) -> Callable[[int], int]:
    """A draw of ints below a bound from a source of bytes, with a bias of at most 2^-255 for bounds up to 2^257.

    Example:
      >>> draw = below(os.urandom)
      >>> 0 <= draw(10) < 10
      True
    """
    return lambda bound: int.from_bytes(random(64)) % bound


def commitment(round_number: int, owner: int, secret: bytes) -> bytes:
    """What a client publishes of its self seed, so that a wrong reconstruction shows; it tells nothing of the seed."""
    return hashlib.sha256(LABEL + b"b" + struct.pack(">QI", round_number, owner) + secret).digest()


def channel_key(
    primitives: Primitives, private: bytes, public: bytes, *, round_number: int, sender: int, receiver: int, me: int
) -> bytes:
    """The key that seals what `sender` has for `receiver` in this round; both compute it, each from its own side.

    Raises:
      BadKey: no exchange may be made with the other's public key; names the other.
    """
    info = LABEL + b"channel" + struct.pack(">QII", round_number, sender, receiver)
    return _exchange(primitives, private, public, info, receiver if me == sender else sender)


def pair_seed(
    primitives: Primitives, private: bytes, public: bytes, *, round_number: int, me: int, other: int
) -> bytes:
    """The seed of the mask that two neighbors share in this round, the same from both sides.

    Raises:
      BadKey: no exchange may be made with the other's public key; names the other.
    """
    info = LABEL + b"pair" + struct.pack(">QII", round_number, min(me, other), max(me, other))
    return _exchange(primitives, private, public, info, other)


def self_seed(primitives: Primitives, secret: bytes, *, round_number: int, owner: int) -> bytes:
    """The seed of a client's own mask, from the secret that it shares among its neighbors."""
    return primitives.derive(secret, LABEL + b"self" + struct.pack(">QI", round_number, owner))


def seal(primitives: Primitives, key: bytes, message: bytes, header: bytes, random: Random) -> bytes:
    """A sealed box: only who holds the key opens it, and only under the same header."""
    nonce = random(12)
    return nonce + primitives.seal(key, nonce, message, header)


def unseal(primitives: Primitives, key: bytes, box: bytes, header: bytes, *, sender: int) -> bytes:
    """What is in a sealed box.

    Raises:
      BadCiphertext: it was changed, or sealed with another key or for another header; names the sender.
    """
    try:
        return primitives.unseal(key, box[:12], box[12:], header)
    except ValueError as error:
        raise BadCiphertext(
            f"the shares that came under the name of {party(sender)} do not open: they were changed on the way, or "
            "sealed for another round, receiver or key.",
            offender=sender,
        ) from error


def verify(primitives: Primitives, public: bytes | None, message: bytes, signature: bytes, *, signer: int) -> None:
    """Checks a signature against the identity that the signer is known by.

    Raises:
      BadSignature: it does not verify, or no identity of the signer is known; names the signer.
    """
    if public is None:
        raise BadSignature(f"no identity of {party(signer)} is known, so its signature says nothing.", offender=signer)
    try:
        primitives.verify(public, signature, message)
    except ValueError as error:
        raise BadSignature(f"a signature of {party(signer)} does not verify.", offender=signer) from error


def _exchange(primitives: Primitives, private: bytes, public: bytes, info: bytes, other: int) -> bytes:
    try:
        return primitives.derive(primitives.agree(private, public), info)
    except ValueError as error:
        raise BadKey(f"no exchange may be made with the key of {party(other)}.", offender=other) from error


def _public(private: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def _agree(private: bytes, public: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

    return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))


def _derive(secret: bytes, info: bytes) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)


def _seal(key: bytes, nonce: bytes, message: bytes, header: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    return ChaCha20Poly1305(key).encrypt(nonce, message, header)


def _unseal(key: bytes, nonce: bytes, ciphertext: bytes, header: bytes) -> bytes:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    try:
        return ChaCha20Poly1305(key).decrypt(nonce, ciphertext, header)
    except InvalidTag as error:
        raise ValueError("the tag does not fit.") from error


def _identity(private: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def _sign(private: bytes, message: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(private).sign(message)


def _verify(public: bytes, signature: bytes, message: bytes) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature as error:
        raise ValueError("the signature does not fit.") from error
