"""Shuffles as keyed bijections on [0, n): any one position of a permutation is computed alone, without a sort.

A sort pays for the padding up to the largest client. Here the place of every example costs the same few integer
operations, does not depend on any padded length, and n may be a traced value.
"""

from functools import partial

import jax
import jax.numpy as jnp

# Position marginals, pairs, and for n <= 7 all n! permutations pass chi-square tests from 16 rounds on; 24 leaves room.
_ROUNDS = 24
_UNROLL = 4
_GOLDEN = 0x9E3779B9


def _mix(h: jax.Array) -> jax.Array:
    """The 32-bit finalizer of MurmurHash3 (Appleby 2011): every input bit reaches every output bit."""
    h = h ^ (h >> 16)
    h = h * jnp.uint32(0x85EBCA6B)
    h = h ^ (h >> 13)
    h = h * jnp.uint32(0xC2B2AE35)
    return h ^ (h >> 16)


@partial(jax.jit, static_argnames=("unroll",), inline=True)
def shuffled(
    seed: jax.Array, epoch: jax.Array, position: jax.Array, n: jax.Array, *, unroll: int = _UNROLL
) -> jax.Array:
    """Where a permutation of [0, n) sends `position`, by the swap-or-not shuffle.

    Every round pairs x with its mirror image K - x (mod n) for a round's K, and swaps the pair on one hashed bit, so
    each round is a permutation of [0, n) whatever the hash is.

    Args:
      seed: uint32 `[2]`, from a random key; one permutation for every (seed, epoch).
      epoch: int32 scalar or of `position`'s shape.
      position: int32 array, each in [0, n).
      n: int32 scalar of at least 1, may be traced.
      unroll: rounds in one trip of the loop; what is fast where it runs is `unrolling(platform)`.

    Returns:
      int32 array of `position`'s shape, in [0, n); for fixed seed and epoch a bijection.

    Source: Hoang, Morris, Rogaway (2012), "An enciphering scheme based on a card shuffle",
    https://arxiv.org/abs/1208.1176, figure 1; the round function is a hash here, not a cipher.

    Example:
      >>> seed = jax.random.bits(jax.random.key(0), (2,), jnp.uint32)
      >>> order = shuffled(seed, jnp.int32(0), jnp.arange(5), jnp.int32(5))
      >>> sorted(order.tolist())
      [0, 1, 2, 3, 4]
    """
    base = _mix(seed[0] ^ _mix(jnp.asarray(epoch).astype(jnp.uint32) + jnp.uint32(_GOLDEN)))
    n = jnp.asarray(n, jnp.int32)
    scale = n.astype(jnp.float32)

    def swap_or_not(r: jax.Array, x: jax.Array) -> jax.Array:
        round_key = _mix(base + jnp.asarray(r, jnp.uint32) * jnp.uint32(_GOLDEN))
        # A float product instead of a remainder, which does not vectorise on CPUs. 24 bits are enough for K: it need
        # not reach every value for the round to be a permutation.
        uniform = (round_key >> 8).astype(jnp.float32) * jnp.float32(2.0**-24)
        pivot = jnp.minimum((uniform * scale).astype(jnp.int32), n - 1)
        mirror = pivot - x
        mirror = jnp.where(mirror < 0, mirror + n, mirror)
        pair = jnp.maximum(x, mirror).astype(jnp.uint32)
        bit = _mix((pair * jnp.uint32(0x9E3779B1)) ^ _mix(round_key ^ seed[1])) >> 31
        return jnp.where(bit == 1, mirror, x)

    return jax.lax.fori_loop(0, _ROUNDS, swap_or_not, jnp.asarray(position, jnp.int32), unroll=unroll)


def unrolling(platform: str) -> int:
    """The `unroll` of `shuffled` for a platform: "cpu", "gpu", "tpu" ..."""
    # On an accelerator each iteration of a loop is a kernel launch; on a CPU full unrolling only costs compile time.
    return _UNROLL if platform == "cpu" else _ROUNDS
