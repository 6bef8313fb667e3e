"""Frames: a length of four bytes, big-endian, and that many bytes; bounded in size and time."""

import asyncio
import ssl
import struct
from typing import NamedTuple

from fedjaxlite.transport.errors import FrameTooLong

_LENGTH = struct.Struct(">I")
LENGTH_BYTES = _LENGTH.size
_SLICE = 2**16


class Timeouts(NamedTuple):
    """How long anything is waited for, in seconds.

    Attributes:
      connect: for a connection and its handshake.
      stage: at a server, for a client's next message (in secure sums: for all messages of one stage); who is later has
        dropped out.
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
      FrameTooLong: the frame is longer; the stream is of no use afterwards.
      EOFError: the other side is gone, perhaps in the middle of a frame.
      TimeoutError: the frame did not arrive in time.
    """
    size = await read_size(reader, longest=longest)
    async with asyncio.timeout(seconds):
        return await reader.readexactly(size)


async def read_size(reader: asyncio.StreamReader, *, longest: int) -> int:
    """The length of the next frame, whose bytes are to be read next.

    Raises:
      FrameTooLong: the frame is longer than `longest`. EOFError: the other side is gone.
    """
    (size,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if size > longest:
        raise FrameTooLong(f"a frame of {size} bytes; expected at most {longest}.")
    return size


async def write_frame(writer: asyncio.StreamWriter, data: bytes, *, seconds: float) -> None:
    """Writes a frame and waits until it is on its way.

    Raises:
      OSError: the other side is gone.
      TimeoutError: it does not take the bytes.
    """
    if len(data) <= _SLICE:
        writer.write(frame(data))
        async with asyncio.timeout(seconds):
            return await writer.drain()
    # OpenSSL keeps the buffer of the longest write for as long as the connection lasts: long frames go in slices.
    writer.write(_LENGTH.pack(len(data)) + data[:_SLICE])
    rest = memoryview(data)
    async with asyncio.timeout(seconds):
        for at in range(_SLICE, len(data), _SLICE):
            await writer.drain()
            writer.write(rest[at : at + _SLICE])
        return await writer.drain()


def frame(data: bytes) -> bytes:
    r"""The bytes of a frame.

    Example:
      >>> frame(b"abc")
      b'\x00\x00\x00\x03abc'
    """
    return _LENGTH.pack(len(data)) + data


async def hang_up(writer: asyncio.StreamWriter, *, seconds: float = 2.0) -> None:
    """Closes a connection, whatever state it is in.

    Args:
      writer: its writing half.
      seconds: how long the other side may take over what is on its way to it; what is left is dropped, so that one who
        reads nothing holds no memory here.
    """
    writer.close()
    try:
        async with asyncio.timeout(seconds):
            await writer.wait_closed()
    except (OSError, ssl.SSLError, TimeoutError):
        writer.transport.abort()
    except asyncio.CancelledError:
        writer.transport.abort()
        raise
