"""The messages of a round, and their one encoding as bytes.

A message is a header of 20 bytes (b"FS", version, kind, round u64, sender u32, bytes of the body u32) and its fields in
order; see `fields` for those. Whatever is not exactly that is refused with `Malformed`.
"""

import struct
from typing import Any, NamedTuple

from fedjaxlite.privacy.secagg import fields
from fedjaxlite.privacy.secagg.errors import SERVER, Malformed, UnknownClient, party
from fedjaxlite.privacy.secagg.fields import Field, Limits
from fedjaxlite.privacy.secagg.keys import BOX_BYTES, KEY_BYTES, SIGNATURE_BYTES
from fedjaxlite.privacy.secagg.parameters import Parameters
from fedjaxlite.privacy.secagg.shamir import SHARE_BYTES

MAGIC, VERSION = b"FS", 1
HEADER = struct.Struct(">2sBBQII")
# The shares of one client for another, before they are sealed: round, owner, holder, two shares.
SHARES = struct.Struct(f">QII{SHARE_BYTES}s{SHARE_BYTES}s")
SEALED_BYTES = SHARES.size + BOX_BYTES


class Advertise(NamedTuple):
    """Step 0, from a client: its two fresh public keys, signed where the server may lie."""

    round: int
    sender: int
    channel: bytes
    mask: bytes
    signature: bytes = b""


class Roster(NamedTuple):
    """To a client: who is present, the ring's seed, and keys as rows (id, channel, mask, signature).

    The rows are those of the client and its neighbors; all of them where the server may lie.
    """

    round: int
    sender: int
    seed: bytes
    ids: tuple[int, ...]
    rows: tuple[tuple[int, bytes, bytes, bytes], ...]


class Shares(NamedTuple):
    """Step 1, from a client: the commitment to its self seed, and (neighbor, sealed shares) for all its neighbors."""

    round: int
    sender: int
    commitment: bytes
    sealed: tuple[tuple[int, bytes], ...]


class Deliveries(NamedTuple):
    """To a client: (neighbor, sealed shares) from the neighbors that got this far."""

    round: int
    sender: int
    sealed: tuple[tuple[int, bytes], ...]


class MaskedInput(NamedTuple):
    """Step 2, from a client: its vector under all its masks, uint32 `[length]`."""

    round: int
    sender: int
    vector: Any


class Survivors(NamedTuple):
    """To a client, where the server may lie: everybody whose masked input arrived."""

    round: int
    sender: int
    ids: tuple[int, ...]


class Confirm(NamedTuple):
    """Step 3, from a client: its signature on who survived."""

    round: int
    sender: int
    signature: bytes


class UnmaskRequest(NamedTuple):
    """To a client: its neighbors that survived, those that dropped out, and (id, signature) on who survived."""

    round: int
    sender: int
    alive: tuple[int, ...]
    dropped: tuple[int, ...]
    signatures: tuple[tuple[int, bytes], ...] = ()


class Reveal(NamedTuple):
    """Step 4, from a client: (owner, share) of self seeds of survivors, and of mask keys of dropouts."""

    round: int
    sender: int
    self_shares: tuple[tuple[int, int], ...]
    key_shares: tuple[tuple[int, int], ...]


class Abort(NamedTuple):
    """From either side: it leaves the round, whom it blames (`NOBODY` too), and why."""

    round: int
    sender: int
    offender: int
    reason: str


Message = Advertise | Roster | Shares | Deliveries | MaskedInput | Survivors | Confirm | UnmaskRequest | Reveal | Abort

_SHARE = fields.integer(SHARE_BYTES)
_BOX = fields.fixed(SEALED_BYTES)
_KEY = fields.fixed(KEY_BYTES)
_SIGNATURE = fields.fixed(SIGNATURE_BYTES)
_FIELDS: dict[type[Any], tuple[Field, ...]] = {
    Advertise: (_KEY, _KEY, fields.optional(SIGNATURE_BYTES)),
    Roster: (_KEY, fields.names(), fields.entries(_KEY, _KEY, fields.optional(SIGNATURE_BYTES))),
    Shares: (_KEY, fields.entries(_BOX)),
    Deliveries: (fields.entries(_BOX),),
    MaskedInput: (fields.words(),),
    Survivors: (fields.names(),),
    Confirm: (_SIGNATURE,),
    UnmaskRequest: (fields.names(), fields.names(), fields.entries(_SIGNATURE)),
    Reveal: (fields.entries(_SHARE), fields.entries(_SHARE)),
    Abort: (fields.number(), fields.text()),
}
_KINDS = tuple(_FIELDS)
FROM_SERVER = (Roster, Deliveries, Survivors, UnmaskRequest, Abort)
FROM_CLIENT = (Advertise, Shares, MaskedInput, Confirm, Reveal, Abort)


def box_header(parameters: Parameters, round_number: int, sender: int, receiver: int) -> bytes:
    """What sealed shares are bound to: this protocol, its parameters, the round, who sealed them and for whom."""
    return MAGIC + bytes([VERSION]) + parameters.digest() + struct.pack(">QII", round_number, sender, receiver)


def limits(parameters: Parameters) -> Limits:
    """What messages of a round with these parameters may hold."""
    return Limits(parameters.num_clients, parameters.length)


def encode(message: Message) -> bytes:
    """A message as bytes.

    Raises:
      ValueError: a field has a wrong length.

    Example:
      >>> data = encode(Confirm(7, 3, bytes(64)))
      >>> len(data), decode(data, Limits(10, 5))
      (84, Confirm(round=7, sender=3, signature=b'...'))
    """
    body = b"".join(f.write(value) for f, value in zip(_FIELDS[type(message)], message[2:], strict=True))
    return HEADER.pack(MAGIC, VERSION, _KINDS.index(type(message)), message.round, message.sender, len(body)) + body


def decode(data: bytes, limits: Limits) -> Message:
    """The message that bytes stand for.

    Args:
      data: one whole message.
      limits: what it may hold; a count above them is refused before anything is read.

    Returns:
      A message, of which `encode` gives these bytes back.

    Raises:
      Malformed: the bytes are no message of this version, or hold more than the limits allow.

    Example:
      >>> decode(b"garbage", Limits(10, 5))
      Traceback (most recent call last):
      ...
      fedjaxlite.privacy.secagg.errors.Malformed: a message has 7 bytes; expected at least the 20 of its header.
    """
    if len(data) < HEADER.size:
        raise Malformed(f"a message has {len(data)} bytes; expected at least the {HEADER.size} of its header.")
    magic, version, code, round_number, sender, size = HEADER.unpack_from(data)
    if magic != MAGIC or version != VERSION:
        raise Malformed(f"a message starts with {bytes(data[:3]).hex()}; expected version {VERSION} of this protocol.")
    if code >= len(_KINDS):
        raise Malformed(f"a message is of kind {code}; expected one below {len(_KINDS)}.")
    if size != len(data) - HEADER.size:
        raise Malformed(f"a message has a body of {len(data) - HEADER.size} bytes; its header says {size}.")
    kind = _KINDS[code]
    if kind is not Abort and (kind in FROM_SERVER) != (sender == SERVER):
        raise Malformed(f"a message of kind {kind.__name__} came under the name {sender}.")
    at, values = HEADER.size, []
    for field in _FIELDS[kind]:
        value, at = field.read(data, at, limits)
        values.append(value)
    if at != len(data):
        raise Malformed(f"a message has {len(data) - at} bytes left over.")
    return kind(round_number, sender, *values)


def decode_from(name: int, data: bytes, limits: Limits) -> Message:
    """The message in bytes that came over the connection of the client `name`.

    Raises:
      Malformed: see `decode`; names the client.
      UnknownClient: the message says that somebody else sent it; names the client.
    """
    try:
        message = decode(data, limits)
    except Malformed as error:
        raise Malformed(f"{party(name)}: {error}", offender=name) from error
    if message.sender != name:
        raise UnknownClient(f"{party(name)} writes under the name of {party(message.sender)}.", offender=name)
    return message


def longest(kind: type[Any], limits: Limits) -> int:
    """The most bytes that a message of a kind can take: what a reader has to be ready for.

    Example:
      >>> longest(MaskedInput, Limits(10, 5))
      44
    """
    return HEADER.size + sum(f.longest(limits) for f in _FIELDS[kind])
