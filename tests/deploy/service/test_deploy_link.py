"""A device's link: what it asks is answered, after breaks too; what a server must not say is refused."""

import asyncio
import hashlib
import random
import ssl
import zlib

import pytest
from deploy_toy import (
    CHECK_IN,
    OTHER_CLIENTS,
    OTHER_SERVER,
    QUICK,
    SERVER,
    answer_of,
    cutting,
    linked,
    run,
    serving,
    toy,
)

from fedjaxlite.benchmarks.deployed import transfers
from fedjaxlite.deploy.device import link
from fedjaxlite.deploy.device.protocol import CHUNK, BadMessage, Message, encode
from fedjaxlite.transport import frames, server_context
from fedjaxlite.transport.limits import Limits, Rate

RANDOM = random.Random(1).randbytes(2 * CHUNK + 17)
PLAIN = bytes(range(256)) * (3 * CHUNK // 256)


def sha(data):
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("blob", [RANDOM, PLAIN, b"x"], ids=["random", "plain", "short"])
def test_what_goes_down_and_up_arrives_whole_and_is_counted_on_both_sides(blob):
    async def work():
        state = toy(blob)
        async with serving(answer_of(state)) as served:
            mine = linked(served.port, 2)
            assert await transfers.download(mine, sha(blob), len(blob)) == blob
            assert await transfers.upload(mine, 4, 0, blob) == Message("taken", {"round": 4})
            assert state.taken == {(2, 4): blob}
            counted = served.counters[2]
            assert (counted.bytes_in, counted.bytes_out) == (mine.counts[0].sent, mine.counts[0].received)
            # What a message adds to its body is below 400 bytes, and packing is used where it helps only.
            assert counted.bytes_in - counted.body_in < 400 * counted.questions
            assert counted.bytes_out - counted.body_out < 400 * counted.questions
            assert counted.body_out == len(blob) if blob is not PLAIN else counted.body_out < len(blob) / 50
            await link.close(mine)

    run(work)


def test_breaks_anywhere_cost_pieces_and_nothing_else():
    async def work():
        state = toy(RANDOM)
        async with serving(answer_of(state)) as served, cutting(served.port, (1000, 1_500_000, 1_300_000)) as port:
            mine = linked(port)
            assert await transfers.download(mine, sha(RANDOM), len(RANDOM)) == RANDOM
            assert mine.counts[0].connections == 4 - 1  # the first is cut in its handshake
            await link.close(mine)
        async with serving(answer_of(state)) as served, cutting(served.port, (1_400_000, 100_000, 1_200_000)) as port:
            mine = linked(port)
            assert (await transfers.upload(mine, 1, 0, RANDOM)).kind == "taken"
            assert state.taken == {(0, 1): RANDOM}
            await link.close(mine)

    run(work)


def test_an_upload_goes_on_where_the_server_has_it_after_the_device_was_started_anew():
    async def work():
        state = toy()
        async with serving(answer_of(state)) as served:
            mine = linked(served.port)
            head = {"round": 1, "attempt": 0, "sha256": sha(RANDOM), "offset": 0, "total": len(RANDOM), "packed": "raw"}
            first = Message("put", head, RANDOM[:CHUNK])
            assert await link.ask(mine, first) == Message("have", {"offset": CHUNK})
            assert await link.ask(mine, first) == Message("have", {"offset": CHUNK})  # again: the same answer
            await link.close(mine)
            mine = linked(served.port)
            assert (await transfers.upload(mine, 1, 0, RANDOM)).kind == "taken"
            assert mine.counts[0].sent < len(RANDOM) - CHUNK + 2000
            assert (await transfers.upload(mine, 1, 0, RANDOM)).kind == "taken"  # the answer was lost: again
            assert state.taken == {(0, 1): RANDOM}
            await link.close(mine)

    run(work)


def test_pauses_double_to_a_bound_and_are_drawn():
    draws = iter((0.5, 0.0, 1.0, 0.25))
    assert link.pauses(link.Backoff(5, 1.0, 3.0), lambda: next(draws)) == [0.5, 0.0, 3.0, 0.75]


def test_a_server_that_is_not_there_is_said_so():
    async def work():
        async with serving(answer_of(toy())) as served:
            port = served.port
        with pytest.raises(
            link.Unreachable, match=rf"127.0.0.1:{port} did not answer check_in in 6 tries; the last one: "
        ):
            await link.ask(linked(port), CHECK_IN)

    run(work)


def test_only_the_authoritys_server_is_asked_anything():
    async def work():
        state = toy()
        async with serving(answer_of(state), credentials=OTHER_SERVER) as served:
            with pytest.raises(ssl.SSLCertVerificationError):
                await link.ask(linked(served.port), CHECK_IN)
            assert state.asked == []
            mine = linked(served.port, OTHER_CLIENTS[0])
            assert (await link.ask(mine, CHECK_IN)).kind == "wait"
            await link.close(mine)

    run(work)


async def hostile(say):
    """What a link makes of a server that answers everything with these bytes."""

    async def connected(reader, writer):
        await frames.read_frame(reader, longest=2**20, seconds=30)
        writer.write(say)
        await reader.read()
        writer.transport.abort()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=server_context(SERVER))
    mine = linked(server.sockets[0].getsockname()[1])
    try:
        await link.ask(mine, CHECK_IN)
    finally:
        await link.close(mine)
        server.close()


@pytest.mark.parametrize(
    ("say", "text"),
    [
        (frames.frame(b"garbage"), "the server's answer to check_in: 7 bytes; a message has at least 8"),
        (frames.frame(encode(CHECK_IN)), "the server says check_in, which only clients do"),
        (b"\xff\xff\xff\xff" + bytes(100), "a frame of 4294967295 bytes; expected at most"),
    ],
    ids=["garbage", "question", "oversize"],
)
def test_what_is_no_answer_ends_the_connection(say, text):
    async def work():
        with pytest.raises(BadMessage, match=text):
            await hostile(say)

    run(work)


def chunk(body=b"abc", offset=0, total=3, packed="raw"):
    return Message("chunk", {"offset": offset, "total": total, "packed": packed}, body)


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (chunk(offset=1), "a piece at 1 of 3 bytes; asked for one at 0 of 3"),
        (chunk(total=4), "a piece at 0 of 4 bytes; asked for one at 0 of 3"),
        (chunk(b""), "an empty piece at 0 of 3"),
        (chunk(b"abcd"), "a piece of more than 3 bytes"),
        (chunk(zlib.compress(bytes(50 * CHUNK)), packed="zlib"), "a piece of more than 3 bytes"),
        (chunk(b"abx"), "3 bytes whose SHA-256 is not "),
        (Message("taken", {"round": 1}), "the server answers taken; expected chunk"),
    ],
    ids=["offset", "total", "empty", "long", "bomb", "hash", "kind"],
)
def test_a_download_that_is_not_as_asked_is_refused(reply, text):
    async def work():
        async with serving(lambda client, message: reply) as served:
            mine = linked(served.port)
            with pytest.raises(BadMessage, match=text):
                await transfers.download(mine, sha(b"abc"), 3)
            await link.close(mine)

    run(work)


def test_a_download_that_is_too_long_is_not_even_asked_for():
    async def work():
        with pytest.raises(BadMessage, match="has 101 bytes; expected at most 100"):
            await transfers.download(linked(1), sha(b""), 101, most=100)

    run(work)


def test_a_server_that_keeps_nothing_or_too_much_is_left():
    async def work():
        for offset, text in (
            (0, "does not keep what it is sent: it has 0 of"),
            (len(PLAIN) + 1, "bytes of an update of"),
        ):
            async with serving(lambda client, message, n=offset: Message("have", {"offset": n})) as served:
                mine = linked(served.port)
                with pytest.raises(BadMessage, match=text):
                    await transfers.upload(mine, 1, 0, PLAIN)
                await link.close(mine)

    run(work)


def test_a_refusal_is_said_with_its_reason():
    async def work():
        async with serving(answer_of(toy())) as served:
            mine = linked(served.port)
            with pytest.raises(link.ServerRefuses, match="no such thing") as caught:
                await transfers.download(mine, sha(b"abc"), 3)
            assert not caught.value.again
            await link.close(mine)

    run(work)


def test_an_answer_that_was_not_waited_for_is_not_taken_for_the_next_one():
    async def work():
        slow = asyncio.Event()
        loop = asyncio.get_running_loop()

        def answer(client, message):
            if message.kind == "secure":
                asyncio.run_coroutine_threadsafe(slow.wait(), loop).result(5)
            return answer_of(toy())(client, message)

        async with serving(answer) as served:
            mine = linked(served.port)
            waiting = asyncio.create_task(link.ask(mine, Message("secure", {"round": 0, "attempt": 0}, b"abc")))
            await asyncio.sleep(0.1)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            slow.set()
            assert (await link.ask(mine, CHECK_IN)).kind == "wait"
            await link.close(mine)

    run(work)


def test_a_server_that_stays_silent_is_given_up():
    async def work():
        once = Limits(requests=Rate(0.01, 1.0))  # the second question of a client waits for a hundred seconds
        async with serving(answer_of(toy()), limits=once) as served:
            mine = linked(served.port, backoff=link.Backoff(2, 0.01, 0.01))
            assert (await link.ask(mine, CHECK_IN)).kind == "wait"
            mine = mine._replace(timeouts=QUICK._replace(patience=0.1))
            with pytest.raises(link.Unreachable, match="in 2 tries; the last one: TimeoutError"):
                await link.ask(mine, CHECK_IN)

    run(work)
