"""What is signed, and the roster's digest that every signature covers: the same bytes for clients and server."""

import struct
from collections.abc import Iterable, Sequence

from fedjaxlite.privacy.secagg import graph
from fedjaxlite.privacy.secagg.keys import LABEL
from fedjaxlite.privacy.secagg.parameters import Parameters

Rows = Iterable[tuple[int, bytes, bytes, bytes]]


def advertisement(parameters: Parameters, round_number: int, sender: int, channel: bytes, mask: bytes) -> bytes:
    """What a client signs when it shows its keys: they are its own, for this round and these parameters."""
    return LABEL + b"advertise" + parameters.digest() + struct.pack(">QI", round_number, sender) + channel + mask


def survivors(parameters: Parameters, round_number: int, seed: bytes, ids: Sequence[int], left: Sequence[int]) -> bytes:
    """What a client signs when it confirms who survived: of this roster, in this round, with these parameters.

    The seed is a hash of all keys of the round, so the signature stands for one set of keys.
    """
    present = b"".join(struct.pack(">I", name) for name in ids)
    rest = b"".join(struct.pack(">I", name) for name in left)
    return (
        LABEL + b"survivors" + parameters.digest() + struct.pack(">QI", round_number, len(ids)) + seed + present + rest
    )


def seed_of(round_number: int, rows: Rows) -> bytes:
    """The ring's seed for rows (id, channel key, mask key, signature)."""
    return graph.seed(round_number, ((name, channel, mask) for name, channel, mask, _ in rows))
