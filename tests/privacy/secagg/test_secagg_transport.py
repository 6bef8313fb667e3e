"""A round over TCP: exact with clients that leave, and alive under whatever comes in."""

import asyncio
import contextlib
import logging
import ssl

import numpy as np
import pytest
import secagg_stand_ins

from fedjaxlite.privacy import secagg
from fedjaxlite.privacy.secagg import demo, errors, keys, messages, transport
from fedjaxlite.transport import frames

N, LENGTH = 5, 40
P = secagg.parameters(num_clients=N, length=LENGTH, min_survivors=2, server="lying")
VECTORS = secagg_stand_ins.vectors(range(N), LENGTH)
QUICK = transport.Timeouts(connect=10, stage=10, frame=5, patience=20)


class Leaves(Exception):
    """A client is cut off in the middle of a round."""


def leave_after(kind):
    def on_sent(message):
        if isinstance(message, kind):
            raise Leaves

    return on_sent


async def served(clients, *, p=P, timeouts=QUICK, strangers=()):
    """Runs a server and the coroutines that `clients(credentials, known, port)` and `strangers` give."""
    server_credentials, credentials = transport.issue(range(N + 1))
    known = transport.identities(credentials)
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(
        transport.serve_round(
            p,
            round_number=3,
            cohort=range(N),
            context=transport.server_context(server_credentials),
            known={u: credentials[u].public for u in range(N)},
            timeouts=timeouts,
            on_listening=port.set_result,
        )
    )
    running = [asyncio.create_task(c) for c in clients(credentials, known, await port)]
    async with asyncio.timeout(60):
        outcomes = await asyncio.gather(*running, return_exceptions=True)
        return (await asyncio.gather(serving, return_exceptions=True))[0], outcomes


def client(u, credentials, known, port, *, p=P, on_sent=None, vector=None, timeouts=QUICK):
    return transport.take_part(
        p,
        VECTORS[u] if vector is None else vector,
        round_number=3,
        me=u,
        context=transport.client_context(credentials[u]),
        host="127.0.0.1",
        port=port,
        identity=known[u],
        timeouts=timeouts,
        on_sent=on_sent,
    )


async def connect(credentials, port):
    context = transport.client_context(credentials)
    return await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="secagg-server")


def test_clients_that_are_cut_off_leave_the_exact_sum_of_the_others():
    cut = {1: messages.Shares, 3: messages.MaskedInput}

    def clients(credentials, known, port):
        return [
            client(u, credentials, known, port, on_sent=leave_after(cut[u]) if u in cut else None) for u in range(N)
        ]

    result, outcomes = asyncio.run(served(clients))
    assert [type(o) for o in outcomes] == [type(None), Leaves, type(None), Leaves, type(None)]
    assert result.survivors == (0, 2, 3, 4)
    assert result.dropped == (1,)
    in_memory = secagg.run_in_memory(VECTORS, P, leaves={1: "mask", 3: "confirm"}, round_number=3).result
    np.testing.assert_array_equal(result.total, in_memory.total)
    np.testing.assert_array_equal(result.total, secagg_stand_ins.total(VECTORS, (0, 2, 3, 4)))


async def hostile(credentials, known, port, others: asyncio.Event):
    """Client 4 connects with its own certificate and sends everything that it should not."""
    reader, writer = await connect(credentials[4], port)
    state, good = secagg.client.advertise(P, round_number=3, me=4, identity=known[4])
    data = messages.encode(good)
    bad = [
        b"",
        b"garbage",
        data[:-1],
        data + b"\0",
        messages.encode(good._replace(round=2)),  # another round
        messages.encode(good._replace(sender=0)),  # another's name
        messages.encode(good._replace(channel=good.mask)),
    ]
    with contextlib.suppress(OSError, EOFError):
        for frame in bad:
            await frames.write_frame(writer, frame, seconds=5)
        await others.wait()  # the stage stays open until client 4 has shown its keys
        await frames.write_frame(writer, data, seconds=5)  # counts: seven are below the limit of eight
        await frames.write_frame(writer, data, seconds=5)  # a second answer, and one refusal too many
        await reader.read()  # until it is cut off
    await frames.hang_up(writer)


async def oversized(credentials, port):
    """Client 3 announces a frame of 4 GiB."""
    reader, writer = await connect(credentials[3], port)
    writer.write(b"\xff\xff\xff\xff" + bytes(100))
    with contextlib.suppress(OSError):
        assert await reader.read() == b""
    await frames.hang_up(writer)


async def stranger(port):
    """Somebody without a certificate, and somebody without TLS."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n" + bytes(2000))
    with contextlib.suppress(OSError):
        await reader.read()
    await frames.hang_up(writer)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with contextlib.suppress(OSError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        await reader.read()
        await frames.hang_up(writer)


async def uninvited(credentials, port, done: asyncio.Event):
    """Client 5 has a certificate and is not in the round; the certificate of client 0 comes a second time."""
    for u in (5, 0):
        await asyncio.sleep(0.3 * (u == 0))
        reader, writer = await connect(credentials[u], port)
        with contextlib.suppress(OSError):
            assert await reader.read() == b""
        await frames.hang_up(writer)
    done.set()


def test_hostile_connections_are_refused_logged_and_survived(caplog):
    caplog.set_level(logging.INFO, "fedjaxlite.privacy.secagg")

    def clients(credentials, known, port):
        done = asyncio.Event()
        honest = [client(u, credentials, known, port) for u in range(3)]
        return [
            *honest,
            hostile(credentials, known, port, done),
            oversized(credentials, port),
            stranger(port),
            uninvited(credentials, port, done),
        ]

    result, outcomes = asyncio.run(served(clients))
    assert outcomes == [None] * 7
    assert result.survivors == (0, 1, 2)
    np.testing.assert_array_equal(result.total, secagg_stand_ins.total(VECTORS, (0, 1, 2)))
    assert [type(e) for e in result.refusals][:2] == [errors.WrongRound, errors.Duplicate]
    assert {e.offender for e in result.refusals} == {4}
    text = caplog.text
    for expected in (
        "refused a message of client 4: Malformed: client 4: a message has 0 bytes",
        "client 4 sent a message of round 2 in 3",
        "client 4 writes under the name of client 0",
        "client 4 shows one key twice",
        "connection of client 3 ends: Malformed: a frame of 4294967295 bytes",
        "client 5 is not in the round",
        "client 0 connects a second time",
        "connection of client 4 ends: Malformed: client 4 has sent 8 messages that were refused",
    ):
        assert expected in text, text


def test_a_round_of_too_few_is_called_off_and_everybody_told():
    p = secagg.parameters(num_clients=N, length=LENGTH, min_survivors=5, server="lying")

    def clients(credentials, known, port):
        on_sent = leave_after(messages.Advertise)
        return [client(u, credentials, known, port, p=p, on_sent=on_sent if u == 2 else None) for u in range(N)]

    error, outcomes = asyncio.run(served(clients, p=p))
    assert isinstance(error, errors.TooFew)
    told = [o for o in outcomes if isinstance(o, errors.RoundAborted)]
    assert len(told) == 4
    assert "the server left the round: TooFew: 4 clients shared their secrets" in str(told[0])


def test_a_silent_client_is_left_behind():
    timeouts = QUICK._replace(stage=2)

    async def silent(credentials, port):
        reader, writer = await connect(credentials[4], port)
        with contextlib.suppress(OSError):
            await reader.read()
        await frames.hang_up(writer)

    def clients(credentials, known, port):
        return [*(client(u, credentials, known, port) for u in range(4)), silent(credentials, port)]

    result, outcomes = asyncio.run(served(clients, timeouts=timeouts))
    assert outcomes == [None] * 5
    assert result.survivors == (0, 1, 2, 3)


def test_a_client_that_refuses_tells_the_server_why(caplog):
    caplog.set_level(logging.INFO, "fedjaxlite.privacy.secagg")
    other = secagg.parameters(num_clients=N, length=LENGTH, min_survivors=4, server="lying")

    def clients(credentials, known, port):
        # Client 0 was given other parameters, so nobody's signature fits for it, nor its own for the server.
        return [client(u, credentials, known, port, p=other if u == 0 else P) for u in range(N)]

    result, outcomes = asyncio.run(served(clients, timeouts=QUICK._replace(stage=2)))
    assert result.survivors == (1, 2, 3, 4)
    assert isinstance(outcomes[0], (errors.SecureAggregationError, EOFError, OSError))
    assert "a signature of client 0 does not verify" in caplog.text


def test_a_client_does_not_talk_to_another_server():
    async def run():
        _, credentials = transport.issue(range(2))
        other, _ = transport.issue(range(2))
        listener = await asyncio.start_server(
            lambda r, w: frames.hang_up(w), "127.0.0.1", 0, ssl=transport.server_context(other)
        )
        port = listener.sockets[0].getsockname()[1]
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect(credentials[0], port)
        listener.close()
        # Nor to another client that plays the server.
        listener = await asyncio.start_server(
            lambda r, w: frames.hang_up(w), "127.0.0.1", 0, ssl=transport.server_context(credentials[1])
        )
        port = listener.sockets[0].getsockname()[1]
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect(credentials[0], port)
        listener.close()

    asyncio.run(run())


def test_secrets_of_credentials_are_not_printed():
    server, clients = transport.issue([3])
    assert server.private.hex() not in repr(server)
    assert repr(clients[3].private) not in repr(clients[3])
    assert clients[3].public == keys.real().identity(clients[3].private)


@pytest.mark.slow
def test_twenty_processes_three_killed_the_same_sum(capsys):
    assert demo.main(["--clients", "20", "--kill", "3", "--length", "1000"]) == 0
    said = capsys.readouterr().out
    assert "killed before: {0: 'mask', 1: 'confirm', 2: 'reveal'}" in said
    assert "sum of 19 survivors" in said
    assert "bit for bit: True" in said


def test_the_demo_says_what_is_wrong_with_its_arguments(capsys):
    with pytest.raises(SystemExit) as caught:
        demo.main(["--clients", "5"])
    assert caught.value.code == 2
    assert "`min_survivors` is 8, more than the 5 clients" in capsys.readouterr().err
    with pytest.raises(ValueError, match="`num_clients` is 70000, too many for 16 bits each"):
        demo.quantized(70_000, 1, seed=0)
