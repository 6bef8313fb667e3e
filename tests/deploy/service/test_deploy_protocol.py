"""The protocol's messages: every one is read as it was written, and whatever is none is refused with BadMessage."""

import json
import math
import os
import random
import struct
import zlib

import pytest
from deploy_messages import GOOD, MESSAGES
from hypothesis import given
from hypothesis import strategies as st

from fedjaxlite.deploy.device import packing, protocol, schemas
from fedjaxlite.deploy.device.protocol import CHUNK, BadMessage, Message, decode, encode, is_question

IDS = [f"{m.kind}-{i}" for i, m in enumerate(GOOD)]


def raw(head, body=b"", version=1, magic=b"FJD"):
    head = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack(">3sBI", magic, version, len(head)) + head + body


def survives(data):
    """Reads bytes: a refusal is a BadMessage of a short text, and what is read is a message through and through."""
    message, refusal = None, "a word"
    try:
        message = decode(data)
    except BadMessage as error:
        refusal = str(error)
    assert 0 < len(refusal) < 600
    assert refusal.isprintable()
    if message is None:
        return None
    assert decode(encode(message)) == message
    return message


@given(MESSAGES)
def test_every_message_is_read_as_it_was_written(message):
    assert decode(encode(message)) == message


def test_there_is_a_good_message_of_every_kind():
    kinds = {m.kind for m in GOOD}
    assert kinds == set(schemas.schemas(CHUNK))
    assert {m.kind for m in GOOD if is_question(m)} == protocol.ASKS
    assert [is_question(m) for m in GOOD if m.kind == "secure"] == [True, False]


@pytest.mark.parametrize("message", GOOD, ids=IDS)
def test_any_truncation_is_refused(message):
    data = encode(message)
    size = len(data) - len(message.body)
    for end in range(size):
        with pytest.raises(BadMessage):
            decode(data[:end])


@pytest.mark.parametrize("message", GOOD, ids=IDS)
def test_a_missing_an_extra_and_a_doubled_field_are_refused(message):
    head = {"kind": message.kind} | message.head
    for name in head:
        with pytest.raises(BadMessage, match="are missing, and|without the name"):
            decode(raw({k: v for k, v in head.items() if k != name}, message.body))
        twice = json.dumps(head)[:-1] + f", {json.dumps(name)}: {json.dumps(head[name])}}}"
        with pytest.raises(BadMessage, match="names a field twice"):
            decode(raw(twice.encode(), message.body))
    with pytest.raises(BadMessage, match=f"{message.kind}: the fields '' are missing, and 'extra' are unknown"):
        decode(raw(head | {"extra": 1}, message.body))


@pytest.mark.parametrize("message", GOOD, ids=IDS)
def test_a_value_of_another_type_is_refused_and_named(message):
    others = [None, True, 1, -2, 0.5, 2**64, 10**400, 1e308 * 10, "x\n", "\ud800", [], [1], [True, 1], {}, {"": 1.0}]
    for name in message.head:
        check = next(
            s.fields[name] for s in schemas.schemas(CHUNK)[message.kind] if s.fields.keys() == message.head.keys()
        )
        for other in others:
            bad = message.head | {name: other}
            if not check(other):
                continue
            with pytest.raises(BadMessage, match=f"{message.kind}: `{name}` is .*; expected "):
                encode(message._replace(head=bad))
            if not (isinstance(other, float) and math.isinf(other)):
                with pytest.raises(BadMessage, match=f"{message.kind}: `{name}` is .*; expected "):
                    decode(raw({"kind": message.kind} | bad, message.body))
        refused = [other for other in others if check(other)]
        assert len(refused) >= 9, (name, refused)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "0 bytes; a message has at least 8"),
        (raw({"kind": "introduce"}, magic=b"FS\x01"), "do not begin as a message does"),
        (raw({"kind": "introduce"}, version=2), "a message of version 2; expected 1: update the older side"),
        (raw(b'{"kind":"have","offset":NaN}'), "a head with NaN, which is no number"),
        (raw(b'{"kind":"have","offset":-Infinity}'), "a head with -Infinity"),
        (raw(b'{"kind":"have","offset":1e999}'), "`offset` is inf; expected an integer"),
        (raw(b'{"kind":"have","offset":1.0}'), "`offset` is 1.0; expected an integer"),
        (raw(b'{"kind":"have","offset":true}'), "`offset` is True; expected an integer"),
        (raw(b'{"kind":"have","offset":' + b"9" * 5000 + b"}"), "not JSON"),
        (raw(b'{"kind":"have","offset":' + b"9" * 4000 + b"}"), "`offset` is an integer of 64 bits or more; expected"),
        (raw(b"[" * 16000), "not JSON"),
        (raw(b'{"kind":"have","offset":' + b"[" * 900 + b"]" * 900 + b"}"), "`offset` is a list of 1; expected"),
        (raw(b'{"kind":"have","offset":' + b'{"a":' * 3000 + b"1" + b"}" * 3000 + b"}"), "not JSON|extra|a head of"),
        (raw(b"\xff\xfe"), "not JSON"),
        (raw(b"[]"), "not a JSON object"),
        (raw(b'{"kind":["have"],"offset":1}'), "without the name of its kind"),
        (raw({"kind": "x" * 500}), "a message of the kind 'xxx"),
        (raw({"kind": "have", "offset": 1}, b"x"), "have: a body of 1 bytes; expected at most 0"),
        (raw({"kind": "have", "offset": 1, "pad": "x" * 17000}), "expected at most 16384, and all of it"),
        (struct.pack(">3sBI", b"FJD", 1, 2**32 - 1) + b"{}", "a head of 4294967295 bytes in 10"),
        (raw({"kind": "chunk", "offset": 4, "total": 3, "packed": "raw"}), "a piece at 4 of 3 bytes"),
        (raw({"kind": "chunk", "offset": 0, "total": 3, "packed": "raw"}, bytes(CHUNK + 1)), "expected at most 1048576"),
        (raw({"kind": "secure", "round": 0, "attempt": 0}, bytes(CHUNK + 1)), "expected at most 1048576"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_no_message_is_refused_with_its_reason(data, text):
    with pytest.raises(BadMessage, match=text):
        decode(data)


def test_a_secure_body_may_be_as_long_as_its_reader_says():
    message = Message("secure", {"round": 0, "attempt": 0}, bytes(CHUNK + 1))
    assert decode(encode(message), most_body=CHUNK + 1) == message


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_or_read(data):
    survives(data)
    survives(raw(data))


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5), lambda s: st.lists(s) | st.dictionaries(st.text(max_size=5), s)), st.sampled_from(GOOD))  # fmt: skip
def test_any_json_is_refused_or_read(value, good):
    survives(raw(value))
    survives(raw({"kind": good.kind} | dict.fromkeys(good.head, value)))


def mutated(rng, data):
    """Bytes with up to four changes: flips, cuts, doublings, strange numbers, other messages' parts."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        what = rng.randrange(7)
        if what == 0 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif what == 1:
            del data[at : at + rng.randint(1, 20)]
        elif what == 2:
            data[at:at] = rng.randbytes(rng.randint(1, 20))
        elif what == 3:
            data[at:at] = data[at : at + rng.randint(1, 40)]
        elif what == 4:
            data[at : at + rng.randint(0, 4)] = rng.choice(
                (b"NaN", b"1e999", b"-1", b"9" * 30, b"null", b"[[", b'"', b"\\u0000", b"\\ud800")
            )
        elif what == 5:
            other = encode(rng.choice(GOOD))
            data[at:] = other[min(at, len(other)) :]
        elif len(data) >= 8:
            # The head's length is put right, so that the change reaches the schema.
            struct.pack_into(">I", data, 4, max(0, len(data) - 8 - rng.choice((0, 3))))
    return bytes(data)


def test_ten_thousand_mutated_messages_are_refused_or_read():
    rng = random.Random(5)
    read = [survives(mutated(rng, encode(rng.choice(GOOD)))) for _ in range(10_000)]
    kept = sum(message is not None for message in read)
    assert 500 < kept < 5000  # changes of a body, a digit or a word leave a message; most leave none
    assert {m.kind for m in read if m is not None} == {m.kind for m in GOOD}


def test_a_refusal_can_always_be_said():
    for reason in ("", "x" * 5000, "a\nb\0c\ud800", "é" * 1000, "\U0001f600" * 1000):
        assert decode(encode(protocol.refused(reason))).kind == "refused"


@given(st.binary(max_size=3000), st.booleans())
def test_pieces_unpack_to_what_was_packed(piece, try_it):
    packed, body = packing.pack(piece, try_it=try_it)
    assert len(body) <= len(piece)
    assert packing.unpack(body, packed, most=len(piece)) == piece


def test_packing_is_tried_where_it_helps_only():
    assert packing.worth_packing(bytes(3 * CHUNK))
    assert not packing.worth_packing(os.urandom(3 * CHUNK))
    assert packing.pack(os.urandom(1000))[0] == "raw"
    assert packing.pack(bytes(1000))[0] == "zlib"
    assert packing.pack(bytes(1000), try_it=False)[0] == "raw"


def test_a_bomb_and_what_is_behind_a_piece_are_refused():
    bomb = zlib.compress(bytes(40 * CHUNK), 9)
    assert len(bomb) < CHUNK
    with pytest.raises(BadMessage, match="a piece of more than 1048576 bytes"):
        packing.unpack(bomb, "zlib")
    good = zlib.compress(b"abc")
    for body, text in (
        (good[:-1], "cut off"), (good + b"x", "something behind"), (b"abc", "does not unpack"), (b"", "cut off")
    ):  # fmt: skip
        with pytest.raises(BadMessage, match=text):
            packing.unpack(body, "zlib")
    with pytest.raises(BadMessage, match="a piece of more than 2 bytes"):
        packing.unpack(b"abc", "raw", most=2)
