"""What a scripted client sends and fetches in pieces; a device does so by `device.work.moving`, which writes a log."""

import hashlib

from fedjaxlite.deploy.device import packing
from fedjaxlite.deploy.device.link import Link, ask, expected
from fedjaxlite.deploy.device.protocol import CHUNK, BadMessage, Message

# A piece of an upload that the server has not kept is sent again so many times.
MOST_STALLS = 8


async def download(link: Link, sha256: str, total: int, *, most: int = 2**32) -> bytes:
    """Fetches what has a hash, piece by piece; after a break it goes on where it was.

    Args:
      link: whom to ask.
      sha256: of the whole, as hex.
      total: its bytes, as the task says.
      most: the most bytes that are taken.

    Returns:
      bytes.

    Raises:
      BadMessage: it is too long, of another length, has another hash, or a piece is not the one that was asked for.
      ServerRefuses: the server does not have it.
      As `ask`, besides.

    Guarantees:
      Memory grows with what has arrived, never with what was announced; what is returned has the hash.
    """
    if total > most:
        raise BadMessage(f"{sha256[:12]}... has {total} bytes; expected at most {most}.")
    found = bytearray()
    while len(found) < total:
        reply = expected(await ask(link, Message("get", {"sha256": sha256, "offset": len(found)})), "chunk")
        place, length = reply.head["offset"], reply.head["total"]
        if (place, length) != (len(found), total):
            raise BadMessage(f"a piece at {place} of {length} bytes; asked for one at {len(found)} of {total}.")
        piece = packing.unpack(reply.body, reply.head["packed"], most=min(CHUNK, total - len(found)))
        if not piece:
            raise BadMessage(f"an empty piece at {place} of {total} bytes.")
        found += piece
    if hashlib.sha256(found).hexdigest() != sha256:
        raise BadMessage(f"{total} bytes whose SHA-256 is not {sha256[:12]}....")
    return bytes(found)


async def upload(link: Link, round: int, attempt: int, data: bytes) -> Message:  # noqa: A002  (the field's name)
    """Sends an update, piece by piece, from where the server has it; after a break it goes on there.

    Args:
      link: to whom.
      round: the round of the task.
      attempt: the attempt of the task.
      data: the update.

    Returns:
      `taken`, or `refused` with its reason.

    Raises:
      BadMessage: the answer is none to an upload, or the server keeps nothing of what is sent.
      As `ask`, besides.
    """
    sha256, try_it = hashlib.sha256(data).hexdigest(), packing.worth_packing(data)
    # What one piece holds is sent at once; of more, perhaps a part is there from before this device was started anew.
    offset, size, stalls = 0, 0 if len(data) > CHUNK else CHUNK, 0
    while stalls < MOST_STALLS:
        packed, body = packing.pack(data[offset : offset + size], try_it=try_it)
        head = {"round": round, "attempt": attempt, "sha256": sha256, "offset": offset, "total": len(data)}
        reply = await ask(link, Message("put", head | {"packed": packed}, body))
        if reply.kind in ("taken", "refused"):
            return reply
        have = expected(reply, "have").head["offset"]
        if have > len(data):
            raise BadMessage(f"the server has {have} bytes of an update of {len(data)}.")
        stalls = 0 if have > offset else stalls + (size > 0)
        offset, size = have, CHUNK
    raise BadMessage(f"the server does not keep what it is sent: it has {offset} of {len(data)} bytes.")
