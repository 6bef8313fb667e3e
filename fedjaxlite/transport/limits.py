"""How much a peer may ask for: token buckets and counts, as pure functions of a time that is given to them."""

from typing import NamedTuple


class Rate(NamedTuple):
    """So much a second on average, and so much at once after a rest.

    Attributes:
      per_second: what flows in, a second.
      burst: the most that is in the bucket.
    """

    per_second: float
    burst: float


class Bucket(NamedTuple):
    """What is left, and when that was counted: below 0 after more was taken than was there."""

    left: float
    at: float


class Limits(NamedTuple):
    """What a server allows its peers; a limit is there to be reached by those who are broken or hostile only.

    Attributes:
      requests: messages of one client, a second; who has asked for more is served later.
      bytes: bytes of one client's messages, a second, likewise.
      connections: open at once, by all; the next one is closed unheard.
      per_address: open at once from one address.
      handshakes: at once in their TLS handshake; beyond that, one that has taken more than `grace` seconds gives way.
      grace: seconds.
      strangers: at once past their handshake without a certificate, to enroll.
      memory: bytes of messages that are held at once, of all clients; the others wait with theirs.
    """

    requests: Rate = Rate(20.0, 100.0)
    bytes: Rate = Rate(16 * 2.0**20, 64 * 2.0**20)
    connections: int = 2048
    per_address: int = 1024
    handshakes: int = 128
    grace: float = 2.0
    strangers: int = 64
    memory: int = 256 * 2**20


def full(rate: Rate, now: float) -> Bucket:
    """A bucket that nothing was taken from."""
    return Bucket(rate.burst, now)


def take(bucket: Bucket, rate: Rate, amount: float, now: float) -> tuple[Bucket, float]:
    """Takes an amount out, and says how long to wait until it is paid for.

    Args:
      bucket: before.
      rate: what flows in, and its burst.
      amount: what is taken; more than a burst is lent, so that nothing waits forever.
      now: seconds, of any clock that goes forward; a time before the bucket's counts as the bucket's.

    Returns:
      The bucket, and the seconds to wait before the next amount: 0.0 while something is left.

    Example:
      >>> rate = Rate(per_second=2.0, burst=3.0)
      >>> bucket = full(rate, now=0.0)
      >>> bucket, wait = take(bucket, rate, 3.0, now=0.0)
      >>> bucket, wait = take(bucket, rate, 1.0, now=0.0)
      >>> bucket.left, wait
      (-1.0, 0.5)
    """
    now = max(now, bucket.at)
    left = min(rate.burst, bucket.left + (now - bucket.at) * rate.per_second) - amount
    return Bucket(left, now), max(0.0, -left / rate.per_second)


def turned_away(limits: Limits, *, connections: int, from_address: int) -> str:
    """Why one more connection is not taken; empty where it is.

    Args:
      limits: what is allowed.
      connections: that are open.
      from_address: of these, from the address of the new one.

    Returns:
      The reason.

    Example:
      >>> turned_away(Limits(per_address=2), connections=5, from_address=2)
      '2 connections of its address are open, of 2'
    """
    if connections >= limits.connections:
        return f"{connections} connections are open, of {limits.connections}"
    if from_address >= limits.per_address:
        return f"{from_address} connections of its address are open, of {limits.per_address}"
    return ""
