"""The protocol of a codec: what it is told of the wire, what it sees of a client, and the sum it stands around."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

PyTree = Any


class Message(NamedTuple):
    """What a client sends. Codecs transform `value`; weight and scalars travel beside it.

    Attributes:
      value: pytree; `ClientOutput.update` when it enters the chain.
      weight: scalar, or a tree prefix of `value`.
      scalars: dict of scalars.
      aside: what a codec sends beside its value and no later codec may change (norms, indices): `()`, or whatever a
        codec's `encode` puts there, and finds there again in `read`. A chain keeps one for each of its codecs.
    """

    value: PyTree
    weight: Any
    scalars: Mapping[str, Any]
    aside: PyTree = ()


class ClientInfo(NamedTuple):
    """What a codec may know of the client it encodes for.

    Attributes:
      id: int32 scalar, index in the population.
      weight: float32 scalar that a sampler gives (importance sampling); 1 otherwise, 0 for a client whose update is
        not finite.
      key: the client's key for encoding in this round.
      alive: bool scalar; False for a lane without a client, whose element is replaced by zero afterwards.
      slot: int32 scalar, the client's place in the cohort. Only masks, which cancel, may depend on it.
      noise: a key for noise that protects the client, a function of the run's noise key, the round and the id; None
        where there is no run.
    """

    id: Any
    weight: Any
    key: Any
    alive: Any
    slot: Any = 0
    noise: Any = None


class Bounds(NamedTuple):
    """What is known of the size of a client's `value`, this round.

    Attributes:
      l2: bound on the L2 norm over all leaves, a number or scalar array, or None if there is none.
      linf: bound on every entry, likewise.
      l1: bound on the sum of absolute values over all leaves, likewise.
    """

    l2: Any = None
    linf: Any = None
    l1: Any = None


class Code(NamedTuple):
    """How many bits a leaf of a message holds: what an entropy is measured against.

    Attributes:
      bits: int, of one symbol.
      entries: int, how many symbols are packed in the leaf, by `packing.bits.pack`.
      ideal: the bits that an ideal code of the whole leaf would take, where they follow from its shape alone (a set of
        k of d indices: log2 of d over k); None where they depend on the symbols.
    """

    bits: int
    entries: int
    ideal: float | None = None


class Wire(NamedTuple):
    """What a chain knows about the messages on their way: shapes and facts, known when the chain is built.

    `fl.wire_of` makes the one at the head of a chain; `chain.init` returns the one at its end.

    Attributes:
      value: pytree of `jax.ShapeDtypeStruct`.
      weight: scalar struct, or a tree prefix of `value` with scalar structs.
      scalars: dict of scalar structs.
      scalar_bounds: the largest absolute value of each scalar that declares one.
      capacity: int, the most clients in one sum.
      scaled: whether the sampler changes weights (importance sampling), so that they are not integers.
      group: "float", or "mod32" for integers mod 2^32 in uint32.
      weight_cap: int, the largest weight of one client, or None if unknown.
      denominator: what a mean divides by: None for the weights' own sum, or a fixed number.
      bits: bits per entry on the wire, or None for the dtype's own.
      bounds: this chain's bounds when it starts.
      headed: a mean stood at the head.
      noised, masked: a mechanism added noise; a mask hides single messages.
      mechanisms: what the mechanisms say of their noise, for accountants; the engine does not look into them.
      num_clients: int, N, or None if unknown.
      participation: the sampler's `Accounting`, or None for a sum that no sampler draws.
      fold: "sum", or "stack" when a codec needs every message apart.
      apart: the name of the first codec whose messages are decoded one by one, since the sum of its codes is not the
        code of a sum; None where sums are all that is decoded.
      mask_ahead: a mask follows in the chain, so integers stay whole words; set by the chain.
      stack_ahead: what follows needs every message apart, so nothing is summed at the server; set by the chain.
      aside: structs of what travels beside `value`, one entry for each codec.
      codes: a `Code` for each leaf of `value`, in their order; None for a leaf of plain numbers. Empty: all plain.
      aside_saved: bytes that an ideal code of what is sent beside would save, where that follows from shapes (a set of
        k of d indices); they count for the entropy alone.
      head: the structs of a client's update, weight and scalars, as they enter the chain; None before a chain.
      overhead: `(up, down)`, bytes of one client in one round beside its message and the model; see
        `Aggregator.overhead`.

    One client who weighs 1 changes the sum by at most `bounds.l2`, as it stands at the end of the chain.
    """

    value: PyTree
    weight: Any
    scalars: Mapping[str, Any]
    scalar_bounds: Mapping[str, float]
    capacity: int
    scaled: bool = False
    group: str = "float"
    weight_cap: int | None = None
    denominator: Any = None
    bits: int | None = None
    bounds: Bounds = Bounds()
    headed: bool = False
    noised: bool = False
    masked: bool = False
    mechanisms: tuple[Any, ...] = ()
    num_clients: int | None = None
    participation: Any = None
    fold: str = "sum"
    apart: str | None = None
    mask_ahead: bool = False
    stack_ahead: bool = False
    aside: PyTree = ()
    codes: tuple[Code | None, ...] = ()
    aside_saved: float = 0.0
    head: Message | None = None
    overhead: tuple[int, int] = (0, 0)


class Stacked(NamedTuple):
    """The total of a chain that folds by stacking: K clients' messages in cohort order.

    Attributes:
      message: a Message with leading axis `[K]` on every leaf; zeros where no client is.
      present: bool `[K]`.
    """

    message: Message
    present: Any


def _stateless(wire: Wire) -> tuple[Any, Wire]:
    return (), wire


def _no_client_state(template: Any) -> Any:
    del template
    return ()


def _keep(state: Any, client_state: Any, message: Message, client: ClientInfo) -> tuple[Message, Any]:
    del state, client
    return message, client_state


def _return(state: Any, total: Any, key: Any) -> tuple[Any, Any]:
    del key
    return total, state


def _as_sent(state: Any, message: Message, client: ClientInfo) -> Message:
    del state, client
    return message


def _same_bounds(state: Any, bounds: Bounds) -> tuple[Any, Bounds]:
    return state, bounds


def _begin_nothing(state: Any, cohort: Any, key: Any) -> Any:
    del cohort, key
    return state


def _tell_nothing(state: Any) -> Mapping[str, Any]:
    del state
    return {}


NO_CLIENT_STATE, KEEP_TOTAL, AS_SENT = _no_client_state, _return, _as_sent
"""What a codec without a state at clients, without a part in decoding, and without one in reading has there."""


def _tell_nothing_of(state: Any, message: Message) -> Mapping[str, Any]:
    del state, message
    return {}


def _nothing_beside(state: Any, capacity: int) -> tuple[int, int]:
    del state, capacity
    return 0, 0


class Aggregator(NamedTuple):
    """A codec: pure functions, of which `encode` runs on the client and the others on the server.

        client   encode     its message, as it crosses the wire
        server   read       of one message: what is summed
                 decode     of the sum

    Attributes:
      init: `init(wire) -> (state, wire)`, once, when the rounds are built; refuses wires that it cannot take.
      encode: `encode(state, client_state, message, client) -> (message, client_state)`, vmapped over clients. Never
        sees a value that depends on the rest of the cohort.
      read: `read(state, message, client) -> message`, what the server makes of one client's message before the sum;
        the default sums what was sent. A codec that packs integers unpacks them here. One with `sum_safe=False`
        undoes its encode altogether. `client` has no key: of a client, the server knows its id.
      decode: `decode(state, total, key) -> (total, state)`, once a round; in a chain from the last codec to the first.
        Linear in the total, since the total is a weighted sum. The state it returns has the structure of init's.
      init_client: `init_client(value_template) -> client_state`, what the codec keeps at each client (error feedback).
      prepare: `prepare(state, bounds) -> (state, bounds)`, before encoding and decoding: how this round's bounds change
        on the way down the chain, and a chance to take them over (a quantizer's range under an adaptive clip).
      role: "mean" (stands first, sets weights, divides last), "value", "rows" (changes all messages of a round
        at once), "stack" (a rule, last), "mask" (last), or "chain".
      name: for messages and records.
      parts: a chain's codecs.
      hparams: for printing and for the record of a run.
      begin: `begin(state, cohort, key) -> state`, once a round on the server before anyone encodes; what it returns is
        the state that this round's prepare, encode and decode see, of any structure. Only masks, and what works on
        all messages at once, may use the cohort.
        A chain's takes a fourth argument, the `public_key` of codecs that ask for one; by default it is `key`.
      metrics: `metrics(state) -> {name: scalar}`, what the codec tells of itself after a round (an adaptive clip norm);
        a real server sees it too.
      public_count: the number of clients that an algorithm is told of instead of those in the sum; set by a mean with a
        fixed denominator, so that nothing the server does depends on a count that it should not know.
      num_rounds: how many rounds the codec is made for, or None for any number (noise planned for a whole run).
      sum_safe: whether decoding a sum gives the sum of what decoding each message gives. Only then can the codec work
        behind a mask, or before noise on a sum. If not, `read` decodes each message, and `decode`
        gets the sum of what it made of them.
      overhead: `overhead(state, capacity) -> (up, down)`, bytes of one client in one round beside its message and the
        model: what it downloads to encode (a shared seed, a basis), the keys and shares of a secure sum. From shapes
        alone; `state` is the codec's, before or after `begin`.
      public_seed: whether `begin` draws what everyone may know, a seed that clients and server share. In a run its key
        then follows from the run's `key`, so that a run repeats whose noise or masks come from the operating system.
      tell: `tell(state, message) -> {name: scalar}`, what is measured of one client's message as it is sent, for
        `PassInfo.clients`. Simulation only.
    """

    init: Callable[[Wire], tuple[Any, Wire]] = _stateless
    encode: Callable[[Any, Any, Message, ClientInfo], tuple[Message, Any]] = _keep
    decode: Callable[[Any, Any, Any], tuple[Any, Any]] = _return
    init_client: Callable[[Any], Any] = _no_client_state
    prepare: Callable[[Any, Bounds], tuple[Any, Bounds]] = _same_bounds
    role: str = "value"
    name: str = "codec"
    parts: tuple["Aggregator", ...] = ()
    hparams: Mapping[str, Any] = {}
    begin: Callable[..., Any] = _begin_nothing
    metrics: Callable[[Any], Mapping[str, Any]] = _tell_nothing
    public_count: Any = None
    num_rounds: int | None = None
    read: Callable[[Any, Message, ClientInfo], Message] = _as_sent
    sum_safe: bool = True
    overhead: Callable[[Any, int], tuple[int, int]] = _nothing_beside
    public_seed: bool = False
    tell: Callable[[Any, Message], Mapping[str, Any]] = _tell_nothing_of
