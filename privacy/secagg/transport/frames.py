"""Frames: a length of four bytes, big-endian, and that many bytes; bounded in size and time."""

import asyncio
import contextlib
import ssl
import struct
from typing import NamedTuple

from fedjaxlite.privacy.secagg.errors import Malformed

_LENGTH = struct.Struct(">I")


class Timeouts(NamedTuple):
    """How long anything is waited for, in seconds.

    Attributes:
      connect: for a connection and its handshake.
      stage: at the server, for the clients' messages of one stage; who is later has dropped out.
      frame: for the rest of a frame whose length has arrived, and for one to be written.
      patience: at a client, for the server's next message: longer than a stage.
    """

    connect: float = 20.0
    stage: float = 60.0
    frame: float = 30.0
    patience: float = 180.0


async def read_frame(reader: asyncio.StreamReader, *, longest: int, seconds: float) -> bytes:
    """The next frame.

    Args:
      reader: where from.
      longest: the most bytes that are taken; a longer frame is refused by its length, before any memory goes to it.
      seconds: how long its bytes may take once the length is there; the length itself is waited for without end.

    Returns:
      The bytes of the frame.

    Raises:
      Malformed: the frame is longer; the stream is of no use afterwards.
      EOFError: the other side is gone, perhaps in the middle of a frame.
      TimeoutError: the frame did not arrive in time.
    """
    (size,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if size > longest:
        raise Malformed(f"a frame of {size} bytes; expected at most {longest}.")
    async with asyncio.timeout(seconds):
        return await reader.readexactly(size)


async def write_frame(writer: asyncio.StreamWriter, data: bytes, *, seconds: float) -> None:
    """Writes a frame and waits until it is on its way.

    Raises:
      OSError: the other side is gone.
      TimeoutError: it does not take the bytes.
    """
    writer.write(_LENGTH.pack(len(data)) + data)
    async with asyncio.timeout(seconds):
        await writer.drain()


async def hang_up(writer: asyncio.StreamWriter, *, seconds: float = 2.0) -> None:
    """Closes a connection, whatever state it is in."""
    writer.close()
    with contextlib.suppress(OSError, ssl.SSLError, TimeoutError):
        async with asyncio.timeout(seconds):
            await writer.wait_closed()
