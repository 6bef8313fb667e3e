"""Dither: a number in [0, 1) for every entry, from a key and the entry's number alone.

    round up with probability x - floor(x):    floor(x + u),  u uniform in [0, 1)

JAX's own generator (threefry, 20 rounds) costs several times what all the rest of a codec does. A dither needs less: a
counter is mixed with two words of a key, by shifts and two multiplications, as in hash tables. It is no cryptography:
who sees numbers may find the key. It is not for privacy: noise that protects a client comes from `jax.random`.

Source of the mixing constants: Wellons (2018), https://nullprogram.com/blog/2018/07/31/, "lowbias32".
"""

import jax
import jax.numpy as jnp


def dither(key: jax.Array, entries: int) -> jax.Array:
    """Uniform numbers for stochastic rounding.

    Args:
      key: a random key, of any kind; used up.
      entries: n.

    Returns:
      float32 `[n]`, multiples of 2^-24 in [0, 1).

    Guarantees:
      A number depends on the key and its place alone, so neither on n nor on what else is drawn. Uniform, and
      independent of its neighbors, of the same place under other keys and of those that `jax.random.fold_in` makes of
      this one, as far as the tests can see.

    Example:
      >>> drawn = dither(jax.random.key(0), 1000)
      >>> bool((drawn[:10] == dither(jax.random.key(0), 10)).all()), bool(0.45 < drawn.mean() < 0.55)
      (True, True)
    """
    return (random_words(key, entries) >> 8).astype(jnp.int32).astype(jnp.float32) * jnp.float32(2.0**-24)


def random_words(key: jax.Array, entries: int) -> jax.Array:
    """Uniform words of 32 bits, as `dither`; their higher bits are the better ones.

    Args:
      key: a random key, of any kind; used up.
      entries: n.

    Returns:
      uint32 `[n]`.
    """
    first, second = _two_words(key)
    # So few operations on numbers that accelerators do them inside of the kernel that draws. Keys that differ little
    # draw with other strides, from other places, and the keys 0, 1, 2 ... with no small ones, whose streams are bad.
    second = second ^ (first * jnp.uint32(0x85EBCA6B) + jnp.uint32(0x9E3779B9))
    return mixed(first + second * jnp.uint32(0x85EBCA6B), second << 1, entries)


def numbered(key: jax.Array, number: int) -> jax.Array:
    """The key for the leaf of that number, for `dither` and `random_words` alone.

    `jax.random.fold_in` and what it makes are two kernels of an accelerator for a few bytes. This is none.

    Args:
      key: a random key, of any kind.
      number: 0, 1, 2, ...

    Returns:
      a key. It is no good one for `jax.random`: its words are the given ones, moved by the number.

    Example:
      >>> key = jax.random.key(0)
      >>> bool((dither(numbered(key, 0), 100) == dither(numbered(key, 1), 100)).any())
      False
    """
    first, second = _two_words(key)
    words = jnp.stack([first + jnp.uint32(number * 0x632BE59B % 2**32), second])
    return jax.random.wrap_key_data(words, impl="threefry2x32")


def mixed(first: jax.Array, second: jax.Array, entries: int) -> jax.Array:
    """The words of a key whose own two words are these: each a function of the key and its place."""
    # A key has a stride of its own: with one for all, streams would be the same where their counters overlap.
    word = jax.lax.iota(jnp.uint32, entries) * (second | jnp.uint32(1)) + first
    return _mixed_word(word)


def round_up_or_down(scaled: jax.Array, key: jax.Array | None) -> jax.Array:
    """Whole numbers beside `scaled`, drawn so that their mean is `scaled`; the nearest ones where there is no key.

    Args:
      scaled: float32 `[n]`, of absolute value below 2^23.
      key: a random key, or None.

    Returns:
      int32 `[n]`. A whole number stays what it is.
    """
    up = jnp.float32(0.5) if key is None else dither(key, scaled.size)
    return jnp.floor(scaled + up).astype(jnp.int32)


def _mixed_word(word: jax.Array) -> jax.Array:
    word = (word ^ (word >> 16)) * jnp.uint32(0x7FEB352D)
    word = (word ^ (word >> 15)) * jnp.uint32(0x846CA68B)
    return word ^ (word >> 16)


def _two_words(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    words = jax.random.key_data(key)
    first, second = words[0], words[1]
    for i in range(2, words.size, 2):  # of generators with longer keys
        first, second = first ^ _mixed_word(words[i]), second ^ _mixed_word(words[i + 1])
    return first, second
