"""PowerSGD in one pass: a matrix is sent in the bases of rank r that the server kept of the last round.

    bases    P [m, r] and Q [n, r], orthonormal, in the server's state
    encode   A = (I - P P') M Q        B = M' P                                r (m + n) numbers
    decode   A Q' + P B'   of the sum   =   M - (I - P P') M (I - Q Q')
    then     P = orth(M Q) = orth(A + P B' Q)       Q = orth(M' P) = orth(B)   of the sum

The paper's step takes two sums in a row, P = orth(sum M Q) and then Q = sum M' P, and a round has one. Taking turns,
one side a round, would pad messages to the longer side. Here both sides are sent at once: the same r (m + n) numbers as
in the paper's step. What is decoded is the projection of M on the tangent space of matrices of rank r at P, Q, which is
linear in M. What is lost is what both bases miss, a product of two errors where one base alone would leave one; that
the bases are a round old is the price. They are warm started by a step of the power method on each side, so that a
matrix of rank r that stays is decoded exactly from the second round on.

Source: Vogels, Karimireddy, Jaggi (2019), "PowerSGD: Practical Low-Rank Gradient Compression for Distributed
Optimization", https://arxiv.org/abs/1905.13727, algorithm 1; the one-pass form is ours.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Aggregator, Bounds, ClientInfo, Message, Wire
from fedjaxlite.wire.clips import needs_floats
from fedjaxlite.wire.packing.forms import Form, form_of, from_leaves, num_bytes, to_leaves


class Bases(NamedTuple):
    """The bases of a leaf, which the server keeps and a client downloads.

    Attributes:
      left: P, float32 `[m, r]`, orthonormal columns.
      right: Q, float32 `[n, r]`.
    """

    left: jax.Array
    right: jax.Array


class Factors(NamedTuple):
    """What is sent of a leaf, in the place of the leaf.

    Attributes:
      left: A, float32 `[m, r]`.
      right: B, float32 `[n, r]`.
    """

    left: jax.Array
    right: jax.Array


class _State(NamedTuple):
    """The bases of all leaves.

    Attributes:
      bases: a Bases for each leaf, None for one that is sent as it is.
      form: static, the update's structure.
    """

    bases: tuple[Bases | None, ...]
    form: Form


def power_sgd(*, rank: int) -> Aggregator:
    """Sends matrices in bases of low rank, which follow the sum of the clients' updates from round to round.

    A leaf of more than two axes is a matrix of all axes but the last by the last. Leaves with fewer axes, and those of
    which r (m + n) numbers would be no saving, are sent as they are.

    Args:
      rank: r.

    Returns:
      an Aggregator that survives a sum. A message holds r (m + n) float32 of a matrix; a client downloads the bases, as
      many again. Best behind error feedback, which sends in later rounds what the bases missed.

    Raises:
      ValueError, TypeError: if `rank` is no int of at least 1; when built, if no leaf would be smaller, if values are
        integers already, or behind a mechanism of privacy.

    Guarantees:
      Decoding a sum is the sum of decoding each message. What is decoded is an orthogonal projection of the update, and
      what is sent are its coordinates: the L2 norm does not grow, and after quantization or noise no error grows in
      decoding. A sum of zero leaves the bases as they are. Bases are kept where the codec decodes sums; behind a codec
      whose messages are read apart (`Aggregator.sum_safe` is False) they stay those of the beginning.
      Clients download bases that follow the sum. So noise stands behind this codec, where it covers what is sent, and
      the bases too.

    Source: Vogels, Karimireddy, Jaggi (2019), https://arxiv.org/abs/1905.13727, algorithm 1.

    Example:
      >>> import fedjaxlite as fl
      >>> update = {"b": jnp.zeros(10), "w": jnp.zeros((50, 10))}
      >>> end = fl.chain(fl.mean(), power_sgd(rank=2)).init(fl.wire_of(update, capacity=10))[1]
      >>> end.value["w"].left.shape, end.value["w"].right.shape, end.value["b"].shape, end.overhead
      ((50, 2), (10, 2), (10,), (0, 480))
    """
    rank = checks.positive_int(rank=rank)

    def init(wire: Wire) -> tuple[_State, Wire]:
        needs_floats("power_sgd", wire)
        if wire.noised:
            raise ValueError(
                "`power_sgd` stands behind a mechanism of privacy, whose noise is added to what it has decoded: the "
                "bases that clients download would follow the sum without noise. Put `power_sgd` before the mechanism, "
                "which then covers what is sent, and so the bases."
            )
        form = form_of(wire)
        bases = tuple(_first_bases(i, matrix_of(shape), rank) for i, shape in enumerate(form.shapes))
        if not any(bases):
            raise ValueError(
                f"`rank` is {rank}, and no leaf of the update has fewer numbers in such bases (shapes {form.shapes}); "
                "expected a matrix of m by n with r (m + n) < m n. Lower the rank, or leave the codec out."
            )
        leaves = form.tree.flatten_up_to(wire.value)
        structs = [
            leaf if own is None else jax.eval_shape(lambda own: Factors(*own), own)
            for leaf, own in zip(leaves, bases, strict=True)
        ]
        state = _State(bases, form)
        told = wire._replace(value=form.tree.unflatten(structs), codes=())
        return state, told._replace(bounds=prepare(state, wire.bounds)[1])

    def prepare(state: _State, bounds: Bounds) -> tuple[_State, Bounds]:
        # A turn into other bases keeps the L2 norm alone, which bounds entries too.
        l2 = bounds.l2 if bounds.l2 is not None else bounds.l1
        if l2 is None and bounds.linf is not None:
            l2 = bounds.linf * math.sqrt(sum(state.form.sizes))
        return state, Bounds(l2, l2)

    def encode(state: _State, client_state: Any, message: Message, client: ClientInfo) -> tuple[Message, Any]:
        del client
        leaves, vectors = state.form.tree.flatten_up_to(message.value), to_leaves(state.form, message.value)
        pairs = zip(leaves, vectors, state.bases, strict=True)
        sent = [leaf if own is None else factors(_as_matrix(vector, own), own) for leaf, vector, own in pairs]
        return message._replace(value=state.form.tree.unflatten(sent)), client_state

    def read(state: _State, message: Message, client: ClientInfo) -> Message:
        del state, client
        return message  # sums of what is sent are all that is needed

    def decode(state: _State, total: Message, key: Any) -> tuple[Message, _State]:
        del key
        pairs = list(zip(state.form.tree.flatten_up_to(total.value), state.bases, strict=True))
        leaves = [sent if own is None else product(sent, own) for sent, own in pairs]
        bases = tuple(None if own is None else next_bases(sent, own) for sent, own in pairs)
        return total._replace(value=from_leaves(state.form, leaves)), state._replace(bases=bases)

    def overhead(state: _State, capacity: int) -> tuple[int, int]:
        del capacity
        return 0, num_bytes(state.bases)

    return Aggregator(
        *(init, encode, decode),
        prepare=prepare,
        name="power_sgd",
        hparams={"rank": rank},
        read=read,
        overhead=overhead,
    )


def factors(matrix: jax.Array, bases: Bases) -> Factors:
    """What is sent of a matrix `[m, n]`: its coordinates in the tangent space at the bases."""
    return Factors(_beside(_times(matrix, bases.right), bases), _times(matrix.T, bases.left))


def product(sent: Factors, bases: Bases) -> jax.Array:
    """The matrix `[m, n]` that factors are the coordinates of; linear, and no longer than they are.

    A has no part along P when it is sent, but what noise or rounding add to it has, which is left out.
    """
    return _times(_beside(sent.left, bases), bases.right.T) + _times(bases.left, sent.right.T)


def next_bases(sent: Factors, bases: Bases) -> Bases:
    """A step of the power method on each side: orth(M Q) and orth(M' P); as they were where M is zero."""
    along = _beside(sent.left, bases) + _times(bases.left, _times(sent.right.T, bases.right))
    found = Bases(jnp.linalg.qr(along)[0], jnp.linalg.qr(sent.right)[0])
    moved = jnp.any(along != 0) & jnp.any(sent.right != 0)
    return jax.tree.map(lambda new, old: jnp.where(moved, new, old), found, bases)


def matrix_of(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """The matrix that a leaf of this shape is taken for, None for less than two axes.

    Example:
      >>> matrix_of((3, 3, 16, 32)), matrix_of((10,))
      ((144, 32), None)
    """
    return None if len(shape) < 2 else (math.prod(shape[:-1]), shape[-1])


def _first_bases(leaf: int, matrix: tuple[int, int] | None, rank: int) -> Bases | None:
    if matrix is None or rank * sum(matrix) >= math.prod(matrix):
        return None
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), leaf))
    drawn = [jax.random.normal(key, (n, rank), jnp.float32) for key, n in zip(keys, matrix, strict=True)]
    return Bases(*(jnp.linalg.qr(each)[0] for each in drawn))


def _beside(columns: jax.Array, bases: Bases) -> jax.Array:
    """(I - P P') times columns `[m, r]`."""
    return columns - _times(bases.left, _times(bases.left.T, columns))


def _as_matrix(vector: jax.Array, bases: Bases) -> jax.Array:
    return vector.reshape(bases.left.shape[0], bases.right.shape[0])


def _times(a: jax.Array, b: jax.Array) -> jax.Array:
    # On accelerators float32 products are narrower by default, and the bases would not stay orthonormal.
    return jnp.dot(a, b, precision="highest")
