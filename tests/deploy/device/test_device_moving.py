"""Large downloads and uploads of a device: in pieces, from where they were, bounded."""

import asyncio

import numpy as np
import pytest
from fake_server import sha256

from fedjaxlite.deploy.device import packing
from fedjaxlite.deploy.device.protocol import CHUNK, BadMessage, Message, decode, encode
from fedjaxlite.deploy.device.work import moving
from fedjaxlite.deploy.device.work.moving import ServerMisbehaves

BIG = np.random.default_rng(0).bytes(2 * CHUNK + 1000) + bytes(CHUNK)


class Disk:
    """A server's copy of an update, and what was asked."""

    def __init__(self, there=b""):
        self.there, self.offsets, self.sent = bytearray(there), [], 0

    async def ask(self, message):
        head = decode(encode(message)).head
        self.offsets.append((head["offset"], len(message.body) > 0))
        self.sent += len(message.body)
        if head["offset"] == len(self.there):
            self.there += packing.unpack(message.body, head["packed"])
        if len(self.there) == head["total"] and sha256(bytes(self.there)) == head["sha256"]:
            return Message("taken", {"round": head["round"]})
        return Message("have", {"offset": len(self.there)})


def upload(ask, data=BIG, **options):
    return asyncio.run(moving.upload(ask, {"masked": False}, data, round_number=3, attempt=0, **options))


def fetch(pieces, **options):
    async def ask(message):
        return pieces(message.head["offset"])

    options = {"most": len(BIG)} | options
    return asyncio.run(moving.fetch(ask, sha256(BIG), options.pop("total", len(BIG)), **options))


def piece(offset, size=CHUNK, **head):
    packed, body = packing.pack(BIG[offset : offset + size])
    return Message("chunk", {"offset": offset, "total": len(BIG), "packed": packed} | head, body)


def zeros(offset):
    return piece(offset, packed="raw")._replace(body=bytes(min(CHUNK, len(BIG) - offset)))


def test_an_upload_goes_in_pieces_that_are_packed_where_that_saves():
    disk = Disk()
    upload(disk.ask)
    assert disk.there == BIG
    assert disk.offsets == [(offset, True) for offset in range(0, len(BIG), CHUNK)]
    assert 2 * CHUNK < disk.sent < 2.1 * CHUNK


def test_an_upload_goes_on_where_the_servers_copy_ends():
    disk = Disk(BIG[: CHUNK + 5])
    upload(disk.ask, resume=True)
    assert disk.there == BIG
    assert disk.offsets[:2] == [(0, False), (CHUNK + 5, True)]
    # Without asking first, the server says at once that it has more.
    disk = Disk(BIG[: CHUNK + 5])
    upload(disk.ask)
    assert disk.there == BIG


@pytest.mark.parametrize("offsets", [[0, 1], [1, 0, 2 * CHUNK, 5], [0]])
def test_a_server_whose_copy_does_not_grow_gets_a_bounded_number_of_bytes(offsets):
    asked = []

    async def ask(message):
        asked.append(len(message.body))
        return Message("have", {"offset": offsets[len(asked) % len(offsets)]})

    with pytest.raises(ServerMisbehaves, match="the server's copy of the update stays at"):
        upload(ask)
    assert len(asked) <= 2 * len(BIG) // CHUNK + 4


def test_a_server_that_has_more_than_there_is_or_took_another_round_misbehaves():
    async def more(message):
        return Message("have", {"offset": len(BIG) + 1})

    async def other(message):
        return Message("taken", {"round": 4})

    with pytest.raises(ServerMisbehaves, match=f"has {len(BIG) + 1} bytes of an update of {len(BIG)}"):
        upload(more)
    with pytest.raises(ServerMisbehaves, match="took an update of round 4, not 3"):
        upload(other)


def test_a_download_comes_in_pieces_of_any_size_and_is_what_its_hash_says():
    assert fetch(piece) == BIG
    assert fetch(piece, total=None) == BIG
    assert fetch(lambda offset: piece(offset, 100_000)) == BIG


@pytest.mark.parametrize(
    ("pieces", "words", "options"),
    [
        (piece, "expected at most 9", {"most": 9}),
        (piece, "expected at most 9", {"most": 9, "total": None}),
        (piece, f"expected the one at 0 of {len(BIG) - 1}", {"total": len(BIG) - 1}),
        (lambda offset: piece(offset, 100), "a piece of 100 bytes, with", {}),
        (lambda offset: piece(offset, 0), "a piece of 0 bytes, with", {}),
        (lambda offset: piece(offset, packed="zlib")._replace(body=b"x" * 5000), "a piece that does not unpack", {}),
        (lambda offset: zeros(offset), "a download with the sha256", {}),
        (lambda offset: Message("have", {"offset": 0}), "the server answers 'have'; expected 'chunk'", {}),
    ],
)
def test_a_download_that_is_not_what_was_agreed_on_ends(pieces, words, options):
    with pytest.raises((ServerMisbehaves, BadMessage), match=words):
        fetch(pieces, **options)
