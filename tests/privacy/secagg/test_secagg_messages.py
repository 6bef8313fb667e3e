"""Messages as bytes: one encoding each, and everything else refused."""

import numpy as np
import pytest
import secagg_stand_ins

from fedjaxlite.privacy import secagg
from fedjaxlite.privacy.secagg import errors, fields, messages
from fedjaxlite.privacy.secagg.errors import NOBODY, SERVER
from fedjaxlite.privacy.secagg.messages import SEALED_BYTES

LIMITS = messages.Limits(clients=4, words=3)
BOX = bytes(range(SEALED_BYTES))
KEY = bytes(range(32))
EXAMPLES = [
    messages.Advertise(7, 1, KEY, KEY[::-1]),
    messages.Advertise(2**64 - 1, NOBODY - 1, KEY, KEY[::-1], 2 * KEY),
    messages.Roster(7, SERVER, KEY, (0, 1, 5), ((1, KEY, KEY, b""), (5, KEY, KEY, 2 * KEY))),
    messages.Shares(7, 1, KEY, ((0, BOX), (5, BOX[::-1]))),
    messages.Deliveries(7, SERVER, ()),
    messages.Deliveries(7, SERVER, ((3, BOX),)),
    messages.MaskedInput(7, 1, np.array([0, 1, 2**32 - 1], np.uint32)),
    messages.Survivors(7, SERVER, (0, 1, 2, NOBODY - 1)),
    messages.Confirm(7, 1, 2 * KEY),
    messages.UnmaskRequest(7, SERVER, (0, 1), (2,), ((0, 2 * KEY),)),
    messages.Reveal(7, 1, ((0, 2**257), (1, 0)), ((2, 5),)),
    messages.Abort(7, 1, NOBODY, "späte Nachricht"),
]


def same(a, b) -> bool:
    return type(a) is type(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_a_message_comes_back_from_its_bytes(message):
    data = messages.encode(message)
    back = messages.decode(data, LIMITS)
    assert same(message, back)
    assert messages.encode(back) == data
    assert len(data) <= messages.longest(type(message), LIMITS)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_bytes_that_are_cut_or_longer_are_refused(message):
    data = messages.encode(message)
    for size in range(len(data)):
        with pytest.raises(errors.Malformed):
            messages.decode(data[:size], LIMITS)
        with pytest.raises(errors.Malformed):  # the same with a header that says so
            cut = bytearray(data[:size])
            cut[16:20] = max(0, size - 20).to_bytes(4)
            messages.decode(bytes(cut), LIMITS)
    with pytest.raises(errors.Malformed, match="header says"):
        messages.decode(data + b"\0", LIMITS)
    longer = bytearray(data + b"\0")
    longer[16:20] = (len(data) - 19).to_bytes(4)
    with pytest.raises(errors.Malformed):
        messages.decode(bytes(longer), LIMITS)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda d: b"XX" + d[2:], "expected version 1 of this protocol"),
        (lambda d: d[:2] + b"\2" + d[3:], "expected version 1"),
        (lambda d: d[:3] + b"\x63" + d[4:], "of kind 99; expected one below 10"),
        (lambda d: d[:12] + (2**32 - 1).to_bytes(4) + d[16:], "Reveal came under the name 4294967295"),
        (lambda d: d[:20] + (5).to_bytes(4) + d[24:], "5 rows; expected at most 4"),
        (lambda d: d[:20] + (2**32 - 1).to_bytes(4) + d[24:], "4294967295 rows; expected at most 4"),
        (lambda d: d[:24] + (9).to_bytes(4) + d[28:], "the name 1 follows 9; expected ascending"),
        (lambda d: d[:24] + (1).to_bytes(4) + d[28:], "the name 1 follows 1"),
        (lambda d: d[:61] + NOBODY.to_bytes(4) + d[65:], "the name 4294967294 follows 0"),
    ],
)
def test_what_is_no_message_is_refused_with_what_is_wrong(change, text):
    data = messages.encode(messages.Reveal(7, 1, ((0, 1), (1, 0)), ((2, 5),)))
    with pytest.raises(errors.Malformed, match=text):
        messages.decode(change(data), LIMITS)


def test_a_server_message_by_a_client_is_refused():
    data = bytearray(messages.encode(messages.Survivors(7, SERVER, (0, 1))))
    data[12:16] = (1).to_bytes(4)
    with pytest.raises(errors.Malformed, match="Survivors came under the name 1"):
        messages.decode(bytes(data), LIMITS)


def test_a_vector_of_another_length_a_flag_and_a_text_are_refused():
    with pytest.raises(errors.Malformed, match="2 words; expected 3"):
        messages.decode(messages.encode(messages.MaskedInput(7, 1, np.zeros(2, np.uint32))), LIMITS)
    data = bytearray(messages.encode(EXAMPLES[0]))
    data[-1] = 2
    with pytest.raises(errors.Malformed, match="a flag is 02"):
        messages.decode(bytes(data), LIMITS)
    data = bytearray(messages.encode(messages.Abort(7, 1, 2, "abc")))
    data[-1] = 0xFF
    with pytest.raises(errors.Malformed, match="not UTF-8"):
        messages.decode(bytes(data), LIMITS)
    with pytest.raises(errors.Malformed, match="text has 3 bytes; expected at most 2"):
        messages.decode(messages.encode(messages.Abort(7, 1, 2, "abc")), LIMITS._replace(letters=2))


def test_a_long_text_is_cut_and_a_field_of_another_length_is_refused_when_written():
    back = messages.decode(messages.encode(messages.Abort(7, 1, 2, "é" * 500)), LIMITS)
    assert isinstance(back, messages.Abort)
    assert back.reason == "é" * 200
    with pytest.raises(ValueError, match="a field has 3 bytes; expected 64"):
        messages.encode(messages.Confirm(7, 1, b"abc"))


def test_messages_come_under_the_name_of_their_connection():
    data = messages.encode(messages.Confirm(7, 1, 2 * KEY))
    assert messages.decode_from(1, data, LIMITS) == messages.Confirm(7, 1, 2 * KEY)
    with pytest.raises(errors.UnknownClient, match="client 2 writes under the name of client 1") as caught:
        messages.decode_from(2, data, LIMITS)
    assert caught.value.offender == 2
    with pytest.raises(errors.Malformed, match="client 2: a message has 3 bytes") as caught:
        messages.decode_from(2, b"abc", LIMITS)
    assert caught.value.offender == 2


def test_words_are_little_endian_and_the_rest_is_big_endian():
    data = messages.encode(messages.MaskedInput(258, 1, np.array([1, 2, 3], np.uint32)))
    assert data.hex() == "465301040000000000000102000000010000001000000003010000000200000003000000"


def test_limits_come_from_the_parameters():
    p = secagg.parameters(num_clients=12, length=5)
    assert messages.limits(p) == fields.Limits(12, 5)
    assert messages.longest(messages.MaskedInput, messages.limits(p)) == 20 + 4 + 20


def test_every_message_of_a_round_comes_back_from_its_bytes():
    p = secagg.parameters(num_clients=5, length=3, min_survivors=2, server="lying")

    def network(message, to):
        return [messages.decode(messages.encode(message), messages.limits(p))]

    vectors = secagg_stand_ins.vectors(range(5), 3)
    played = secagg.run_in_memory(vectors, p, leaves={2: "mask"}, network=network, primitives=secagg_stand_ins.OPEN)
    np.testing.assert_array_equal(played.result.total, secagg_stand_ins.total(vectors, (0, 1, 3, 4)))
