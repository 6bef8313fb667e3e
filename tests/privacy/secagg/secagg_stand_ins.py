"""Stand-ins for the cryptography, fast and open, and small helpers: for tests of the protocol's logic only."""

import hashlib
import random
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from fedjaxlite.privacy import secagg


def _hash(*parts: bytes) -> bytes:
    return hashlib.sha256(b"|".join(parts)).digest()


def _public(private: bytes) -> bytes:
    return _hash(b"public", private)


def _agree(private: bytes, public: bytes) -> bytes:
    if public == bytes(32):
        raise ValueError("low order")
    # Both sides know both public keys, and so does everybody: no secret at all, and good enough for the logic.
    return _hash(b"agree", *sorted((_public(private), public)))


def _seal(key: bytes, nonce: bytes, message: bytes, header: bytes) -> bytes:
    return message + _hash(key, nonce, message, header)[:16]


def _unseal(key: bytes, nonce: bytes, ciphertext: bytes, header: bytes) -> bytes:
    message = ciphertext[:-16]
    if _seal(key, nonce, message, header) != ciphertext:
        raise ValueError("the tag does not fit.")
    return message


def prg(key: bytes, offset: int, n: int) -> np.ndarray:
    return np.random.default_rng(int.from_bytes(_hash(key))).integers(0, 2**32, offset + n, np.uint32)[offset:]


def short_prg(key: bytes, offset: int, n: int) -> np.ndarray:
    """At most eight words, taken from a hash: for very many rounds."""
    return np.frombuffer(_hash(key), np.uint32)[offset : offset + n]


def _sign(private: bytes, message: bytes) -> bytes:
    return 2 * _hash(b"sign", _public(private), message)


def _verify(public: bytes, signature: bytes, message: bytes) -> None:
    if signature != 2 * _hash(b"sign", public, message):
        raise ValueError("no signature of theirs.")


OPEN = secagg.Primitives(
    public=_public,
    agree=_agree,
    derive=lambda secret, info: _hash(b"derive", secret, info),
    seal=_seal,
    unseal=_unseal,
    prg=prg,
    identity=_public,
    sign=_sign,
    verify=_verify,
)


def source(seed: int) -> Callable[[int], bytes]:
    """Bytes that are the same in every run."""
    return random.Random(seed).randbytes


def vectors(ids: Iterable[int], length: int, seed: int = 0) -> dict[int, np.ndarray]:
    draws = np.random.default_rng(seed)
    return {u: draws.integers(0, 2**32, length, np.uint32) for u in ids}


def total(vectors: Mapping[int, np.ndarray], survivors: Sequence[int]) -> np.ndarray:
    return sum((vectors[u] for u in survivors), np.zeros_like(next(iter(vectors.values()))))


def until(stage: str, p: secagg.Parameters, vectors, primitives=OPEN, round_number: int = 7):
    """A round played up to a stage: (server's state, {client: state}, {client: what it was told last})."""
    draw = source(11)
    known = secagg.identities(vectors, primitives=primitives, random=draw)
    public = next(iter(known.values())).known
    server = secagg.server.start(p, round_number=round_number, cohort=tuple(vectors), known=public)
    clients, sent = {}, []
    for u in vectors:
        clients[u], message = secagg.client.advertise(
            p, round_number=round_number, me=u, identity=known[u], primitives=primitives, random=draw
        )
        sent.append(message)
    if stage == "advertise":
        return server, clients, {m.sender: m for m in sent}
    server, told = secagg.server.step(server, sent, primitives=primitives)
    while server.stage != stage:
        sent = []
        for u in vectors:
            clients[u], message = secagg.answer(clients[u], told[u], vectors[u], primitives=primitives, random=draw)
            sent.append(message)
        server, told = secagg.server.step(server, sent, primitives=primitives)
    return server, clients, told
