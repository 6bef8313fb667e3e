"""Bytes between a device and its server: every message told to the ledger, downloads and uploads in bounded pieces.

`Ask` is one question and its answer, whatever carries it. What a server answers out of the protocol's order, or beyond
what was agreed on, is a `ServerMisbehaves`; that it will not is a `ServerRefuses`.
"""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fedjaxlite.deploy.device import packing
from fedjaxlite.deploy.device.home import ledger
from fedjaxlite.deploy.device.home.folder import LOG, Home
from fedjaxlite.deploy.device.link import ServerRefuses
from fedjaxlite.deploy.device.protocol import CHUNK, Message, encode

Ask = Callable[[Message], Awaitable[Message]]
_FRAME = 4  # bytes of a frame's length
_MOST_STALLS = 4
_LEAST_PIECE = 4096  # of a download, but for its last: smaller ones would keep a device awake for nothing


class ServerMisbehaves(Exception):
    """The server answers something that the protocol, or what was agreed on, does not allow."""


def told(ask: Ask, home: Home, clock: Callable[[], float], **facts: Any) -> Ask:
    """An `Ask` that writes down what leaves, before it does.

    Args:
      ask: what carries messages.
      home: the device, whose ledger it is.
      clock: seconds since 1970.
      **facts: what is told of every message beside its own fields.

    Returns:
      an Ask. It raises `ServerRefuses` for the answer `refused`. A connection that broke, as it may while a device
      trains for long, is made anew once and the question asked again.
    """
    log = home.folder / LOG

    async def sent(message: Message) -> Message:
        own = {name: message.head[name] for name in ("round", "attempt", "num_examples") if name in message.head}
        ledger.record(log, clock(), message.kind, own | facts, sent=_FRAME + len(encode(message)))
        return await ask(message)

    async def asked(message: Message) -> Message:
        try:
            reply = await sent(message)
        except (OSError, EOFError, TimeoutError):
            reply = await sent(message)
        if reply.body:
            ledger.record(log, clock(), reply.kind, {}, received=_FRAME + len(encode(reply)))
        if reply.kind == "refused":
            raise ServerRefuses(reply.head["reason"], again=reply.head["again"])
        return reply

    return asked


def of_kind(reply: Message, *kinds: str) -> Message:
    """The answer, where it is of a kind that was expected."""
    if reply.kind not in kinds:
        raise ServerMisbehaves(f"the server answers {reply.kind!r}; expected {' or '.join(map(repr, kinds))}.")
    return reply


async def fetch(ask: Ask, sha256: str, total: int | None, *, most: int) -> bytes:
    """Downloads what has a hash.

    Args:
      ask: see `told`.
      sha256: of the whole, hex.
      total: its bytes, as was agreed on; None takes the server's word, up to `most`.
      most: more than so many are not taken.

    Returns:
      The bytes.

    Raises:
      ServerMisbehaves: another length, another hash, pieces that do not follow one on the other.
      BadMessage: a piece that does not unpack.

    Guarantees:
      Whatever arrives, memory stays below `most` and one piece.
    """
    content = bytearray()
    while total is None or len(content) < total:
        if (total or 0) > most:
            raise ServerMisbehaves(f"a download of {total:,} bytes; expected at most {most:,}.")
        reply = of_kind(await ask(Message("get", {"sha256": sha256, "offset": len(content)}, b"")), "chunk")
        head = reply.head
        total = int(head["total"]) if total is None else total
        if (head["offset"], head["total"]) != (len(content), total):
            raise ServerMisbehaves(
                f"a piece at {head['offset']} of {head['total']} bytes; expected the one at {len(content)} of {total}."
            )
        left = total - len(content)
        piece = packing.unpack(reply.body, head["packed"], most=min(CHUNK, left))
        if len(piece) < min(_LEAST_PIECE, left):
            raise ServerMisbehaves(f"a piece of {len(piece)} bytes, with {left} to come.")
        content += piece
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ServerMisbehaves(f"a download with the sha256 {found}; expected {sha256}.")
    return bytes(content)


async def upload(
    ask: Ask,
    manifest: Mapping[str, Any],
    message: bytes,
    *,
    round_number: int,
    attempt: int,
    resume: bool = False,
) -> None:
    """Sends an update in the clear, in pieces; goes on where the server's copy ends.

    Args:
      ask: see `told`.
      manifest: of the program that made it.
      message: the update.
      round_number: its round.
      attempt: which try of the round.
      resume: whether a part of it may be there already, which is then asked for first.

    Raises:
      AssertionError: the program's updates leave in a secure sum only. It is a bug of the caller; nothing is sent.
      ServerRefuses: the server does not take it.
      ServerMisbehaves: the server's copy does not grow.
    """
    if manifest["masked"]:
        raise AssertionError("an update of a masked run was about to be sent in the clear.")
    digest, offset = hashlib.sha256(message).hexdigest(), 0
    ask_first = resume
    # A server whose copy does not grow, or grows and shrinks, would have a device send for ever.
    for _ in range(2 * len(message) // CHUNK + _MOST_STALLS):
        piece = b"" if ask_first else message[offset : offset + CHUNK]
        packed, body = packing.pack(piece)
        head = {
            "round": round_number,
            "attempt": attempt,
            "sha256": digest,
            "offset": offset,
            "total": len(message),
            "packed": packed,
        }
        reply = of_kind(await ask(Message("put", head, body)), "have", "taken")
        if reply.kind == "taken":
            if reply.head["round"] != round_number:
                raise ServerMisbehaves(f"the server took an update of round {reply.head['round']}, not {round_number}.")
            return
        there = reply.head["offset"]
        if not 0 <= there <= len(message):
            raise ServerMisbehaves(f"the server has {there} bytes of an update of {len(message)}.")
        ask_first, offset = False, there
    raise ServerMisbehaves(f"the server's copy of the update stays at {offset} of {len(message)} bytes.")
