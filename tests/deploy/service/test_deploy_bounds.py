"""Hostile and broken peers: what they can hold is bounded in bytes and time, and the others are served."""

import asyncio
import contextlib
import random
import types

import pytest
from deploy_messages import GOOD
from deploy_toy import CHECK_IN, QUICK, answer_of, linked, raw, run, serving, toy

from fedjaxlite.deploy.device import link, protocol
from fedjaxlite.deploy.device.protocol import CHUNK, BadMessage, Message, decode, encode
from fedjaxlite.deploy.service import desk as desks
from fedjaxlite.transport import frames
from fedjaxlite.transport.limits import Limits, Rate

FREE = Limits(requests=Rate(1e6, 1e6))


async def said(reader):
    return decode(await frames.read_frame(reader, longest=2**21, seconds=30))


async def ended(reader):
    with contextlib.suppress(OSError):
        while await reader.read(2**16):
            pass
    return True


@contextlib.asynccontextmanager
async def well(port, client=5):
    """A good client that is served, before and after what happens in between."""
    mine = linked(port, client)
    assert (await link.ask(mine, CHECK_IN)).kind == "wait"
    yield
    assert (await link.ask(mine, CHECK_IN)).kind == "wait"
    assert mine.counts[0].connections == 1
    await link.close(mine)


def test_an_oversize_frame_is_refused_by_its_length():
    async def work():
        brief = QUICK._replace(frame=0.3)
        async with (
            serving(answer_of(toy()), timeouts=brief) as served,
            well(served.port),
            raw(served.port) as (reader, writer),
        ):
            writer.write(b"\xff\xff\xff\xff" + bytes(100))
            most = CHUNK + protocol.OVERHEAD
            assert (await said(reader)).head["reason"] == f"a frame of 4294967295 bytes; expected at most {most}."
            assert await ended(reader)

    run(work)


def test_a_stranger_may_send_a_head_and_no_more():
    async def work():
        from deploy_toy import SERVER

        from fedjaxlite.transport.credentials import stranger_context

        async with serving(answer_of(toy()), timeouts=QUICK._replace(frame=0.3)) as served, well(served.port):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", served.port, ssl=stranger_context(SERVER.authority), server_hostname="fedjaxlite-server"
            )
            writer.write((protocol.OVERHEAD + 1).to_bytes(4, "big"))
            assert "expected at most 16392" in (await said(reader)).head["reason"]
            assert await ended(reader)
            writer.transport.abort()

    run(work)


@pytest.mark.parametrize("start", [b"", b"\0\0", b"\0\1\0\0" + bytes(1000)], ids=["silent", "length", "frame"])
def test_who_does_not_go_on_is_hung_up_on(start):
    async def work():
        brief = QUICK._replace(stage=0.3, frame=0.3)
        async with serving(answer_of(toy()), timeouts=brief) as served, raw(served.port) as (reader, writer):
            writer.write(start)
            assert await ended(reader)
            async with well(served.port):
                pass

    run(work)


def test_a_trickle_is_as_slow_as_nothing():
    async def work():
        async with serving(answer_of(toy()), timeouts=QUICK._replace(frame=0.3)) as served:
            async with raw(served.port) as (reader, writer):

                async def trickle():
                    writer.write(b"\0\1\0\0")
                    while True:
                        writer.write(b"F")
                        await asyncio.sleep(0.02)

                dripping = asyncio.create_task(trickle())
                assert await ended(reader)
                dripping.cancel()
            async with well(served.port):
                pass

    run(work)


def test_who_never_reads_is_hung_up_on_and_holds_no_memory():
    """Client 0 asks for ten megabytes of answers and takes none of them."""
    echo = Message("secure", {"round": 0, "attempt": 0}, bytes(CHUNK))

    async def work():
        limits = FREE._replace(memory=3 * CHUNK)
        async with serving(answer_of(toy()), timeouts=QUICK._replace(frame=0.3), limits=limits) as served:
            async with raw(served.port) as (reader, writer):
                writer.transport.pause_reading()
                with contextlib.suppress(OSError, TimeoutError):
                    for _ in range(10):
                        await frames.write_frame(writer, encode(echo), seconds=2)
                questions = served.counters[0].questions
                assert questions < 10
            # What it held is there again: three others get their megabyte at once.
            links = [linked(served.port, u) for u in (1, 2, 3)]
            replies = await asyncio.gather(*(link.ask(each, echo) for each in links))
            assert [len(r.body) for r in replies] == [CHUNK] * 3
            await asyncio.gather(*map(link.close, links))

    run(work)


async def half_open(port):
    """Fifty connections that never shake hands."""
    return [await asyncio.open_connection("127.0.0.1", port) for _ in range(50)]


def test_handshakes_that_nobody_finishes_give_way():
    async def work():
        limits = FREE._replace(handshakes=10, grace=0.02)
        async with serving(answer_of(toy()), limits=limits, timeouts=QUICK._replace(connect=300.0)) as served:
            async with well(served.port, 1):
                half = await half_open(served.port)
                async with well(served.port, 2):  # it would wait for minutes, if nobody gave way
                    pass
            for reader, _ in half[:40]:
                assert await ended(reader)
            for _, writer in half:
                writer.transport.abort()

    run(work)


def test_handshakes_that_nobody_finishes_end():
    async def work():
        async with serving(answer_of(toy()), limits=FREE, timeouts=QUICK._replace(connect=0.5)) as served:
            for reader, writer in await half_open(served.port):
                assert await ended(reader)
                writer.transport.abort()

    run(work)


@pytest.mark.parametrize("limits", [FREE._replace(connections=3), FREE._replace(per_address=3)], ids=["all", "address"])
def test_connections_beyond_the_limit_are_closed_unheard(limits):
    async def work():
        async with serving(answer_of(toy()), limits=limits) as served:
            links = [linked(served.port, u) for u in range(3)]
            for each in links:
                await link.ask(each, CHECK_IN)
            with pytest.raises(link.Unreachable):
                await link.ask(linked(served.port, 3, backoff=link.Backoff(2, 0.01, 0.01)), CHECK_IN)
            for each in links:
                assert (await link.ask(each, CHECK_IN)).kind == "wait"
                assert each.counts[0].connections == 1
            await link.close(links[0])
            last = linked(served.port, 3)
            assert (await link.ask(last, CHECK_IN)).kind == "wait"  # a place is free again
            await asyncio.gather(*map(link.close, (*links, last)))

    run(work)


def test_many_who_enroll_at_once_do_not_keep_clients_out():
    async def work():
        from deploy_toy import SERVER

        from fedjaxlite.transport.credentials import stranger_context

        context, brief = stranger_context(SERVER.authority), QUICK._replace(connect=0.5)
        async with serving(answer_of(toy()), limits=FREE._replace(strangers=2), timeouts=brief) as served:
            strangers = [linked(served.port)._replace(context=context) for _ in range(3)]
            for each in strangers[:2]:
                assert (await link.ask(each, Message("introduce", {}))).kind == "introduced"
            reply = await link.ask(strangers[2], Message("introduce", {}))
            assert reply.head == {"reason": "too many enroll at once; ask again later.", "again": True}
            async with well(served.port):
                pass
            # A stranger has eight questions and `connect` seconds between them.
            for _ in range(7):
                await link.ask(strangers[0], Message("introduce", {}))
            assert await ended(strangers[0].lines[0].reader)
            assert await ended(strangers[1].lines[0].reader)
            await asyncio.gather(*map(link.close, strangers))

    run(work)


def test_who_asks_more_than_its_rate_waits_and_the_others_do_not():
    async def work():
        limits = Limits(requests=Rate(per_second=20.0, burst=2.0))
        async with serving(answer_of(toy()), limits=limits) as served:
            loop = asyncio.get_running_loop()
            greedy, begin = linked(served.port, 0), loop.time()
            for _ in range(8):
                assert (await link.ask(greedy, CHECK_IN)).kind == "wait"
            # Two at once; of the other six, the last is paid for after 6/20 s, and the wait for each precedes it.
            assert loop.time() - begin > 5 / 20
            await link.close(greedy)
            again = linked(served.port, 0)  # a new connection brings no new allowance
            begin = loop.time()
            for _ in range(3):
                await link.ask(again, CHECK_IN)
            assert loop.time() - begin > 1 / 20
            await link.close(again)

    run(work)


def test_bytes_have_a_rate_too():
    async def work():
        limits = FREE._replace(bytes=Rate(per_second=10 * CHUNK, burst=CHUNK))
        async with serving(answer_of(toy()), limits=limits) as served:
            loop = asyncio.get_running_loop()
            mine, begin = linked(served.port), loop.time()
            for _ in range(3):
                await link.ask(mine, Message("secure", {"round": 0, "attempt": 0}, bytes(CHUNK)))
            assert loop.time() - begin > 3 / 10  # four of the six megabytes, there and back, before the third question
            await link.close(mine)

    run(work)


def test_memory_is_waited_for_and_given_back():
    async def work():
        memory = desks.Memory([0], asyncio.Condition())
        desk = types.SimpleNamespace(memory=memory, limits=Limits(memory=100_000))
        seen = []

        async def one(size):
            async with desks.holding(desk, size):
                seen.append(memory.held[0])
                await asyncio.sleep(0.001)
                if size == 70_000:
                    raise BadMessage("even so")

        tasks = [asyncio.create_task(one(size)) for size in (30_000, 40_000, 70_000, 200_000, 10, 60_000) * 5]
        tasks[2].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert max(seen) == 200_000  # one that is larger than all memory goes alone
        assert sorted(set(seen))[-2] <= 100_000
        assert memory.held == [0]

    run(work)


def hostile_messages(rng, n):
    """Good messages with a few bytes changed, cut or doubled, other clients' questions, and replies as questions."""
    for _ in range(n):
        data = bytearray(encode(rng.choice(GOOD)))
        for _ in range(rng.randint(0, 3)):
            at = rng.randrange(len(data))
            what = rng.randrange(4)
            if what == 0:
                data[at] ^= 1 << rng.randrange(8)
            elif what == 1:
                del data[at : at + rng.randint(1, 9)]
            elif what == 2:
                data[at:at] = data[at : at + 9]
            else:
                data[at:at] = rng.choice((b"NaN", b"[" * 500, b"9" * 99, b"\0", b'"', b"{}"))
            data = data or bytearray(b"F")
        yield bytes(data)


def bombarded(n, seed):
    rng, state = random.Random(seed), toy()
    answered = dict.fromkeys(("wait", "chunk", "have", "taken", "secure", "refused", "introduced"), 0)

    async def attack(port, client, messages):
        for data in messages:  # over one connection while it lasts, and then the next one
            async with raw(port, client) as (reader, writer):
                refusals = 0
                with contextlib.suppress(OSError, EOFError):
                    while data and refusals < 8:
                        await frames.write_frame(writer, data, seconds=5)
                        reply = await said(reader)
                        answered[reply.kind] += 1
                        refusals += reply.kind == "refused"
                        data = next(messages, None) if refusals < 8 else None

    async def work():
        async with (
            serving(answer_of(state), limits=FREE, timeouts=QUICK._replace(stage=600.0)) as served,
            well(served.port),
        ):
            messages = hostile_messages(rng, n)
            await asyncio.gather(*(attack(served.port, u, messages) for u in range(4)), return_exceptions=True)

    run(work, seconds=300)
    return answered, state


def test_hundreds_of_hostile_messages_are_answered_or_refused():
    answered, state = bombarded(300, seed=1)
    assert sum(answered.values()) > 250
    assert answered["refused"] > 100
    assert answered["wait"] > 2
    assert {client for client, _ in state.asked} == {0, 1, 2, 3, 5}


@pytest.mark.slow
def test_ten_thousand_hostile_messages_leave_the_server_as_it_was():
    answered, _ = bombarded(10_000, seed=2)
    assert sum(answered.values()) > 9000
    assert answered["refused"] > 4000
