"""ChaCha20 in plain JAX: the keystream of RFC 8439, computed where the arrays are.

A block of 16 words depends on the key, the nonce and its own number alone. So any part of a stream can be had without
the parts before it, and what comes out depends neither on vmap, nor on the device, nor on JAX's own generators.

    constants  c0 c1 c2 c3        Four rows of four words. A round mixes the columns; rotating the rows by 0, 1, 2, 3
    key        k0 k1 k2 k3        makes columns of the diagonals, and the same mixing does the second half. Here every
    key        k4 k5 k6 k7        word is an array over blocks, so that one operation works on all of them.
    counter     b n0 n1 n2
"""

from typing import Any

import jax
import jax.numpy as jnp

WORDS = 16
"""Words of 32 bits in a block."""

_CONSTANTS = (0x61707865, 0x3320646E, 0x79622D32, 0x6B206574)  # "expand 32-byte k"


def keystream(key: Any, nonce: Any, counter: Any, num_blocks: int) -> jax.Array:
    """Part of a keystream, in the order of RFC 8439.

    Args:
      key: uint32 `[8]`, the 32 bytes of a key as little-endian words.
      nonce: uint32 `[3]`, likewise.
      counter: the number of the first block, an int or uint32 scalar; may be traced. Blocks are counted mod 2^32.
      num_blocks: int, how many blocks; static.

    Returns:
      uint32 `[16 * num_blocks]`; as little-endian bytes, what ChaCha20 adds to a text from byte 64 * counter on.

    Raises:
      TypeError, ValueError: for a key or nonce of another dtype or shape, or a number of blocks below 1.

    Guarantees:
      Bit for bit the keystream of RFC 8439, section 2.4, for every key, nonce and counter; under `vmap` and `jit` as
      without them.

    Source: Nir, Langley (2018), RFC 8439, https://www.rfc-editor.org/rfc/rfc8439, section 2.3.

    Example:
      The key and nonce of RFC 8439, section 2.3.2:

      >>> key = jnp.arange(8, dtype=jnp.uint32) * 0x04040404 + jnp.uint32(0x03020100)
      >>> nonce = jnp.array([0x09000000, 0x4A000000, 0], jnp.uint32)
      >>> [f"{word:08x}" for word in keystream(key, nonce, 1, 1)[:4].tolist()]
      ['e4e7f110', '15593bd1', '1fdd0f50', 'c47120a3']
    """
    return in_order(blocks(key, nonce, counter, num_blocks))


def blocks(key: Any, nonce: Any, counter: Any, num_blocks: int) -> jax.Array:
    """Part of a keystream with blocks along the last axis, as it is computed: for sums of streams, which need no order.

    Args:
      key: as in `keystream`, like all others.
      nonce: uint32 `[3]`.
      counter: the number of the first block.
      num_blocks: int.

    Returns:
      uint32 `[4, 4, num_blocks]`; word 4 r + c of block i is at `[r, c, i]`. `in_order` makes a keystream of it.
    """
    _check_words(key=(key, 8), nonce=(nonce, 3))
    if num_blocks < 1:
        raise ValueError(f"`num_blocks` is {num_blocks}; expected at least 1.")
    numbers = jnp.asarray(counter, jnp.uint32) + jnp.arange(num_blocks, dtype=jnp.uint32)
    nonces = jnp.broadcast_to(jnp.asarray(nonce)[:, None], (3, num_blocks))
    return _permute(key, jnp.concatenate([numbers[None], nonces]))


def in_order(stream: jax.Array) -> jax.Array:
    """The words of `blocks`, uint32 `[4, 4, n]`, in the order of the keystream: uint32 `[16 n]`."""
    return stream.reshape(WORDS, -1).T.reshape(-1)


def derive(key: Any, nonces: Any) -> jax.Array:
    """Keys from a key: the first 8 words of block 0 under each of M nonces.

    Args:
      key: uint32 `[8]`.
      nonces: uint32 `[M, 3]`, what tells the new keys apart.

    Returns:
      uint32 `[M, 8]`.

    Guarantees:
      A new key is a function of `key` and its own nonce alone. Whoever does not hold `key` cannot tell new keys from
      random ones, if ChaCha20 is a pseudorandom function.

    Example:
      >>> root, nonces = jnp.zeros((8,), jnp.uint32), jnp.array([[0, 0, 1], [0, 0, 2]], jnp.uint32)
      >>> bool((derive(root, nonces)[1] == keystream(root, nonces[1], 0, 1)[:8]).all())
      True
    """
    nonces = jnp.asarray(nonces)
    if nonces.ndim != 2 or nonces.shape[1] != 3 or nonces.dtype != jnp.uint32:
        raise ValueError(f"`nonces` is {nonces.dtype}{list(nonces.shape)}; expected uint32[M, 3], one nonce a row.")
    _check_words(key=(key, 8))
    numbers = jnp.zeros((1, nonces.shape[0]), jnp.uint32)
    return _permute(key, jnp.concatenate([numbers, nonces.T]))[:2].reshape(8, -1).T


def _permute(key: Any, last: jax.Array) -> jax.Array:
    """The block function, for n blocks whose last rows (counter and nonce) are `last`, uint32 `[4, n]`."""
    wide = lambda words: jnp.broadcast_to(jnp.asarray(words, jnp.uint32)[:, None], last.shape)  # noqa: E731
    start = jnp.stack([wide(_CONSTANTS), wide(key[:4]), wide(key[4:]), last])
    return start + jax.lax.fori_loop(0, 10, _double_round, start)


def _double_round(number: Any, rows: jax.Array) -> jax.Array:
    del number
    diagonals = _round(rows, turn=1)
    # XLA on CPUs fuses what follows with all that it depends on, and computes most of it again and again: without the
    # loop and this barrier, the keystream takes up to 15 times as long.
    return _round(jax.lax.optimization_barrier(diagonals), turn=3)


def _round(rows: jax.Array, turn: int) -> jax.Array:
    """Four quarter rounds (RFC 8439, section 2.1), one in each column, and the turn between columns and diagonals."""
    a, b, c, d = rows
    a = a + b
    d = _rotated(d ^ a, 16)
    c = c + d
    b = _rotated(b ^ c, 12)
    a = a + b
    d = _rotated(d ^ a, 8)
    c = c + d
    b = _rotated(b ^ c, 7)
    return jnp.stack([a, _turned(b, turn), _turned(c, 2), _turned(d, 4 - turn)])


def _rotated(words: jax.Array, bits: int) -> jax.Array:
    return (words << bits) | (words >> (32 - bits))


def _turned(row: jax.Array, by: int) -> jax.Array:
    return jnp.concatenate([row[by:], row[:by]])


def _check_words(**named: tuple[Any, int]) -> None:
    for name, (words, length) in named.items():
        dtype, shape = getattr(words, "dtype", None), getattr(words, "shape", None)
        if dtype != jnp.uint32 or shape != (length,):
            given = repr(words) if dtype is None or shape is None else f"{dtype}{list(shape)}"
            raise TypeError(
                f'`{name}` is {given}; expected uint32[{length}]. Bytes become words by np.frombuffer(data, "<u4").'
            )
