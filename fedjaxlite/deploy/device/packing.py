"""Pieces of what is large, packed by zlib where that saves something; unpacked into bounded memory."""

import zlib

from fedjaxlite.deploy.device.protocol import CHUNK, BadMessage

# A piece is packed where it gets smaller than this part of itself: unpacking costs the other side time.
WORTH = 0.97
_SAMPLE = 2**16


def worth_packing(data: bytes) -> bool:
    """Whether zlib makes some bytes smaller, judged by three samples of 64 KiB.

    Example:
      >>> import os
      >>> worth_packing(bytes(1000)), worth_packing(os.urandom(1000)), worth_packing(b"")
      (True, False, False)
    """
    last = max(0, len(data) - _SAMPLE)
    samples = [data[at : at + _SAMPLE] for at in sorted({0, last // 2, last})]
    return sum(len(zlib.compress(s, 1)) for s in samples) < WORTH * sum(map(len, samples))


def pack(piece: bytes, *, try_it: bool = True) -> tuple[str, bytes]:
    """A piece as it is sent.

    Args:
      piece: at most CHUNK bytes.
      try_it: whether packing is tried at all; see `worth_packing`.

    Returns:
      ("raw" or "zlib", the bytes), never longer than the piece.
    """
    packed = zlib.compress(piece, 1) if try_it else piece
    return ("zlib", packed) if len(packed) < WORTH * len(piece) else ("raw", piece)


def unpack(body: bytes, packed: str, *, most: int = CHUNK) -> bytes:
    """A piece as it was before `pack`.

    Args:
      body: what arrived.
      packed: "raw" or "zlib".
      most: the most bytes that it may become.

    Returns:
      bytes.

    Raises:
      BadMessage: it is longer, or does not unpack, or something is behind it.

    Guarantees:
      Never makes more than `most` + 1 bytes, whatever the packed ones say.

    Example:
      >>> unpack(pack(bytes(1000))[1], "zlib") == bytes(1000)
      True
    """
    if packed == "raw":
        piece = body
    else:
        unpacker = zlib.decompressobj()
        try:
            piece = unpacker.decompress(body, most + 1)
        except zlib.error:
            raise BadMessage("a piece that does not unpack.") from None
        if len(piece) <= most and (not unpacker.eof or unpacker.unused_data):
            raise BadMessage("a packed piece that is cut off, or with something behind it.")
    if len(piece) > most:
        raise BadMessage(f"a piece of more than {most} bytes.")
    return piece
