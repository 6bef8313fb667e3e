"""Streams of correlated Gaussian noise, a round at a time: what a factorization mechanism adds to the sums.

A server that sums what it gets (any server SGD) turns the noises n_0, n_1, ... of its rounds into cumulative ones,
n_0 + ... + n_t, and those are what its model carries. Independent noises make them grow with t; here the noises of
different rounds partly cancel. Each stream is the differences of `B z` for white noise z and a factorization `A = B C`
of the prefix sums A. The noisy prefix sums `A x + B z = B (C x + z)` are computed from `C x + z`, so the guarantee is
that of one Gaussian mechanism on `C x`. `tree.py` and `toeplitz.py` have the sensitivities of the strategies C.

Streams are in units of the white noise's standard deviation, in float32, and their states are plain pytrees: with the
round number they are all that a run needs to go on after a checkpoint.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any


class NoiseStream(NamedTuple):
    """Noise for one round after another.

    Attributes:
      init: `init(template) -> state`; `template` is a pytree of arrays or `jax.ShapeDtypeStruct`.
      next: `next(state, round_number, key, template) -> (noise, state)`. `round_number` is an int32 scalar that counts
        from 0 without gaps, `key` is fresh in every round, `noise` is float32 in the template's shapes.
    """

    init: Callable[[PyTree], Any]
    next: Callable[[Any, Any, Any, PyTree], tuple[PyTree, Any]]


def standard_normal(key: Any, template: PyTree) -> PyTree:
    """Independent standard normal draws in float32, in the shapes of a pytree; one fold of the key a leaf."""
    leaves, treedef = jax.tree.flatten(template)
    keys = [jax.random.fold_in(key, i) for i in range(len(leaves))]
    drawn = [jax.random.normal(k, leaf.shape, jnp.float32) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(treedef, drawn)


def naive_tree(*, restart_every: int | None = None) -> NoiseStream:
    """Binary tree noise in the memory of one key: the cumulative noise after t rounds is that of popcount(t) nodes.

    The round that ends t rounds opens one node, over its last 2^(zeros at the end of t) rounds, and gives up those that
    the new one covers. Nodes are drawn again from their number when they are given up, which costs two draws a round
    on average, and log2(t) at most. The key of the first round is kept: it is the only state.

    Args:
      restart_every: rounds of a tree, after which the next one begins from nothing; None for one tree. The last round
        of a tree opens its root, as if rounds without clients had filled it.

    Returns:
      a NoiseStream.

    Source: Kairouz, McMahan, Song, Thakkar, Thakurta, Xu (2021), https://arxiv.org/abs/2103.00039, algorithm 1 and
      appendix D.3 (completion).
    """

    def init(template: PyTree) -> Any:
        del template
        return jax.random.key(0, impl="threefry2x32")

    def advance(own: Any, round_number: Any, key: Any, template: PyTree) -> tuple[PyTree, Any]:
        own = jax.random.wrap_key_data(
            jnp.where(round_number == 0, jax.random.key_data(key), jax.random.key_data(own)), impl="threefry2x32"
        )
        start, done, last = _place(round_number, restart_every)

        def node(end: Any) -> PyTree:
            return standard_normal(jax.random.fold_in(own, end), template)

        def give_up(carry: tuple[Any, PyTree]) -> tuple[Any, PyTree]:
            bits, noise = carry
            lowest = bits & -bits
            covered = node(start + (done & ~(lowest - 1)))
            return bits ^ lowest, jax.tree.map(jnp.subtract, noise, covered)

        closing = jnp.where(last, done, done & ~(done + 1))  # the ones at the end of `done`, or all of them
        opened = (closing, node(round_number + 1))
        return jax.lax.while_loop(lambda carry: carry[0] != 0, give_up, opened)[1], own

    return NoiseStream(init, advance)


def honaker_tree(*, num_rounds: int, restart_every: int | None = None) -> NoiseStream:
    """Binary tree noise with every sum estimated from all nodes below: less noise for the same guarantee.

    A complete node's sum is estimated as the average of its own noisy sum and the two estimates of its halves,
    weighted by their inverse variances: 2^h / (2^(h+1) - 1) at height h instead of 1. The estimates of nodes that are
    not yet part of a larger one are the state: log2(rounds of a tree) times the model in float32.

    Args:
      num_rounds: T, the most rounds; fixes the size of the state.
      restart_every: rounds of a tree, after which the next one begins from nothing; None for one tree. In the last
        round of a tree, its root is estimated, where rounds to come count as sums known to be zero.

    Returns:
      a NoiseStream.

    Source: Honaker (2015), "Efficient use of differentially private binary trees", section 3.2 (estimation from
      below), as in Kairouz et al. (2021), https://arxiv.org/abs/2103.00039, appendix D.3.
    """
    tree_rounds = num_rounds if restart_every is None else min(num_rounds, restart_every)
    depth = (tree_rounds - 1).bit_length()
    # Without restarts nothing ever merges above the largest complete node.
    # A single round keeps no sum, and the loop that merges none is traced all the same.
    levels = max(1, num_rounds.bit_length() - 1 if restart_every is None else depth)
    variances = 1.0 / (2.0 - 0.5 ** np.arange(levels + 1))

    def init(template: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: jnp.zeros((levels, *leaf.shape), jnp.float32), template)

    def advance(stack: PyTree, round_number: Any, key: Any, template: PyTree) -> tuple[PyTree, PyTree]:
        _, done, last = _place(round_number, restart_every)
        closing = done & ~(done + 1)
        height = jnp.where(last, depth, jax.lax.population_count(closing))
        known = jnp.asarray(variances, jnp.float32)

        def merge(carry: tuple[Any, Any, PyTree, PyTree]) -> tuple[Any, Any, PyTree, PyTree]:
            level, variance, estimate, given_up = carry
            present = (done >> level) & 1 == 1
            left = jax.tree.map(lambda leaf: jnp.where(present, leaf[level], 0.0), stack)
            halves = variance + jnp.where(present, known[level], 0.0)
            variance = halves / (1.0 + halves)
            own = standard_normal(jax.random.fold_in(key, level + 1), template)
            estimate = jax.tree.map(lambda o, e, h: variance * o + (1.0 - variance) * (e + h), own, estimate, left)
            return level + 1, variance, estimate, jax.tree.map(jnp.add, given_up, left)

        leaf = standard_normal(jax.random.fold_in(key, 0), template)
        start = (jnp.int32(0), jnp.float32(1.0), leaf, jax.tree.map(jnp.zeros_like, leaf))
        _, _, estimate, given_up = jax.lax.while_loop(lambda carry: carry[0] < height, merge, start)
        # After the last round of a tree nothing on the stack is read again before it is written.
        stack = jax.tree.map(lambda old, new: old.at[height].set(new, mode="drop"), stack, estimate)
        return jax.tree.map(jnp.subtract, estimate, given_up), stack

    return NoiseStream(init, advance)


def banded_inverse(coefficients: Any, *, num_rounds: int) -> NoiseStream:
    """`C^-1 z` for a banded lower-triangular Toeplitz C whose columns are scaled to norm 1.

    The state is the last b - 1 noises before scaling, in float32, in a ring: round t solves one row of C,
    u_t = (z_t - c_1 u_(t-1) - ... - c_(b-1) u_(t-b+1)) / c_0, and returns u_t times the norm of column t.

    Args:
      coefficients: c, float `[b]`, the diagonal first.
      num_rounds: T, the size of C; its last b - 1 columns are cut off, and scaled more.

    Returns:
      a NoiseStream.

    Source: Choquette-Choo et al. (2023), https://arxiv.org/abs/2306.08153, algorithm 9.
    """
    c = np.asarray(coefficients, np.float64)
    lags = len(c) - 1
    norms = np.sqrt(np.cumsum(np.square(c)))

    def init(template: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: jnp.zeros((lags, *leaf.shape), jnp.float32), template)

    def advance(ring: PyTree, round_number: Any, key: Any, template: PyTree) -> tuple[PyTree, PyTree]:
        white = standard_normal(key, template)
        scale = jnp.asarray(norms, jnp.float32)[jnp.clip(num_rounds - round_number, 1, lags + 1) - 1]
        if not lags:
            return jax.tree.map(lambda z: z * (scale / jnp.float32(c[0])), white), ring
        age = (round_number - 1 - jnp.arange(lags, dtype=jnp.int32)) % lags
        weights = jnp.asarray(c[1:] / c[0], jnp.float32)[age]

        def solve(z: jax.Array, past: jax.Array) -> jax.Array:
            back = jnp.tensordot(weights, past, axes=1, precision=jax.lax.Precision.HIGHEST)
            return z / jnp.float32(c[0]) - back

        solved = jax.tree.map(solve, white, ring)
        ring = jax.tree.map(lambda past, u: past.at[round_number % lags].set(u), ring, solved)
        return jax.tree.map(lambda u: u * scale, solved), ring

    return NoiseStream(init, advance)


def _place(round_number: Any, restart_every: int | None) -> tuple[Any, Any, Any]:
    """The first round of a round's tree, the tree's rounds before this one, and whether this is its last."""
    number = jnp.asarray(round_number, jnp.int32)
    if restart_every is None:
        return jnp.int32(0), number, jnp.bool_(False)
    done = number % restart_every
    return number - done, done, done == restart_every - 1
