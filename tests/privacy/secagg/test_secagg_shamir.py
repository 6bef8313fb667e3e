"""Secret sharing: what too few shares tell, what enough shares give back, and which shares are wrong."""

import itertools
from collections import Counter

import pytest
import secagg_stand_ins

from fedjaxlite.privacy.secagg import errors, keys, shamir

SMALL = 7


def every_sharing(secret: int, threshold: int, xs: tuple[int, ...], prime: int):
    """The shares of a secret for every choice of the polynomial's coefficients."""
    for coefficients in itertools.product(range(prime), repeat=threshold - 1):
        draws = iter(coefficients)
        yield shamir.share(secret, threshold, xs, prime=prime, randbelow=lambda bound, draws=draws: next(draws))


def is_prime(n: int, bases: int = 64) -> bool:
    """Miller and Rabin with fixed bases: wrong for a composite with probability below 4^-64 by the choice of bases."""
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    draws = secagg_stand_ins.source(1)
    for _ in range(bases):
        x = pow(int.from_bytes(draws(32)) % (n - 3) + 2, odd, n)
        if x in (1, n - 1):
            continue
        for _ in range(twos - 1):
            x = x * x % n
            if x == n - 1:
                break
        else:
            return False
    return True


def test_the_field_is_the_smallest_prime_above_256_bits():
    assert is_prime(shamir.PRIME)
    assert not any(is_prime(n, bases=2) for n in range(2**256 + 1, shamir.PRIME, 2))


@pytest.mark.parametrize("threshold", [2, 3])
def test_too_few_shares_have_the_same_distribution_for_every_secret(threshold):
    xs = (1, 2, 3, 4)
    for seen in itertools.combinations(range(4), threshold - 1):
        views = [
            Counter(tuple(shares[i] for i in seen) for shares in every_sharing(secret, threshold, xs, SMALL))
            for secret in range(SMALL)
        ]
        assert all(view == views[0] for view in views)
        assert len(views[0]) == SMALL ** (threshold - 1)  # every view is possible, with every secret


def test_as_many_shares_as_the_threshold_tell_secrets_apart():
    views = [{shares[:2] for shares in every_sharing(secret, 2, (1, 2, 3), SMALL)} for secret in range(SMALL)]
    assert all(not a & b for a, b in itertools.combinations(views, 2))


def test_every_threshold_of_shares_gives_the_secret():
    draw = keys.below(secagg_stand_ins.source(2))
    for n in range(1, 6):
        for t in range(1, n + 1):
            secret = draw(2**256)
            shares = dict(zip(range(1, n + 1), shamir.share(secret, t, range(1, n + 1), randbelow=draw), strict=True))
            for size in range(t, n + 1):
                for chosen in itertools.combinations(shares, size):
                    assert shamir.reconstruct({x: shares[x] for x in chosen}, t) == secret


def test_fewer_shares_than_the_threshold_are_refused():
    with pytest.raises(errors.TooFew, match="2 shares of a secret; expected at least 3"):
        shamir.reconstruct({1: 1, 2: 2}, 3)
    with pytest.raises(errors.TooFew):
        shamir.recover({1: 1, 2: 2}, 3, lambda secret: True)


def test_shares_of_no_one_polynomial_are_refused():
    with pytest.raises(errors.BadShares, match="3 shares lie on no one polynomial"):
        shamir.reconstruct({1: 5, 2: 6, 3: 8}, 2)


@pytest.mark.parametrize(("n", "t", "wrong"), [(5, 3, 1), (9, 4, 2), (33, 17, 4), (33, 17, 8)])
def test_wrong_shares_are_found_and_named(n, t, wrong):
    draw = keys.below(secagg_stand_ins.source(n + wrong))
    secret = draw(2**256)
    shares = dict(zip(range(1, n + 1), shamir.share(secret, t, range(1, n + 1), randbelow=draw), strict=True))
    liars = tuple(sorted({1 + draw(n) for _ in range(3 * wrong)}))[:wrong]
    for x in liars:
        shares[x] = (shares[x] + 1 + draw(shamir.PRIME - 1)) % shamir.PRIME
    assert shamir.recover(shares, t, lambda found: found == secret) == shamir.Recovery(secret, liars)


def test_two_liars_that_keep_the_secret_cannot_put_the_blame_on_others():
    # The errors cancel at 0 for whoever interpolates the first three, so the secret is right and the curve is not.
    prime, n, t = shamir.PRIME, 8, 3
    shares = dict(zip(range(1, n + 1), shamir.share(99, t, range(1, n + 1)), strict=True))
    first, second = (shamir.reconstruct({1: 1 * (x == 1), 2: 1 * (x == 2), 3: 0}, 3) for x in (1, 2))
    shares[1] = (shares[1] + second) % prime
    shares[2] = (shares[2] - first) % prime
    assert shamir.reconstruct({x: shares[x] for x in (1, 2, 3)}, t) == 99
    assert shamir.recover(shares, t, lambda found: found == 99) == shamir.Recovery(99, (1, 2))


def test_a_secret_that_nobody_committed_to_is_not_returned():
    shares = dict(zip((1, 2, 3), shamir.share(5, 2, (1, 2, 3)), strict=True))
    with pytest.raises(errors.BadShares, match="no 2 of 3 shares"):
        shamir.recover(shares, 2, lambda secret: secret == 6)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((shamir.PRIME, 1, (1,)), "`secret` has 257 bits"),
        ((1, 3, (1, 2)), r"`threshold` is 3 for 2 holders; expected one in \[1, 2\]"),
        ((1, 1, (0, 1)), r"`xs` is \(0, 1\); expected distinct ints"),
        ((1, 1, (2, 2)), r"`xs` is \(2, 2\); expected distinct ints"),
    ],
)
def test_bad_arguments(arguments, text):
    with pytest.raises(ValueError, match=text):
        shamir.share(*arguments)
