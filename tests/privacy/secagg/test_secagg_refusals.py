"""What is refused, by whom, and who is named: everything that would open more than the sum, or spoil it."""

import numpy as np
import pytest
import secagg_stand_ins

from fedjaxlite.privacy import secagg
from fedjaxlite.privacy.secagg import errors, keys, messages, shamir
from fedjaxlite.privacy.secagg.errors import SERVER
from fedjaxlite.privacy.secagg.parties import client, server, server_state

N = 6
REAL = keys.real()
VECTORS = secagg_stand_ins.vectors(range(N), 4)


def agreed(who: str = "semi-honest", **changes) -> secagg.Parameters:
    return secagg.parameters(**{"num_clients": N, "length": 4, "min_survivors": 2, "server": who, **changes})


def play(network, p=None, leaves=None):
    return secagg.run_in_memory(VECTORS, p or agreed(), leaves=leaves, network=network, primitives=REAL)


def on(kind, change, sender=None, receiver=None):
    """A network that puts `change(message)` in the place of the messages of a kind."""

    def network(message, to):
        if isinstance(message, kind) and sender in (None, message.sender) and receiver in (None, to):
            changed = change(message)
            return changed if isinstance(changed, list) else [changed]
        return [message]

    return network


def flipped(data: bytes, bit: int = 100) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def exact(played, survivors):
    assert played.result.survivors == tuple(survivors)
    np.testing.assert_array_equal(played.result.total, secagg_stand_ins.total(VECTORS, survivors))


# Shares


def wrong_share(message, owner):
    add = lambda pairs: tuple((u, (y + (u == owner)) % shamir.PRIME) for u, y in pairs)  # noqa: E731
    return message._replace(self_shares=add(message.self_shares), key_shares=add(message.key_shares))


@pytest.mark.parametrize("owner", [1, 2, 5])
@pytest.mark.parametrize("liar", [1, 4])
def test_one_wrong_share_is_named_and_the_sum_is_exact_all_the_same(owner, liar):
    played = play(on(messages.Reveal, lambda m: wrong_share(m, owner), sender=liar), leaves={5: "mask"})
    exact(played, range(5))
    assert played.result.wrong_shares == ((owner, liar),)


def test_a_wrong_share_that_cannot_be_told_apart_closes_the_round():
    # Only as many holders as the threshold: one of the four lied, and nobody can say which.
    p = agreed(threshold=4)
    with pytest.raises(errors.BadShares, match=r"secret of client 0 held by clients \[0, 1, 2, 3\]") as caught:
        play(on(messages.Reveal, lambda m: wrong_share(m, 0), sender=1), p, leaves={4: "mask", 5: "mask"})
    assert caught.value.offender is None


def test_a_commitment_that_the_shares_do_not_fit_names_the_dealer():
    with pytest.raises(errors.BadShares, match="secret of client 2 .*it dealt other shares") as caught:
        play(on(messages.Shares, lambda m: m._replace(commitment=flipped(m.commitment)), sender=2))
    assert caught.value.offender == 2


def test_a_share_outside_the_field_is_refused():
    change = lambda m: m._replace(self_shares=((m.self_shares[0][0], 2**264 - 1), *m.self_shares[1:]))  # noqa: E731
    played = play(on(messages.Reveal, change, sender=3))
    exact(played, range(N))
    assert [type(error) for error in played.result.refusals] == [errors.BadShares]
    assert played.result.refusals[0].offender == 3


def test_shares_of_others_than_were_asked_for_are_refused():
    change = lambda m: m._replace(self_shares=m.self_shares[1:])  # noqa: E731
    played = play(on(messages.Reveal, change, sender=3))
    exact(played, range(N))
    assert [(type(e), e.offender) for e in played.result.refusals] == [(errors.WrongNames, 3)]


# Keys


def test_a_key_that_is_not_the_one_of_a_dropout_is_noticed():
    # Client 5 advertises one mask key to the server and deals shares of another.
    def other_key(message):
        return message._replace(mask=REAL.public(b"another key of 32 bytes, secret."))

    def network(message, to):
        if isinstance(message, messages.Advertise) and message.sender == 5:
            return [other_key(message)]
        return [message]

    played = play(network)
    assert isinstance(played.refused[5], errors.BadKey)  # its own roster shows a key that is not its own
    exact(played, range(5))


def test_a_dealer_of_a_wrong_key_is_named_when_it_drops_out():
    at_server, clients, told = secagg_stand_ins.until("share", agreed(), VECTORS, REAL)
    wrong = clients[5].mask._replace(private=b"another key of 32 bytes, secret.")
    clients[5] = clients[5]._replace(mask=wrong)
    sent = []
    for u in range(N):
        clients[u], message = client.share(clients[u], told[u])
        sent.append(message)
    at_server, told = server.step(at_server, sent)
    steps = [client.mask(clients[u], told[u], VECTORS[u]) for u in range(N - 1)]
    at_server, told = server.step(at_server, [message for _, message in steps])
    sent = [client.unmask(state, told[state.me])[1] for state, _ in steps]
    with pytest.raises(errors.BadShares, match="client 5 .*it dealt other shares") as caught:
        server.step(at_server, sent)
    assert caught.value.offender == 5


@pytest.mark.parametrize("field", ["channel", "mask"])
def test_a_key_of_low_order_is_refused_and_its_client_left_out(field):
    played = play(on(messages.Advertise, lambda m: m._replace(**{field: bytes(32)}), sender=2))
    exact(played, [0, 1, 3, 4, 5])
    assert [(type(e), e.offender) for e in played.result.refusals] == [(errors.BadKey, 2)]


def test_a_key_that_was_shown_before_is_refused():
    taken = []

    def copy(message):
        taken.append(message)
        return message._replace(mask=taken[0].channel) if message.sender == 3 else message

    played = play(on(messages.Advertise, copy))
    exact(played, [0, 1, 2, 4, 5])
    assert [(type(e), e.offender) for e in played.result.refusals] == [(errors.Duplicate, 3)]


def test_one_key_for_both_purposes_is_refused():
    played = play(on(messages.Advertise, lambda m: m._replace(mask=m.channel), sender=4))
    assert [(type(e), e.offender) for e in played.result.refusals] == [(errors.Duplicate, 4)]


def roster_of(p=None, primitives=REAL, who=2):
    _, clients, told = secagg_stand_ins.until("share", p or agreed(), VECTORS, primitives)
    return clients[who], told[who]


def test_a_roster_with_a_key_twice_is_refused_by_clients():
    state, roster = roster_of()
    rows = list(roster.rows)
    rows[4] = (4, rows[1][1], *rows[4][2:])
    with pytest.raises(errors.Duplicate, match="client 4 shows a key that client 1 shows too") as caught:
        client.share(state, roster._replace(rows=tuple(rows)))
    assert caught.value.offender == 4


def test_a_roster_without_the_own_keys_is_refused():
    state, roster = roster_of()
    rows = tuple((u, keys.generate(REAL).public, *rest[1:]) if u == 2 else (u, *rest) for u, *rest in roster.rows)
    for changed in (roster._replace(rows=rows), roster._replace(rows=roster.rows[:2] + roster.rows[3:])):
        with pytest.raises(errors.BadKey, match="does not have the keys that client 2 advertised") as caught:
            client.share(state, changed)
        assert caught.value.offender == SERVER


def test_a_roster_with_other_neighbors_than_the_ring_gives_is_refused():
    state, roster = roster_of(agreed(neighbors=2, threshold=2))
    near = [u for u, *_ in roster.rows if u != 2]
    far = next(u for u in range(N) if u not in (2, *near))
    rows = tuple(sorted((far if u == near[0] else u, *rest) for u, *rest in roster.rows))
    with pytest.raises(errors.WrongNames, match="by the ring of its seed"):
        client.share(state, roster._replace(rows=rows))
    with pytest.raises(errors.WrongNames, match="has to hold 2"):
        client.share(state, roster._replace(ids=(0, 1, 3, 4, 5)))


def test_a_roster_of_too_few_is_refused():
    state, roster = roster_of()
    with pytest.raises(errors.TooFew, match="2 of the neighborhood of client 2 is present"):
        client.share(state, roster._replace(ids=(1, 2), rows=roster.rows[1:3]))


# Sealed shares


@pytest.mark.parametrize("bit", [0, 90, 100, 700, 879])
def test_one_bit_of_a_sealed_share_is_noticed_and_its_sender_named(bit):
    def change(message):
        return message._replace(sealed=tuple((u, flipped(box, bit) if u == 3 else box) for u, box in message.sealed))

    played = play(on(messages.Deliveries, change, receiver=1))
    assert isinstance(played.refused[1], errors.BadCiphertext)
    assert played.refused[1].offender == 3
    exact(played, [0, 2, 3, 4, 5])


def test_swapped_senders_are_noticed():
    def change(message):
        names = [u for u, _ in message.sealed]
        boxes = [box for _, box in message.sealed]
        return message._replace(sealed=tuple(zip(names, [boxes[1], boxes[0], *boxes[2:]], strict=True)))

    played = play(on(messages.Deliveries, change, receiver=5))
    assert isinstance(played.refused[5], errors.BadCiphertext)
    assert played.refused[5].offender == 0


def test_sealed_shares_for_somebody_else_are_noticed():
    taken = {}

    def network(message, to):
        if isinstance(message, messages.Deliveries):
            taken[to] = message
            if to == 4:  # gets what client 0 had sealed for client 3
                box = dict(taken[3].sealed)[0]
                return [message._replace(sealed=((0, box), *message.sealed[1:]))]
        return [message]

    assert play(network).refused[4].offender == 0


def test_sealed_shares_of_another_round_are_noticed():
    old = {}
    secagg.run_in_memory(
        VECTORS,
        agreed(),
        round_number=6,
        primitives=REAL,
        network=on(messages.Deliveries, lambda m: old.setdefault(len(old), m)),
    )
    played = play(on(messages.Deliveries, lambda m: old[0]._replace(round=m.round), receiver=0))
    assert isinstance(played.refused[0], errors.BadCiphertext)


def test_sealed_shares_under_other_parameters_are_noticed():
    _, clients, told = secagg_stand_ins.until("share", agreed(), VECTORS, REAL)
    other = clients[4]._replace(parameters=agreed(threshold=3))
    sealed = {u: dict(client.share(other if u == 4 else clients[u], told[u])[1].sealed) for u in range(1, N)}
    state, _ = client.share(clients[0], told[0])
    deliveries = messages.Deliveries(7, SERVER, tuple((u, sealed[u][0]) for u in range(1, N)))
    with pytest.raises(errors.BadCiphertext, match="under the name of client 4 do not open"):
        client.mask(state, deliveries, VECTORS[0])


def test_shares_of_somebody_else_inside_a_good_box_are_noticed():
    p, random = agreed(), secagg_stand_ins.source(1)
    _, clients, told = secagg_stand_ins.until("share", p, VECTORS, REAL)
    shared = {u: client.share(clients[u], told[u]) for u in range(N)}
    own = clients[0]
    key = keys.channel_key(
        REAL, own.channel.private, clients[1].channel.public, round_number=7, sender=0, receiver=1, me=0
    )
    plain = messages.SHARES.pack(7, 2, 1, bytes(33), bytes(33))
    box = keys.seal(REAL, key, plain, messages.box_header(p, 7, 0, 1), random)
    deliveries = messages.Deliveries(
        7, SERVER, tuple((u, box if u == 0 else dict(shared[u][1].sealed)[1]) for u in range(N) if u != 1)
    )
    with pytest.raises(errors.BadCiphertext, match="client 0 sealed shares of client 2 for client 1") as caught:
        client.mask(shared[1][0], deliveries, VECTORS[1])
    assert caught.value.offender == 0
    big = messages.SHARES.pack(7, 0, 1, b"\xff" * 33, bytes(33))
    box = keys.seal(REAL, key, big, messages.box_header(p, 7, 0, 1), random)
    deliveries = deliveries._replace(sealed=((0, box), *deliveries.sealed[1:]))
    with pytest.raises(errors.BadShares, match="client 0 dealt a share outside the field"):
        client.mask(shared[1][0], deliveries, VECTORS[1])


# Who is talking, and when


@pytest.mark.parametrize(
    "kind", [messages.Advertise, messages.Shares, messages.MaskedInput, messages.Confirm, messages.Reveal]
)
def test_a_second_answer_does_not_count_and_is_named(kind):
    played = play(on(kind, lambda m: [m, m], sender=3), agreed("lying"))
    exact(played, range(N))
    assert [(type(e), e.offender) for e in played.result.refusals] == [(errors.Duplicate, 3)]


def test_a_second_vector_is_not_added():
    played = play(on(messages.MaskedInput, lambda m: [m, m._replace(vector=m.vector + np.uint32(1))], sender=3))
    exact(played, range(N))


@pytest.mark.parametrize(
    "kind", [messages.Advertise, messages.Shares, messages.MaskedInput, messages.Confirm, messages.Reveal]
)
def test_a_message_of_another_round_does_not_count_and_is_named(kind):
    played = play(on(kind, lambda m: [m._replace(round=m.round + 1), m], sender=3), agreed("lying"))
    exact(played, range(N))
    assert [(type(e), e.offender) for e in played.result.refusals] == [(errors.WrongRound, 3)]


def test_a_signed_message_of_another_round_does_not_count_even_under_this_number():
    old = []
    random = secagg_stand_ins.source(5)
    known = secagg.identities(VECTORS, random=random)
    p = agreed("lying")
    keep = on(messages.Advertise, lambda m: old.append(m) or m, sender=3)
    secagg.run_in_memory(VECTORS, p, round_number=1, known=known, network=keep)
    replay = on(messages.Advertise, lambda m: old[0]._replace(round=2), sender=3)
    played = secagg.run_in_memory(VECTORS, p, round_number=2, known=known, network=replay)
    exact(played, [0, 1, 2, 4, 5])
    assert [(type(e), e.offender) for e in played.result.refusals] == [(errors.BadSignature, 3)]


def test_messages_out_of_turn_of_strangers_and_of_those_who_left_are_refused():
    state, clients, _ = secagg_stand_ins.until("mask", agreed(), VECTORS)
    vector = messages.MaskedInput(7, 1, VECTORS[1])
    with pytest.raises(errors.WrongStage, match="client 1 sent a Reveal at the stage 'mask'"):
        server.receive(state, messages.Reveal(7, 1, (), ()))
    with pytest.raises(errors.UnknownClient, match="client 77 is not in the round") as caught:
        server.receive(state, vector._replace(sender=77))
    assert caught.value.offender == 77
    without = state._replace(sharing=state.sharing - {1})
    with pytest.raises(errors.UnknownClient, match="client 1 left the round"):
        server.receive(without, vector)
    with pytest.raises(errors.Malformed, match="client 1 sent a vector of another kind"):
        server.receive(state, vector._replace(vector=VECTORS[1].astype(np.int64)))
    with pytest.raises(errors.WrongNames, match="client 1 shared secrets with others than its neighbors"):
        server.receive(state._replace(stage="share", commitments={}), messages.Shares(7, 1, bytes(32), ()))


def test_a_flood_of_refusals_takes_no_memory():
    state = server.start(agreed(), round_number=7, cohort=range(N))
    state = server_state.receive_all(state, [messages.Reveal(8, 1, (), ())] * 1000)
    assert len(state.refusals) == 256
    assert server.blamed(state) == {1: 256}


# What the server asks for


def asked(p=None):
    _, clients, told = secagg_stand_ins.until("reveal", p or agreed(), VECTORS)
    return clients[0], told[0]


def test_both_secrets_of_a_client_are_never_given():
    state, request = asked()
    with pytest.raises(errors.WrongNames, match="both secrets of client 3 are asked for") as caught:
        client.unmask(state, request._replace(dropped=(3,)), primitives=secagg_stand_ins.OPEN)
    assert caught.value.offender == SERVER


def test_shares_are_given_once():
    state, request = asked()
    after, _ = client.unmask(state, request, primitives=secagg_stand_ins.OPEN)
    with pytest.raises(errors.AskedTwice, match="client 0 has answered a UnmaskRequest of round 7") as caught:
        client.unmask(after, request._replace(alive=request.alive[1:], dropped=request.alive[:1]))
    assert caught.value.offender == SERVER


@pytest.mark.parametrize(
    ("alive", "dropped"), [((1, 2, 3, 4, 99), (5,)), ((0, 1, 2, 3, 4), (5,)), ((1, 2, 3, 4), (0, 5))]
)
def test_unknown_names_are_refused(alive, dropped):
    state, request = asked()
    with pytest.raises(errors.WrongNames, match="unknown to what is asked"):
        client.unmask(state, request._replace(alive=alive, dropped=dropped))


def test_missing_names_are_refused():
    state, request = asked()
    with pytest.raises(errors.WrongNames, match="client 5 is missing in what is asked"):
        client.unmask(state, request._replace(alive=(1, 2, 3, 4)))


def test_too_few_survivors_are_refused():
    state, request = asked()
    with pytest.raises(errors.TooFew, match="3 of the neighborhood of client 0 survived"):
        client.unmask(state, request._replace(alive=(1, 2), dropped=(3, 4, 5)))
    state, request = asked(agreed(min_survivors=6))
    with pytest.raises(errors.TooFew, match="5 survivors; expected at least 6"):
        client.unmask(state, request._replace(alive=(1, 2, 3, 4), dropped=(5,)))


@pytest.mark.parametrize("stage", ["share", "mask", "confirm", "reveal"])
def test_every_step_is_taken_once_and_in_its_round(stage):
    primitives = secagg_stand_ins.OPEN
    _, clients, told = secagg_stand_ins.until(stage, agreed("lying"), VECTORS)
    state, message = clients[2], told[2]
    with pytest.raises(errors.WrongRound, match="of round 8 in round 7"):
        secagg.answer(state, message._replace(round=8), VECTORS[2], primitives=primitives)
    after, _ = secagg.answer(state, message, VECTORS[2], primitives=primitives)
    with pytest.raises(errors.AskedTwice, match="client 2 has answered"):
        secagg.answer(after, message, VECTORS[2], primitives=primitives)
    early = state._replace(stage="advertised") if stage != "share" else None
    if early is not None:
        with pytest.raises(errors.WrongStage, match="came before its turn"):
            secagg.answer(early, message, VECTORS[2], primitives=primitives)
    with pytest.raises(errors.WrongStage, match="expected a .* by the server"):
        secagg.answer(state, message._replace(sender=3), VECTORS[2], primitives=primitives)


def test_messages_of_another_kind_and_the_servers_leave_are_refused():
    state, _ = asked()
    with pytest.raises(errors.RoundAborted, match="the server left the round: no time"):
        secagg.answer(state, messages.Abort(7, SERVER, errors.NOBODY, "no time"), VECTORS[0], primitives=REAL)
    with pytest.raises(errors.RoundAborted, match="the server sent a Confirm"):
        secagg.answer(state, messages.Confirm(7, 1, bytes(64)), VECTORS[0], primitives=REAL)


def test_deliveries_of_strangers_or_of_too_few_are_refused():
    _, clients, told = secagg_stand_ins.until("mask", agreed(), VECTORS)
    state, deliveries = clients[0], told[0]
    stranger = deliveries._replace(sealed=(*deliveries.sealed, (9, bytes(messages.SEALED_BYTES))))
    with pytest.raises(errors.WrongNames, match="shares of client 9, no neighbor of client 0"):
        client.mask(state, stranger, VECTORS[0], primitives=secagg_stand_ins.OPEN)
    with pytest.raises(errors.TooFew, match="3 of the neighborhood of client 0 got as far as sharing"):
        client.mask(state, deliveries._replace(sealed=deliveries.sealed[:2]), VECTORS[0])


@pytest.mark.parametrize(
    ("vector", "error", "text"),
    [
        (np.zeros(4, np.float32), TypeError, "`vector` has dtype float32; expected uint32"),
        (np.zeros(4, np.int32), TypeError, "`vector` has dtype int32"),
        (np.zeros(5, np.uint32), ValueError, r"`vector` has shape \(5,\); expected \(4,\)"),
    ],
)
def test_vectors_of_another_kind_are_refused(vector, error, text):
    _, clients, told = secagg_stand_ins.until("mask", agreed(), VECTORS)
    with pytest.raises(error, match=text):
        client.mask(clients[0], told[0], vector, primitives=secagg_stand_ins.OPEN)


# A server that lies


def test_a_lying_server_needs_identities():
    with pytest.raises(ValueError, match="`identity` is missing"):
        client.advertise(agreed("lying"), round_number=0, me=1)
    with pytest.raises(ValueError, match="`known` is missing"):
        server.start(agreed("lying"), round_number=0, cohort=(0, 1))
    with pytest.raises(ValueError, match="`cohort` has 3 ids, 2 of them distinct"):
        server.start(agreed(), round_number=0, cohort=(0, 1, 1))


def test_a_roster_with_a_key_of_the_servers_own_is_refused_where_keys_are_signed():
    state, roster = roster_of(agreed("lying"))
    own = keys.generate(REAL)
    rows = tuple((u, own.public, *rest[1:]) if u == 4 else (u, *rest) for u, *rest in roster.rows)
    changed = roster._replace(rows=rows)
    with pytest.raises(errors.WrongNames, match="not the hash of the keys"):
        client.share(state, changed)
    seed = secagg.graph.seed(7, [row[:3] for row in rows])
    with pytest.raises(errors.BadSignature, match="signature of client 4 does not verify") as caught:
        client.share(state, changed._replace(seed=seed))
    assert caught.value.offender == 4


def test_a_roster_with_a_stranger_is_refused_where_keys_are_signed():
    state, roster = roster_of(agreed("lying", num_clients=7))
    pair = keys.generate(REAL), keys.generate(REAL)
    rows = (*roster.rows, (9, pair[0].public, pair[1].public, bytes(64)))
    seed = secagg.graph.seed(7, [row[:3] for row in rows])
    with pytest.raises(errors.BadSignature, match="no identity of client 9 is known"):
        client.share(state, messages.Roster(7, SERVER, seed, (*roster.ids, 9), rows))


def told_two_stories():
    """Clients 0, 1, 2 are told that 5 dropped out, the others that 4 did; each signs what it was told."""
    p = agreed("lying")
    _, clients, told = secagg_stand_ins.until("confirm", p, VECTORS)
    stories = {u: (0, 1, 2, 3, 4) if u < 3 else (0, 1, 2, 3, 5) for u in range(N) if u != 4}
    signed = {}
    for u, left in stories.items():
        clients[u], signed[u] = client.confirm(clients[u], told[u]._replace(ids=left), primitives=secagg_stand_ins.OPEN)
    return clients, signed


def test_a_server_that_tells_two_stories_gets_no_shares():
    clients, signed = told_two_stories()
    request = messages.UnmaskRequest(7, SERVER, (1, 2, 3, 4), (5,))
    good = tuple((u, signed[u].signature) for u in (0, 1, 2))
    with pytest.raises(errors.TooFew, match="3 clients confirm who survived; expected at least 4"):
        client.unmask(clients[0], request._replace(signatures=good), primitives=secagg_stand_ins.OPEN)
    mixed = (*good, (3, signed[3].signature))
    with pytest.raises(errors.BadSignature, match="a signature of client 3 does not verify"):
        client.unmask(clients[0], request._replace(signatures=mixed), primitives=secagg_stand_ins.OPEN)
    twice = (*good, (5, signed[5].signature))
    with pytest.raises(errors.UnknownClient, match="client 5 confirms who survived and is not among them"):
        client.unmask(clients[0], request._replace(signatures=twice), primitives=secagg_stand_ins.OPEN)


def test_another_story_than_the_one_that_was_signed_gets_no_shares():
    clients, signed = told_two_stories()
    request = messages.UnmaskRequest(7, SERVER, (1, 2, 3, 5), (4,), tuple((u, m.signature) for u, m in signed.items()))
    with pytest.raises(errors.WrongNames, match="not those that were confirmed"):
        client.unmask(clients[0], request, primitives=secagg_stand_ins.OPEN)


@pytest.mark.parametrize("ids", [(1, 2, 3, 4, 5), (0, 1, 2, 3, 99)])
def test_survivors_without_the_client_or_with_strangers_are_not_signed(ids):
    _, clients, told = secagg_stand_ins.until("confirm", agreed("lying"), VECTORS)
    with pytest.raises(errors.WrongNames, match="leave out client 0, or name clients that did not get this far"):
        client.confirm(clients[0], told[0]._replace(ids=ids), primitives=secagg_stand_ins.OPEN)


def test_too_small_a_sum_is_not_signed():
    _, clients, told = secagg_stand_ins.until("confirm", agreed("lying", min_survivors=6), VECTORS)
    with pytest.raises(errors.TooFew, match="5 survivors; expected at least 6"):
        client.confirm(clients[0], told[0]._replace(ids=(0, 1, 2, 3, 4)), primitives=secagg_stand_ins.OPEN)
    with pytest.raises(errors.TooFew, match="3 of the neighborhood of client 0 survived"):
        client.confirm(clients[0], told[0]._replace(ids=(0, 1, 2)), primitives=secagg_stand_ins.OPEN)


def test_survivors_in_two_pieces_are_not_signed():
    p = agreed("lying", neighbors=2, threshold=2)
    _, clients, told = secagg_stand_ins.until("confirm", p, VECTORS)
    near = secagg.graph.ring(range(N), 2, clients[0].seed)
    around = [0, near[0][0]]
    while len(around) < N:
        around += [v for v in near[around[-1]] if v not in around][:1]
    left = tuple(sorted({0, around[1], around[3], around[4]}))
    with pytest.raises(errors.TooFew, match="groups that share no masks"):
        client.confirm(clients[0], told[0]._replace(ids=left), primitives=secagg_stand_ins.OPEN)


def test_there_is_nothing_to_confirm_to_a_trusted_server():
    _, clients, _ = secagg_stand_ins.until("reveal", agreed(), VECTORS)
    with pytest.raises(errors.WrongStage, match="nothing to confirm"):
        client.confirm(clients[0], messages.Survivors(7, SERVER, tuple(range(N))))


def test_a_confirmation_by_somebody_else_is_refused():
    state, clients, told = secagg_stand_ins.until("confirm", agreed("lying"), VECTORS)
    _, message = client.confirm(clients[1], told[1], primitives=secagg_stand_ins.OPEN)
    with pytest.raises(errors.BadSignature, match="a signature of client 2 does not verify") as caught:
        server.receive(state, message._replace(sender=2), primitives=secagg_stand_ins.OPEN)
    assert caught.value.offender == 2


def test_too_few_confirmations_close_the_round():
    p = agreed("lying", threshold=4)
    leaves = dict.fromkeys((0, 1, 2), "confirm")
    with pytest.raises(errors.TooFew, match="3 clients confirmed who survived; expected at least 4"):
        secagg.run_in_memory(VECTORS, p, leaves=leaves, primitives=secagg_stand_ins.OPEN)


def test_secrets_are_not_printed():
    state, _ = asked()
    for secret in (state.channel.private, state.mask.private, state.secret):
        assert secret.hex() not in repr(state)
        assert repr(secret) not in repr(state)
    assert "private=..." in repr(state.channel)
    assert "private=..." in repr(secagg.Identity(b"s" * 32, {}))
