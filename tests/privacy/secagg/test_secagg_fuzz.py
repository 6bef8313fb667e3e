"""Ten thousand hostile messages at the server: nothing crashes, nothing forged counts, memory stays bounded."""

import tracemalloc

import numpy as np
import pytest
import secagg_stand_ins

from fedjaxlite.privacy import secagg
from fedjaxlite.privacy.secagg import errors, messages
from fedjaxlite.privacy.secagg.parties import driver, server

N, ATTACKER, PER_STAGE = 6, 4, 2000
P = secagg.parameters(num_clients=N, length=8, min_survivors=2, server="lying")
LIMITS = messages.limits(P)


def hostile(draws: np.random.Generator, pool: list[bytes]) -> bytes:
    """Bytes made from real messages: flipped, cut, grown, spliced, relabeled, or plain noise."""
    data = bytearray(pool[draws.integers(len(pool))])
    match draws.integers(9):
        case 0:
            for _ in range(draws.integers(1, 4)):
                data[draws.integers(len(data))] ^= 1 << draws.integers(8)
        case 1:
            del data[draws.integers(len(data)) :]
        case 2:
            data += draws.bytes(draws.integers(1, 40))
        case 3:
            other = pool[draws.integers(len(pool))]
            data = data[: draws.integers(len(data))] + other[draws.integers(len(other)) :]
        case 4:  # another header field
            at, size = ((3, 1), (4, 8), (12, 4), (16, 4), (20, 4), (24, 4))[draws.integers(6)]
            data[at : at + size] = draws.bytes(size)
        case 5:  # under the attacker's name
            data[12:16] = ATTACKER.to_bytes(4)
        case 6:  # under the attacker's name, with a change
            data[12:16] = ATTACKER.to_bytes(4)
            data[draws.integers(20, len(data))] ^= 1 << draws.integers(8)
        case 7:
            data = bytearray(draws.bytes(draws.integers(200)))
        case 8:  # a length that fits after a cut
            del data[max(20, draws.integers(len(data))) :]
            data[16:20] = (len(data) - 20).to_bytes(4)
    return bytes(data)


def attack(state, pool: list[bytes], draws) -> tuple[secagg.ServerState, int]:
    """Sends hostile bytes over the attacker's connection; the state after, and how many were refused."""
    refused, blamed = 0, set()
    for _ in range(PER_STAGE):
        try:
            message = messages.decode_from(ATTACKER, hostile(draws, pool), LIMITS)
            after = server.receive(state, message, primitives=secagg_stand_ins.OPEN)
        except errors.SecureAggregationError as error:
            refused += 1
            blamed.add(error.offender)
            state = server.refuse(state, error)
            continue
        # What counts is under the attacker's own name.
        assert message.sender == ATTACKER
        assert server.waiting(state) - server.waiting(after) == {ATTACKER}
        state = after
    assert blamed == {ATTACKER}
    return state, refused


@pytest.mark.parametrize("honest_first", [True, False])
@pytest.mark.slow
def test_ten_thousand_hostile_messages(honest_first):
    draws = np.random.default_rng(20 + honest_first)
    random = secagg_stand_ins.source(6)
    vectors = secagg_stand_ins.vectors(range(N), 8)
    known = secagg.identities(vectors, primitives=secagg_stand_ins.OPEN, random=random)
    state = server.start(P, round_number=7, cohort=range(N), known=known[0].known)
    clients, told, pool, refused = {}, dict.fromkeys(range(N)), [], 0
    tracemalloc.start()
    for stage in driver.stages(P):
        sent = {}
        for u in sorted(told):
            if told[u] is None:
                clients[u], sent[u] = secagg.client.advertise(
                    P, round_number=7, me=u, identity=known[u], primitives=secagg_stand_ins.OPEN, random=random
                )
            else:
                clients[u], sent[u] = secagg.answer(
                    clients[u], told[u], vectors[u], primitives=secagg_stand_ins.OPEN, random=random
                )
        pool += [messages.encode(m) for m in (*sent.values(), *(t for t in told.values() if t is not None))]
        if honest_first:
            state = server.receive_all(state, sent.values(), primitives=secagg_stand_ins.OPEN)
        else:
            own = sent.pop(ATTACKER, None)
        state, count = attack(state, pool, draws)
        refused += count
        if not honest_first:
            others = list(sent.values())
            state = server.receive_all(state, others, primitives=secagg_stand_ins.OPEN)
            if own is not None and ATTACKER in server.waiting(state):
                state = server.receive(state, own, primitives=secagg_stand_ins.OPEN)
            if stage == "advertise":  # only what the attacker's identity has signed counts as its keys
                assert state.adverts[ATTACKER] == own
        state, told = server.close(state, primitives=secagg_stand_ins.OPEN)
        told = {u: m for u, m in told.items() if u in clients}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    result = state.result
    assert result is not None
    assert refused > 0.98 * len(driver.stages(P)) * PER_STAGE
    assert len(result.refusals) == 256
    assert peak < 8 * 2**20
    honest = [u for u in result.survivors if u != ATTACKER]
    assert honest == [u for u in range(N) if u != ATTACKER]
    if honest_first:
        np.testing.assert_array_equal(result.total, secagg_stand_ins.total(vectors, result.survivors))


def test_a_header_that_promises_much_takes_no_memory():
    limits = messages.Limits(clients=10**6, words=10**9)
    tracemalloc.start()
    for kind in range(10):
        for first in (10**6, 10**9, 2**32 - 1):
            sender = (2**32 - 1 if kind in (1, 3, 5, 7) else 1).to_bytes(4)
            body = bytes(32) * (kind in (1, 2)) + first.to_bytes(4)
            data = b"FS\1" + bytes([kind]) + bytes(8) + sender + len(body).to_bytes(4) + body
            with pytest.raises(errors.Malformed):
                messages.decode(data, limits)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
