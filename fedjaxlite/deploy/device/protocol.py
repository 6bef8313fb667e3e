"""The messages between a device and its server, and their one strict reading. The client asks, the server answers.

On the wire: b"FJD", a version byte, the length of the head (uint32, big-endian), the head as a JSON object (UTF-8, at
most 16 KiB) that holds `kind` and exactly the fields of that kind (`schemas.py`), and then the body, raw bytes. JSON,
because a head is small, any language reads it, and so does a person in a log; what is large is never in it.

What a client asks, and what it may hear beside `refused {reason, again}`:

- check_in: wait, task or finished. Each says of the client's `pending` update whether it is `settled` and `counted`.
- get {sha256, offset}: chunk, a piece of the program or the model from there on.
- put {round, attempt, sha256, offset, total, packed} and a piece: have {offset}, what the server holds by now, or
  taken. With an empty body it only asks.
- secure {round, attempt} and a message of the secure sum, or none yet: secure {stage} and the server's message, or
  wait, or taken.
- evaluated {round, metrics, num_examples}: taken.
- failed {round, attempt, reason}: taken; the device cannot do the task, and somebody else gets it.
- introduce: introduced {authority}; enroll {token, csr}: enrolled. These two alone need no certificate.

Every question may be asked again: the answer was lost on the way, and the server has to answer as it did.
"""

import json
import struct
from typing import Any, NamedTuple, NoReturn

from fedjaxlite.deploy.device.schemas import MOST_TEXT, schemas

MAGIC, VERSION = b"FJD", 1
CHUNK = 2**20
MOST_HEAD = 16 * 2**10
ASKS = frozenset(("check_in", "get", "put", "secure", "evaluated", "failed", "introduce", "enroll"))
WITHOUT_CERTIFICATE = frozenset(("introduce", "enroll"))
_PREFIX = struct.Struct(">3sBI")
_SCHEMAS = schemas(CHUNK)
OVERHEAD = _PREFIX.size + MOST_HEAD  # the most bytes of a message beside its body


class BadMessage(ValueError):
    """Bytes, or a Message, that are no message of this version. The text says why and repeats nothing that is long."""


class Message(NamedTuple):
    """A question or an answer.

    Attributes:
      kind: which.
      head: its fields, without `kind`.
      body: bytes.
    """

    kind: str
    head: dict[str, Any]
    body: bytes = b""


def encode(message: Message) -> bytes:
    r"""A message as bytes.

    Args:
      message: what to say.

    Returns:
      bytes.

    Raises:
      BadMessage: it is not as its kind has to be; a sender's mistake.

    Example:
      >>> encode(Message("have", {"offset": 7}))
      b'FJD\x01\x00\x00\x00\x1a{"kind":"have","offset":7}'
      >>> decode(encode(Message("have", {"offset": 7})))
      Message(kind='have', head={'offset': 7}, body=b'')
    """
    _check(message, most_body=None)
    head = json.dumps({"kind": message.kind} | message.head, separators=(",", ":"), allow_nan=False).encode()
    if len(head) > MOST_HEAD:
        raise BadMessage(f"{message.kind}: a head of {len(head)} bytes; expected at most {MOST_HEAD}.")
    return _PREFIX.pack(MAGIC, VERSION, len(head)) + head + message.body


def decode(data: bytes, *, most_body: int = CHUNK) -> Message:
    """The message of some bytes.

    Args:
      data: what arrived.
      most_body: the most bytes of a body of a kind that is not bounded by itself (`secure`).

    Returns:
      The Message.

    Raises:
      BadMessage: whatever is not exactly a message of this version.
    """
    if len(data) < _PREFIX.size:
        raise BadMessage(f"{len(data)} bytes; a message has at least {_PREFIX.size}.")
    magic, version, size = _PREFIX.unpack_from(data)
    if magic != MAGIC:
        raise BadMessage("bytes that do not begin as a message does.")
    if version != VERSION:
        raise BadMessage(f"a message of version {version}; expected {VERSION}: update the older side.")
    if size > min(MOST_HEAD, len(data) - _PREFIX.size):
        raise BadMessage(f"a head of {size} bytes in {len(data)}; expected at most {MOST_HEAD}, and all of it.")
    head = _head(data[_PREFIX.size : _PREFIX.size + size])
    kind = head.pop("kind", None)
    if type(kind) is not str:
        raise BadMessage("a head without the name of its kind.")
    message = Message(kind, head, bytes(data[_PREFIX.size + size :]))
    _check(message, most_body=most_body)
    return message


def is_question(message: Message) -> bool:
    """Whether a client may say this."""
    return message.kind in ASKS and "stage" not in message.head


def refused(reason: str, *, again: bool = False) -> Message:
    r"""The answer that says no.

    Args:
      reason: why, for people; what cannot be printed in one line is taken out of it.
      again: whether asking later makes sense.

    Returns:
      The Message.

    Example:
      >>> refused("one\nline").head
      {'reason': 'one line', 'again': False}
    """
    line = "".join(letter if letter.isprintable() else " " for letter in reason)
    return Message("refused", {"reason": line[:MOST_TEXT], "again": again})


def _check(message: Message, *, most_body: int | None) -> None:
    """Raises BadMessage where a message is not as its kind has to be."""
    known = _SCHEMAS.get(message.kind)
    if known is None:
        raise BadMessage(
            f"a message of the kind {_short(message.kind)}; expected one of {', '.join(sorted(_SCHEMAS))}."
        )
    schema = next((s for s in known if s.fields.keys() == message.head.keys()), None)
    if schema is None:
        near = min(known, key=lambda s: len(s.fields.keys() ^ message.head.keys())).fields.keys()
        wrong = near - message.head.keys(), message.head.keys() - near
        missing, unknown = (_short(", ".join(sorted(map(str, names)))) for names in wrong)
        raise BadMessage(f"{message.kind}: the fields {missing} are missing, and {unknown} are unknown.")
    for name, check in schema.fields.items():
        expected = check(message.head[name])
        if expected:
            raise BadMessage(f"{message.kind}: `{name}` is {_short(message.head[name])}; expected {expected}.")
    most = most_body if schema.body is None else schema.body
    if most is not None and len(message.body) > most:
        raise BadMessage(f"{message.kind}: a body of {len(message.body)} bytes; expected at most {most}.")
    if "total" in message.head and message.head["offset"] > message.head["total"]:
        raise BadMessage(f"{message.kind}: a piece at {message.head['offset']} of {message.head['total']} bytes.")


def _head(data: bytes) -> dict[str, Any]:
    try:
        head = json.loads(data.decode(), object_pairs_hook=_once, parse_constant=_no_constant)
    except BadMessage:
        raise
    except (ValueError, RecursionError):  # UnicodeDecodeError is one, and so is a number of thousands of digits
        raise BadMessage("a head that is not JSON in UTF-8.") from None
    if type(head) is not dict:
        raise BadMessage("a head that is not a JSON object.")
    return head


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadMessage("a head that names a field twice.")
    return found


def _no_constant(name: str) -> NoReturn:
    raise BadMessage(f"a head with {name}, which is no number.")


def _short(value: Any) -> str:
    if isinstance(value, list | dict):  # perhaps nested as deep as Python can read it
        return f"a {type(value).__name__} of {len(value)}"
    words = ascii(value) if not isinstance(value, int) or abs(value) < 2**64 else "an integer of 64 bits or more"
    return words if len(words) <= 60 else words[:57] + "..."
