"""Shamir's t-of-n secret sharing over a prime field: share, reconstruct, and find the shares that are wrong.

A secret is the constant term of a random polynomial of degree t - 1; a share is a point of it. Any t points give the
secret, any t - 1 are consistent with every secret alike.

Source: Shamir (1979), "How to share a secret", https://doi.org/10.1145/359168.359176.
"""

import random
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from math import comb
from typing import NamedTuple

from fedjaxlite.privacy.secagg.errors import BadShares, TooFew

# The smallest prime above 2^256: every 32-byte key is an element, and an element takes 33 bytes.
PRIME = 2**256 + 297
SHARE_BYTES = 33
# How many sets of t shares are tried before a secret counts as lost. One wrong share among 33 (t = 17) leaves about
# half of all sets right; eight wrong ones leave one in a thousand.
ATTEMPTS = 4000


class Recovery(NamedTuple):
    """A secret that was found among shares of which some may be wrong.

    Attributes:
      secret: int in [0, prime).
      wrong: the holders whose shares are not on the secret's polynomial, in order.
    """

    secret: int
    wrong: tuple[int, ...]


def share(
    secret: int,
    threshold: int,
    xs: Sequence[int],
    *,
    prime: int = PRIME,
    randbelow: Callable[[int], int] = secrets.randbelow,
) -> tuple[int, ...]:
    """Splits a secret into one share for every x, of which any `threshold` give it back.

    Args:
      secret: int in [0, prime).
      threshold: how many shares are needed, t.
      xs: the points, distinct and in [1, prime): one a holder.
      prime: the field's size.
      randbelow: draws an int in [0, bound) uniformly; the operating system's generator by default.

    Returns:
      The values of the polynomial at `xs`, ints in [0, prime).

    Raises:
      ValueError: the secret is outside the field, the points are not distinct and nonzero, or fewer than `threshold`.

    Guarantees:
      Any threshold - 1 shares have the same distribution for every secret.

    Example:
      >>> parts = share(42, 2, (1, 2, 3))
      >>> reconstruct({1: parts[0], 3: parts[2]}, 2)
      42
    """
    if not 0 <= secret < prime:
        raise ValueError(f"`secret` has {secret.bit_length()} bits; expected an int in [0, prime).")
    if not 1 <= threshold <= len(xs):
        raise ValueError(f"`threshold` is {threshold} for {len(xs)} holders; expected one in [1, {len(xs)}].")
    if len(set(xs)) != len(xs) or not all(0 < x < prime for x in xs):
        raise ValueError(f"`xs` is {tuple(xs)!r}; expected distinct ints in [1, prime).")
    coefficients = [randbelow(prime) for _ in range(threshold - 1)]
    values = []
    for x in xs:
        value = 0
        for coefficient in reversed(coefficients):
            value = (value + coefficient) * x % prime
        values.append((value + secret) % prime)
    return tuple(values)


def reconstruct(shares: Mapping[int, int], threshold: int, *, prime: int = PRIME) -> int:
    """The secret behind shares that are all trusted.

    Args:
      shares: {x: value}.
      threshold: how many shares are needed.
      prime: the field's size.

    Returns:
      The secret, an int in [0, prime).

    Raises:
      TooFew: fewer than `threshold` shares.
      BadShares: the shares do not all lie on one polynomial of degree threshold - 1.

    Example:
      >>> reconstruct({1: 5, 2: 6, 3: 7}, 2)
      4
    """
    _enough(shares, threshold)
    xs = sorted(shares)
    if _off_the_curve(xs[:threshold], shares, xs, prime):
        raise BadShares(f"the {len(xs)} shares lie on no one polynomial of degree {threshold - 1}: some are wrong.")
    return _at(0, xs[:threshold], shares, prime)


def recover(
    shares: Mapping[int, int],
    threshold: int,
    accepts: Callable[[int], bool],
    *,
    prime: int = PRIME,
    attempts: int = ATTEMPTS,
) -> Recovery:
    """The secret behind shares of which some may be wrong, told by what its owner committed to.

    Sets of `threshold` shares are interpolated until one gives an accepted secret with so many other shares on its
    polynomial that no second polynomial can have as many; the shares off it are wrong.

    Args:
      shares: {x: value}; an x stands for a holder.
      threshold: how many shares are needed.
      accepts: whether a secret is the one that was committed to.
      prime: the field's size.
      attempts: how many sets to try.

    Returns:
      A `Recovery`, its `wrong` in terms of x. With fewer than (shares + threshold) / 2 shares on the best polynomial,
      its secret is right all the same, but who is wrong is a majority's word.

    Raises:
      TooFew: fewer than `threshold` shares.
      BadShares: no set that was tried gives an accepted secret.

    Guarantees:
      A secret is returned only if `accepts` it.

    Example:
      >>> recover({1: 5, 2: 6, 3: 99, 4: 8, 5: 9}, 2, lambda secret: secret == 4)
      Recovery(secret=4, wrong=(3,))
    """
    _enough(shares, threshold)
    xs = sorted(shares)
    best: Recovery | None = None
    for chosen in _subsets(xs, threshold, attempts):
        secret = _at(0, chosen, shares, prime)
        if not ((best is not None and secret == best.secret) or accepts(secret)):
            continue
        wrong = _off_the_curve(chosen, shares, xs, prime)
        if best is None or len(wrong) < len(best.wrong):
            best = Recovery(secret, wrong)
        # Two polynomials of degree t - 1 share t - 1 points at most, so this many points have only one.
        if 2 * (len(xs) - len(wrong)) >= len(xs) + threshold:
            break
    if best is None:
        raise BadShares(f"no {threshold} of {len(xs)} shares give the secret that was committed to.")
    return best


def _enough(shares: Mapping[int, int], threshold: int) -> None:
    if len(shares) < threshold:
        raise TooFew(f"{len(shares)} shares of a secret; expected at least {threshold}.")


def _subsets(xs: list[int], threshold: int, attempts: int) -> Iterator[list[int]]:
    """All sets of `threshold` points where these are few, else the first points and then random sets."""
    if comb(len(xs), threshold) <= attempts:
        yield from map(list, combinations(xs, threshold))
        return
    yield xs[:threshold]
    draws = random.Random(0)
    for _ in range(attempts - 1):
        yield sorted(draws.sample(xs, threshold))


def _off_the_curve(chosen: list[int], shares: Mapping[int, int], xs: list[int], prime: int) -> tuple[int, ...]:
    """The points that are not on the polynomial through the `chosen` ones."""
    on = set(chosen)
    return tuple(x for x in xs if x not in on and _at(x, chosen, shares, prime) != shares[x])


def _at(x: int, chosen: list[int], shares: Mapping[int, int], prime: int) -> int:
    """The value at `x` of the polynomial through the `chosen` points."""
    weights = _weights(x, tuple(chosen), prime)
    return sum(weight * shares[c] for weight, c in zip(weights, chosen, strict=True)) % prime


@lru_cache(maxsize=4096)
def _weights(x: int, chosen: tuple[int, ...], prime: int) -> tuple[int, ...]:
    """Lagrange's weights of the points for the value at `x`; only places are kept here, never a share."""
    before, after = [1], [1]
    for c in chosen[:-1]:
        before.append(before[-1] * (x - c) % prime)
    for c in chosen[:0:-1]:
        after.append(after[-1] * (x - c) % prime)
    return tuple(
        b * a % prime * scale % prime
        for b, a, scale in zip(before, reversed(after), _scales(chosen, prime), strict=True)
    )


@lru_cache(maxsize=4096)
def _scales(chosen: tuple[int, ...], prime: int) -> tuple[int, ...]:
    """The part of Lagrange's weights that does not depend on where the polynomial is read."""
    scales = []
    for c in chosen:
        product = 1
        for other in chosen:
            if other != c:
                product = product * (c - other) % prime
        scales.append(pow(product, -1, prime))
    return tuple(scales)
