"""Error feedback at the clients: what a codec left out of one message comes into the next one.

    ef14        c = C(x + e)                    e <- x + e - c                  server: mean of c
    ef21        c = C(x - g)                    g <- g + c                      server: G <- G + sum of c, mean of all g
    ef21_sgdm   v <- (1 - a) v + a x            c = C(v - g),  g <- g + c       likewise
    dasha       c = C(x - h - a (g - h))        g <- g + c,    h <- x           likewise

C is any row of codecs. A state changes with the round in which the message came into the sum, and only then: a client
that is cut off after encoding keeps the state that it had, since the server does not have what it sent either.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.wire import row
from fedjaxlite.wire.aggregator import Aggregator, Bounds, ClientInfo, Message, Wire
from fedjaxlite.wire.clips import needs_floats
from fedjaxlite.wire.compression.feedback import inside

PyTree = Any
KINDS = ("ef14", "ef21", "ef21_sgdm", "dasha")


class Memory(NamedTuple):
    """What the server keeps of feedback.

    Attributes:
      inner: the states of the codecs inside.
      total: pytree like the update, the sum of all clients' g; `()` under ef14.
      share: float32 scalar, what the total is multiplied by so that the mean at the head gives the mean over all
        clients where it divides by one: 1 / N, or `over` / N.
    """

    inner: tuple[Any, ...]
    total: PyTree
    share: Any


class Tracked(NamedTuple):
    """What a client keeps.

    Attributes:
      sent: pytree like the update: g, what the server has of this client. Under ef14: e, what it does not have.
      own: pytree likewise: v of ef21_sgdm, h of dasha; else `()`.
      begun: float32 scalar, 1 after the first round; `()` where nobody asks.
    """

    sent: PyTree
    own: PyTree = ()
    begun: Any = ()


def error_feedback(*codecs: Aggregator, kind: str = "ef14", momentum: float | None = None) -> Aggregator:
    """Remembers at each client what the codecs inside left out, so that biased codecs lose nothing in the long run.

    Args:
      *codecs: what compresses, in a row: `top_k(fraction=0.01)`, or `clip_by_global_norm(1.0), quantize(bits=8)`,
        whose clip then delays what it cuts off instead of losing it.
      kind: "ef14" sends the update and the rest of the earlier ones. "ef21" sends how the update differs from what the
        server has of this client, and the server's mean is over *all* clients, those too that are not in the round: for
        updates that settle, such as gradients. "ef21_sgdm" does so with a moving average of updates, for noisy ones.
        "dasha" is for unbiased codecs: `rand_k`, `qsgd`.
      momentum: a in the formulas, in (0, 1]; of "ef21_sgdm" (0.1 if None) and "dasha", where it is 1 / (2 w + 1) for a
        codec of variance w |x|^2 and has to be given.

    Returns:
      an Aggregator. It survives a sum if all codecs inside do.

    Raises:
      ValueError, TypeError: for no codec, codecs that keep a state themselves or work on sums alone, an unknown kind, a
        momentum outside of (0, 1] or where none is used. When built, for all kinds but ef14: behind a mean that gives
        clients different weights, since the server's sum holds clients that are not there to be weighed; without a
        number of clients; behind a mechanism of privacy; before a stack.

    Guarantees:
      ef14: what reached the server and what clients still keep add up to all updates of the rounds in which they
      reported. The others: the server's sum is the sum of what clients keep. Both hold under partial participation and
      dropouts, up to rounding, and a run that was stopped goes on bit for bit. The bounds of what one client adds are
      those of the codecs inside under ef14 (a clip inside bounds it); the others have none, so noise is refused.
      A secure sum that was refused, for too few clients, is lost: clients count what was in it as sent.

    Source: Seide et al. (2014), "1-Bit Stochastic Gradient Descent"; Karimireddy et al. (2019),
    https://arxiv.org/abs/1901.09847, algorithm 2. Richtarik, Sokolov, Fatkhullin (2021),
    https://arxiv.org/abs/2106.05203, algorithm 2. Fatkhullin, Tyurin, Richtarik (2023),
    https://arxiv.org/abs/2305.15155, algorithm 1. Tyurin, Richtarik (2022), https://arxiv.org/abs/2202.01268,
    algorithm 1 with full gradients. Local updates and partial participation: Li, Li (2022),
    https://arxiv.org/abs/2211.14292.

    Example:
      >>> import fedjaxlite as fl
      >>> fl.chain(fl.mean(), error_feedback(fl.clip_by_value(1.0), fl.quantize(bits=2))).name
      'chain(mean, error_feedback(clip_by_value, quantize))'
    """
    inner = inside.checked("error_feedback", codecs)
    kind = checks.one_of(KINDS, kind=kind)
    rate = _rate(kind, momentum)
    sum_safe = all(codec.sum_safe for codec in inner)

    def init(wire: Wire) -> tuple[Memory, Wire]:
        needs_floats("error_feedback", wire)
        update, before = wire.value, wire
        states, wire = row.init_all(inner, wire._replace(bounds=Bounds()))
        if kind == "ef14":
            return Memory(states, (), ()), wire
        if before.noised:
            raise ValueError(
                f"`error_feedback(kind={kind!r})` stands behind a mechanism of privacy, whose noise is made for what "
                'clients send in one round; what this decodes is a sum over all rounds. Use kind="ef14" with a clip '
                "inside, fl.clip_by_global_norm(...) as its first codec."
            )
        if before.stack_ahead:
            raise ValueError(
                f"`error_feedback(kind={kind!r})` keeps the sum of what all clients sent at the server, and what "
                'follows needs every message apart. Use kind="ef14", or leave one of them out.'
            )
        share = _share(kind, before)
        return Memory(states, _zeros(update), jnp.float32(share)), wire._replace(bounds=Bounds())

    def prepare(state: Memory, bounds: Bounds) -> tuple[Memory, Bounds]:
        del bounds
        states, bounds = row.prepare_all(inner, state.inner, Bounds())
        return state._replace(inner=states), bounds if kind == "ef14" else Bounds()

    def begin(state: Memory, cohort: Any, key: Any) -> Memory:
        return state._replace(inner=row.begin_all(inner, state.inner, cohort, key))

    def encode(state: Memory, own: Tracked, message: Message, client: ClientInfo) -> tuple[Message, Tracked]:
        x = jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(jnp.float32), message.value)
        goal, told = _goal(kind, rate, own, x)
        sent = row.encode_all(inner, state.inner, message._replace(value=goal), client)
        read = row.read_all(inner, state.inner, sent, client).value
        kept = _minus(goal, read) if kind == "ef14" else jax.tree.map(jnp.add, own.sent, read)
        return sent, told._replace(sent=kept)

    def read(state: Memory, message: Message, client: ClientInfo) -> Message:
        undo = row.unpack_last if sum_safe else row.read_all
        return undo(inner, state.inner, message, client)

    def decode(state: Memory, total: Any, key: Any) -> tuple[Any, Memory]:
        del key
        if sum_safe:
            total, states = row.decode_all(inner, state.inner, total)
            state = state._replace(inner=states)
        if kind == "ef14":
            return total, state
        everyone = jax.tree.map(jnp.add, state.total, total.value)
        weight = jax.tree.leaves(total.weight)[0].astype(jnp.float32)
        value = jax.tree.map(lambda leaf: leaf * state.share * weight, everyone)
        return total._replace(value=value), state._replace(total=everyone)

    return Aggregator(
        init=init,
        encode=encode,
        decode=decode,
        init_client=lambda template: _first(kind, template),
        prepare=prepare,
        begin=begin,
        public_seed=True,
        read=read,
        sum_safe=sum_safe,
        overhead=lambda state, capacity: row.overhead_of_all(inner, state.inner, capacity),
        name=f"error_feedback({', '.join(codec.name for codec in inner)})",
        hparams={"kind": kind, "momentum": rate, **{codec.name: codec.hparams for codec in inner}},
    )


def _goal(kind: str, rate: Any, own: Tracked, x: PyTree) -> tuple[PyTree, Tracked]:
    """What the codecs inside are given, and what the client keeps beside `sent`."""
    if kind == "ef14":
        return jax.tree.map(jnp.add, x, own.sent), own
    if kind == "ef21":
        return _minus(x, own.sent), own
    if kind == "ef21_sgdm":
        # The average begins with the first update, not with zero.
        part = jnp.where(own.begun > 0, jnp.float32(rate), 1.0)
        average = jax.tree.map(lambda v, new: v + part * (new - v), own.own, x)
        return _minus(average, own.sent), own._replace(own=average, begun=jnp.float32(1))
    goal = jax.tree.map(lambda new, h, g: new - h - rate * (g - h), x, own.own, own.sent)
    return goal, own._replace(own=x)


def _first(kind: str, template: PyTree) -> Tracked:
    zeros = _zeros(template)
    if kind in ("ef14", "ef21"):
        return Tracked(zeros)
    return Tracked(zeros, _zeros(template), jnp.float32(0) if kind == "ef21_sgdm" else ())


def _zeros(template: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), template)


def _minus(a: PyTree, b: PyTree) -> PyTree:
    return jax.tree.map(jnp.subtract, a, b)


def _rate(kind: str, momentum: Any) -> Any:
    takes: dict[str, Callable[[], Any]] = {"ef21_sgdm": lambda: 0.1, "dasha": lambda: None}
    if kind not in takes:
        if momentum is not None:
            raise ValueError(f"`momentum` is {momentum!r} under kind={kind!r}, which has none. Leave it out.")
        return None
    momentum = takes[kind]() if momentum is None else momentum
    if momentum is None:
        raise ValueError(
            '`momentum` is None under kind="dasha"; expected 1 / (2 w + 1) for a codec of variance w |x|^2: for rand_k '
            "of k of d entries w is d / k - 1."
        )
    momentum = checks.positive(momentum=momentum)
    if not checks.is_traced(momentum) and momentum > 1:
        raise ValueError(f"`momentum` is {momentum!r}; expected a number above 0 and at most 1.")
    return momentum


def _share(kind: str, wire: Wire) -> Any:
    one = len(jax.tree.leaves(wire.weight)) == 1 and wire.weight_cap == 1 and not wire.scaled
    if not one or wire.num_clients is None:
        missing = "every client to weigh 1" if not one else "the number of clients"
        raise ValueError(
            f"`error_feedback(kind={kind!r})` needs {missing}: the server's mean is over all clients, those too that "
            'are not in the round. Use fl.mean() with a sampler that scales no weights, in rounds; or kind="ef14".'
        )
    return (1.0 if wire.denominator is None else wire.denominator) / wire.num_clients
