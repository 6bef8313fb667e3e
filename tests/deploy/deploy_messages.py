"""One good message of every kind, and strategies for all of them."""

from hypothesis import strategies as st

from fedjaxlite.deploy.device.protocol import Message

HASH = "0123456789abcdef" * 4
SETTLED = {"settled": -1, "counted": False}
PIECE = {"offset": 0, "total": 3, "packed": "raw"}
PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
GOOD = [
    Message(
        "check_in",
        {
            "pending": -1,
            "attempt": 0,
            "num_examples": 7,
            "idle": True,
            "charging": False,
            "wireless": True,
            "program": "",
        },
    ),
    Message("get", {"sha256": HASH, "offset": 5}),
    Message("put", {"round": 3, "attempt": 0, "sha256": HASH} | PIECE, b"abc"),
    Message("secure", {"round": 3, "attempt": 1}, b"xyz"),
    Message("evaluated", {"round": 3, "metrics": {"accuracy": 0.5, "loss": -1e-300}, "num_examples": 9}),
    Message("failed", {"round": 3, "attempt": 0, "reason": "no memory"}),
    Message("introduce", {}),
    Message("enroll", {"token": "fjl1.a-_.b", "csr": PEM}),
    Message("wait", {"seconds": 1.5, "reason": "nobody else is here: é"} | SETTLED),
    Message(
        "task",
        {
            "round": 3,
            "attempt": 0,
            "what": "train",
            "program": HASH,
            "program_bytes": 9,
            "model": HASH,
            "model_bytes": 4,
        }
        | {"key": [0, 2**32 - 1], "client": 5, "upload_bytes": 12, "masked": False, "seconds": 60.0}
        | SETTLED,
    ),
    Message("finished", {"rounds": 30, "settled": 29, "counted": True}),
    Message("chunk", dict(PIECE), b"abc"),
    Message("have", {"offset": 3}),
    Message("taken", {"round": 3}),
    Message("secure", {"stage": "share"}, b""),
    Message("introduced", {"authority": PEM}),
    Message("enrolled", {"client": 0, "certificate": PEM, "authority": PEM, "program": HASH}),
    Message("refused", {"reason": "no", "again": True}),
]

ROUND, ATTEMPT = st.integers(0, 2**53 - 1), st.integers(0, 2**31 - 1)
BYTES, COUNT = st.integers(0, 2**40), st.integers(0, 2**53 - 1)
PRINTABLE = st.sampled_from([c for c in map(chr, (*range(32, 1000), 0x1F600)) if c.isprintable()])
FLOAT = st.floats(allow_nan=False, allow_infinity=False)
SECONDS = st.floats(0, allow_nan=False, allow_infinity=False)
HEX = st.binary(min_size=32, max_size=32).map(bytes.hex)
HEX_OR_NOT = HEX | st.just("")
TEXT = st.text(PRINTABLE, max_size=100)
NAME = st.text(PRINTABLE, min_size=1, max_size=20)
ASCII = st.text("".join(map(chr, range(32, 127))) + "\n", max_size=100)
BODY = st.binary(max_size=200)
ENDED = {"settled": st.integers(-1, 2**53 - 1), "counted": st.booleans()}


def message(kind, body=None, **fields):
    return st.builds(Message, st.just(kind), st.fixed_dictionaries(fields), st.just(b"") if body is None else body)


def piece(kind, **fields):
    return message(
        kind,
        BODY,
        offset=st.integers(0, 2**20),
        total=st.integers(2**20, 2**40),
        packed=st.sampled_from(("raw", "zlib")),
        **fields,
    )


MESSAGES = st.one_of(
    message(
        "check_in",
        pending=st.integers(-1, 2**53 - 1),
        attempt=ATTEMPT,
        num_examples=COUNT,
        idle=st.booleans(),
        charging=st.booleans(),
        wireless=st.booleans(),
        program=HEX_OR_NOT,
    ),
    message("get", sha256=HEX, offset=BYTES),
    piece("put", round=ROUND, attempt=ATTEMPT, sha256=HEX),
    message("secure", BODY, round=ROUND, attempt=ATTEMPT),
    message("evaluated", round=ROUND, metrics=st.dictionaries(NAME, FLOAT, max_size=5), num_examples=COUNT),
    message("failed", round=ROUND, attempt=ATTEMPT, reason=TEXT),
    message("introduce"),
    message("enroll", token=st.text("abcXYZ019._-", max_size=200), csr=ASCII),
    message("wait", seconds=SECONDS, reason=TEXT, **ENDED),
    message(
        "task",
        round=ROUND,
        attempt=ATTEMPT,
        what=st.sampled_from(("train", "evaluate")),
        program=HEX,
        program_bytes=BYTES,
        model=HEX,
        model_bytes=BYTES,
        key=st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=2),
        client=st.integers(0, 2**32 - 3),
        upload_bytes=BYTES,
        masked=st.booleans(),
        seconds=SECONDS,
        **ENDED,
    ),
    message("finished", rounds=ROUND, **ENDED),
    piece("chunk"),
    message("have", offset=BYTES),
    message("taken", round=ROUND),
    message("secure", BODY, stage=TEXT),
    message("introduced", authority=ASCII),
    message("enrolled", client=st.integers(0, 2**32 - 3), certificate=ASCII, authority=ASCII, program=HEX_OR_NOT),
    message("refused", reason=TEXT, again=st.booleans()),
)
