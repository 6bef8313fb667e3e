"""The service: who is let in, one question at a time, one answer at a time, and how it ends."""

import asyncio
import logging
import os
import signal
import ssl
import threading
import time

import pytest
from deploy_toy import (
    CHECK_IN,
    CLIENTS,
    OTHER_CLIENTS,
    QUICK,
    SERVER,
    N,
    answer_of,
    linked,
    raw,
    run,
    serving,
    toy,
)

from fedjaxlite.deploy import service
from fedjaxlite.deploy.device import enrolling, link
from fedjaxlite.deploy.device.protocol import BadMessage, Message, decode, encode
from fedjaxlite.transport import authority, client_context, credentials, frames
from fedjaxlite.transport.credentials import stranger_context
from fedjaxlite.transport.errors import EnrolmentRefused


async def said(reader):
    return decode(await frames.read_frame(reader, longest=2**21, seconds=30))


async def ended(reader):
    """Reads on until the server has hung up."""
    try:
        while await reader.read(2**16):
            pass
    except OSError:
        pass
    return True


def test_answers_come_from_one_thread_one_at_a_time():
    inside, most, threads = [0], [0], set()

    def answer(client, message):
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        threads.add(threading.get_ident())
        time.sleep(0.005)
        inside[0] -= 1
        return answer_of(toy())(client, message)

    ticks = []

    async def work():
        async with serving(answer, tick=lambda: ticks.append(threading.get_ident()), every=0.02) as served:
            links = [linked(served.port, u) for u in range(N)]
            for _ in range(3):
                replies = await asyncio.gather(*(link.ask(each, CHECK_IN) for each in links))
                assert [r.head["reason"] for r in replies] == [f"client {u}" for u in range(N)]
            await asyncio.gather(*map(link.close, links))
            while not ticks:
                await asyncio.sleep(0.01)

    run(work)
    assert most == [1]
    assert len(threads) == 1
    assert set(ticks) == threads
    assert threading.get_ident() not in threads


def test_the_newer_connection_of_a_client_wins_and_the_older_hears_why():
    async def work():
        async with serving(answer_of(toy())) as served:
            older, newer, other = linked(served.port, 1), linked(served.port, 1), linked(served.port, 2)
            for each in (older, other, newer):
                assert (await link.ask(each, CHECK_IN)).kind == "wait"
            await asyncio.sleep(0.05)
            reply = await link.ask(older, CHECK_IN)
            assert reply.head == {"reason": "the same client has opened another connection.", "again": True}
            assert older.counts[0].connections == 1
            for each in (other, newer):
                assert (await link.ask(each, CHECK_IN)).kind == "wait"
                assert each.counts[0].connections == 1
            await asyncio.gather(*map(link.close, (older, newer, other)))

    run(work)


def test_a_revoked_client_is_refused_at_once_and_the_others_are_served():
    async def work():
        revoked = set()
        async with serving(answer_of(toy()), is_revoked=revoked.__contains__, every=0.02) as served:
            bad, good = linked(served.port, 1), linked(served.port, 2)
            for each in (bad, good):
                assert (await link.ask(each, CHECK_IN)).kind == "wait"
            async with raw(served.port, 3) as (reader, _):
                await asyncio.sleep(0.05)
                revoked.add(3)
                assert (await said(reader)).head["reason"] == "this client's certificate was revoked."  # unasked
                assert await ended(reader)
            revoked.add(1)
            for _ in range(2):  # on the open connection, and on another one
                reply = await link.ask(bad, CHECK_IN)
                assert reply.head == {"reason": "this client's certificate was revoked.", "again": False}
                await link.close(bad)
            assert (await link.ask(good, CHECK_IN)).kind == "wait"
            await link.close(good)

    run(work)


async def with_context(port, context, name="fedjaxlite-server"):
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    try:
        await frames.write_frame(writer, encode(CHECK_IN), seconds=5)
        return await said(reader)
    finally:
        writer.transport.abort()


def test_wrong_certificates_old_tls_and_no_tls_get_nothing():
    async def work():
        state = toy()
        async with serving(answer_of(state)) as served:
            other = client_context(OTHER_CLIENTS[0]._replace(authority=SERVER.authority))
            with pytest.raises((OSError, EOFError)):
                await with_context(served.port, other)
            old = client_context(CLIENTS[0])
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
            with pytest.raises(OSError):
                await with_context(served.port, old)
            # The server's own certificate is none of a client.
            with pytest.raises((OSError, EOFError)):
                await with_context(served.port, client_context(SERVER))
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(b"GET / HTTP/1.1\r\n\r\n" + bytes(2000))
            assert await ended(reader)
            writer.transport.abort()
            assert state.asked == []
            mine = linked(served.port)
            assert (await link.ask(mine, CHECK_IN)).kind == "wait"
            await link.close(mine)

    run(work)


def test_without_a_certificate_one_may_enroll_and_nothing_else():
    async def work():
        state = toy()
        async with serving(answer_of(state)) as served:
            stranger = linked(served.port)._replace(context=stranger_context(SERVER.authority))
            reply = await link.ask(stranger, CHECK_IN)
            assert reply.head["reason"] == "check_in: that needs a certificate; enroll first."
            assert (await link.ask(stranger, Message("introduce", {}))).kind == "introduced"
            reply = await link.ask(stranger, Message("enroll", {"token": "x", "csr": ""}))
            assert reply.head == {"reason": "nobody can enroll here.", "again": False}
            await link.close(stranger)
            assert state.asked == []
            assert served.counters[-1].questions == 3
        async with serving(answer_of(state), strangers=False) as served:
            stranger = linked(served.port, backoff=link.Backoff(1))._replace(context=stranger_context(SERVER.authority))
            with pytest.raises(link.Unreachable):
                await link.ask(stranger, Message("introduce", {}))

    run(work)


@pytest.fixture
def folder(tmp_path):
    return authority.create(tmp_path / "authority")


def enroll(port, token, **more):
    options = {"timeouts": QUICK, "backoff": link.Backoff(2, 0.01, 0.01)} | more
    return enrolling.enroll("127.0.0.1", port, token, random=lambda: 0.5, **options)


def test_a_token_makes_a_client_whose_key_stayed_at_home(folder, tmp_path):
    async def work():
        server = authority.server_credentials(folder)
        program = "ab" * 32
        enrol = service.enrolling(folder, most=2, program=lambda: program)
        revoked = lambda client: authority.is_revoked(folder, client)  # noqa: E731
        async with serving(
            answer_of(toy()), credentials=server, enroll=enrol, is_revoked=revoked, every=0.02
        ) as served:
            token = authority.new_token(folder)
            first = await enroll(served.port, token)
            assert (first.client, first.program) == (0, program)
            credentials.keep(tmp_path / "me", first.credentials)
            mine = linked(served.port, credentials.kept(tmp_path / "me"))
            assert (await link.ask(mine, CHECK_IN)).head["reason"] == "client 0"
            with pytest.raises(link.ServerRefuses, match="the token is spent"):
                await enroll(served.port, token)
            assert (await enroll(served.port, authority.new_token(folder))).client == 1
            with pytest.raises(link.ServerRefuses, match="all 2 places are taken"):
                await enroll(served.port, authority.new_token(folder))
            with pytest.raises(EnrolmentRefused, match="this is no enrolment token"):
                await enroll(served.port, "guess")
            authority.revoke(folder, 0)
            assert "was revoked" in (await link.ask(mine, CHECK_IN)).head["reason"]
            await link.close(mine)

    run(work)


def test_a_token_is_told_to_no_other_server(folder, tmp_path):
    async def work():
        told = []

        def enrol(token, csr):
            told.append(token)
            raise EnrolmentRefused("no.")

        other = authority.create(tmp_path / "other")
        token = authority.new_token(folder)
        async with serving(answer_of(toy()), credentials=authority.server_credentials(other), enroll=enrol) as served:
            with pytest.raises(BadMessage, match="is not the server that the token is for"):
                await enroll(served.port, token)
        # One that shows the right authority's certificate, and has none of it.
        liar = authority.server_credentials(other)._replace(authority=authority.own_certificate(folder))
        async with serving(answer_of(toy()), credentials=liar, enroll=enrol) as served:
            with pytest.raises(ssl.SSLCertVerificationError):
                await enroll(served.port, token)
        assert told == []

    run(work)


def test_a_lost_answer_to_an_enrolment_is_given_again_for_the_same_key(folder):
    async def work():
        server, asked = authority.server_credentials(folder), authority_request()
        async with serving(answer_of(toy()), credentials=server, enroll=service.enrolling(folder, most=9)) as served:
            token = authority.new_token(folder)
            first = await enroll(served.port, token, asked=asked)
            assert await enroll(served.port, token, asked=asked) == first

    from fedjaxlite.transport.enrolment import request as authority_request

    run(work)


def test_bad_messages_are_refused_with_their_reason_and_end_a_connection_at_the_eighth(caplog):
    caplog.set_level(logging.INFO, "fedjaxlite.deploy.service")

    async def work():
        state = toy()
        bad = [b"", b"garbage", encode(CHECK_IN)[:-1], encode(Message("have", {"offset": 1})), b"FJD\x02" + bytes(9)]
        brief = QUICK._replace(frame=0.3)
        async with serving(answer_of(state), timeouts=brief) as served, raw(served.port, 3) as (reader, writer):
            reasons = []
            for data in (*bad, encode(CHECK_IN), *bad[:3]):
                await frames.write_frame(writer, data, seconds=5)
                reasons.append((await said(reader)).head["reason"])
            assert reasons[3] == "have: only the server says that."
            assert "version 2; expected 1" in reasons[4]
            assert reasons[5] == "client 3"
            assert await ended(reader)
            assert served.counters[3].refused == 8
            assert served.counters[3].questions == 9
            assert len(state.asked) == 1

    run(work)
    assert "client 3 is hung up on after 8 messages that were refused" in caplog.text


def test_a_failing_answer_is_the_servers_mistake_and_not_the_clients(caplog):
    def answer(client, message):
        if message.kind == "get":
            raise KeyError("a bug")
        if message.kind == "evaluated":
            return Message("taken", {"round": "three"})
        return answer_of(toy())(client, message)

    async def work():
        async with serving(answer) as served:
            mine = linked(served.port)
            for kind, head in (
                ("get", {"sha256": "0" * 64, "offset": 0}),
                ("evaluated", {"round": 1, "metrics": {}, "num_examples": 1}),
            ):
                reply = await link.ask(mine, Message(kind, head))
                assert reply.head == {
                    "reason": "the server has failed on this message; ask again later.",
                    "again": True,
                }
            assert (await link.ask(mine, CHECK_IN)).kind == "wait"
            assert mine.counts[0].connections == 1
            await link.close(mine)

    run(work)
    assert "the answer to get of client 0 failed" in caplog.text
    assert "taken: `round` is 'three'" in caplog.text


@pytest.mark.parametrize("where", ["answer", "tick"])
def test_a_server_whose_state_can_no_longer_be_kept_ends(where):
    def full(*_):
        raise OSError(28, "No space left on device")

    async def work():
        more = {"tick": full, "every": 0.01} if where == "tick" else {}
        async with serving(full, **more) as served:
            if where == "answer":
                mine = linked(served.port)
                assert (await link.ask(mine, CHECK_IN)).head["again"]
                await link.close(mine)
            with pytest.raises(OSError, match="No space left"):
                await served.task

    run(work)


@pytest.mark.parametrize("how", ["event", "signal", "cancel"])
def test_a_server_that_stops_tells_its_clients_and_finishes_what_it_is_at(how):
    done, started = [], threading.Event()

    def answer(client, message):
        if message.kind == "secure":
            started.set()
            time.sleep(0.2)
            done.append(client)
        return answer_of(toy())(client, message)

    async def work():
        async with serving(answer) as served:
            idle, busy = linked(served.port, 1), linked(served.port, 2, backoff=link.Backoff(1))
            assert (await link.ask(idle, CHECK_IN)).kind == "wait"
            asking = asyncio.create_task(link.ask(busy, Message("secure", {"round": 0, "attempt": 0}, b"x")))
            await asyncio.to_thread(started.wait, 10)
            if how == "signal":
                service.stop_on_signals(served.stop)
                os.kill(os.getpid(), signal.SIGTERM)
            elif how == "event":
                served.stop.set()
            else:
                served.task.cancel()
            await asyncio.gather(served.task, return_exceptions=True)
            assert done == [2]
            for reply in (await link.ask(idle, CHECK_IN), await asking):
                assert reply.head == {"reason": "the server stops; ask again later.", "again": True}
            for each in (idle, busy):
                await link.close(each)
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().remove_signal_handler(number)

    run(work)
