"""Masks: words of a ChaCha20 keystream, added mod 2^32, that cancel in the sum or are taken off by the server.

A client u sends y_u = q_u + M(self_u) + sum over its neighbors v of sign(u, v) M(pair_uv) mod 2^32, where M(s) is the
keystream of the seed s, and sign(u, v) = 1 if u < v, else -1: in the sum over all, every pair cancels.

Source: Bonawitz et al. (2017), "Practical secure aggregation", https://eprint.iacr.org/2017/281, figure 4; RFC 8439.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fedjaxlite.transport.certificates import load_cryptography

NEEDS = "secure aggregation needs"
Words = np.ndarray[Any, np.dtype[np.uint32]]
Prg = Callable[[bytes, int, int], Words]

# What a stream is for; in its nonce, beside the round's number.
PAIR, SELF = 1, 2
STREAM_KEY_BYTES = 44
_BLOCK = 16  # words in a block of ChaCha20
_LIMIT = _BLOCK * 2**32  # words before the block counter of 32 bits wraps


def stream_key(seed: bytes, round_number: int, purpose: int) -> bytes:
    """A stream's key of 44 bytes: 32 of seed, and a nonce of 12 with the purpose and the round, little-endian.

    Example:
      >>> len(stream_key(b"s" * 32, 7, PAIR))
      44
    """
    return seed + struct.pack("<IQ", purpose, round_number)


def chacha20_words(key: bytes, offset: int, n: int) -> Words:
    """Words of the ChaCha20 keystream, at any place of it.

    Args:
      key: 44 bytes, the key of 32 and the nonce of 12.
      offset: the first word.
      n: how many words.

    Returns:
      uint32 `[n]`: the keystream of RFC 8439 from block 0, four bytes a word, little-endian.

    Raises:
      ValueError: the key has another length, or the words reach beyond 2^36.
      ModuleNotFoundError: `cryptography` is not installed.

    Example:
      >>> key = stream_key(bytes(32), 0, PAIR)
      >>> bool((chacha20_words(key, 5, 40) == chacha20_words(key, 0, 45)[5:]).all())
      True
    """
    load_cryptography(NEEDS)
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

    if len(key) != STREAM_KEY_BYTES:
        raise ValueError(f"`key` has {len(key)} bytes; expected {STREAM_KEY_BYTES}: 32 of key and 12 of nonce.")
    if offset < 0 or n < 0 or offset + n > _LIMIT:
        raise ValueError(f"`offset` is {offset} with {n} words; expected words in [0, 2^36).")
    block, skip = divmod(offset, _BLOCK)
    nonce = struct.pack("<I", block) + key[32:]
    stream = Cipher(algorithms.ChaCha20(key[:32], nonce), mode=None).encryptor().update(bytes(4 * (skip + n)))
    return np.frombuffer(stream, "<u4")[skip:].astype(np.uint32, copy=False)


def sign(u: int, v: int) -> int:
    """1 where u adds the mask of the pair, -1 where it takes it off.

    Example:
      >>> sign(1, 2), sign(2, 1)
      (1, -1)
    """
    return 1 if u < v else -1


def add_mask(
    total: Words, seed: bytes, sign: int, *, round_number: int, purpose: int, prg: Prg = chacha20_words
) -> None:
    """Adds a mask to `total` in place (sign 1), or takes it off (sign -1), mod 2^32.

    Args:
      total: uint32 `[d]`, writable.
      seed: 32 bytes.
      sign: 1 or -1.
      round_number: the round's number.
      purpose: `PAIR` or `SELF`.
      prg: (key, offset, n) -> uint32 `[n]`.
    """
    mask = prg(stream_key(seed, round_number, purpose), 0, len(total))
    (np.add if sign > 0 else np.subtract)(total, mask, out=total)


def masked(
    vector: Words, own: bytes, pairs: Mapping[int, bytes], *, me: int, round_number: int, prg: Prg = chacha20_words
) -> Words:
    """A client's vector under all of its masks.

    Args:
      vector: uint32 `[d]`.
      own: the seed of the client's own mask.
      pairs: {neighbor: the seed shared with it}.
      me: the client's id.
      round_number: the round's number.
      prg: (key, offset, n) -> uint32 `[n]`.

    Returns:
      uint32 `[d]`, a new array.

    Guarantees:
      Uniform in Z_{2^32}^d, and independent of the vector, to whoever does not know one of the seeds.

    Example:
      >>> q = np.array([1, 2, 3], np.uint32)
      >>> y0 = masked(q, b"0" * 32, {1: b"p" * 32}, me=0, round_number=7)
      >>> y1 = masked(q, b"1" * 32, {0: b"p" * 32}, me=1, round_number=7)
      >>> total = y0 + y1
      >>> for own in (b"0" * 32, b"1" * 32):
      ...     add_mask(total, own, -1, round_number=7, purpose=SELF)
      >>> total.tolist()
      [2, 4, 6]
    """
    out = vector.copy()
    add_mask(out, own, 1, round_number=round_number, purpose=SELF, prg=prg)
    for other, seed in pairs.items():
        add_mask(out, seed, sign(me, other), round_number=round_number, purpose=PAIR, prg=prg)
    return out
