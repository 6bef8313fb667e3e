"""Rules by distances on a few messages: values of peers, ties, clients who are not there, errors."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite import robust
from fedjaxlite.wire.rows import Rows, on_one_device
from fedjaxlite.wire.stacking import RuleState

THREE = jnp.float32([[1, 2, 3], [4, 5, 6], [7, 8, 9]])


def by_hand(rules: list[Any], x: jax.Array, **more: Any) -> list[list[float]]:
    """What each of some rules makes of messages, in one program."""
    return [value.tolist() for value in jax.jit(lambda v: [robust.apply(rule, v, **more) for rule in rules])(x)]


def test_values_of_peers() -> None:
    first = [robust.krum(f=1, neighbors="byzfl"), robust.krum(f=0)]  # of Blanchard's one other: all are 27 from one
    two = [robust.multi_krum(f=1, neighbors="byzfl"), robust.mda(f=1), robust.monna(f=1, pivot=0)]
    values = by_hand([*first, *two, robust.monna(f=1, pivot=1)], THREE)
    assert values == [[1, 2, 3]] * 2 + [[2.5, 3.5, 4.5]] * 4


def test_ties_go_to_the_first_in_the_cohort() -> None:
    same = jnp.float32([[1, 0], [1, 0], [3, 0], [3, 0], [3, 0], [1, 0]])
    krum = jax.jit(lambda v: robust.apply(robust.krum(f=1), v))
    assert krum(same).tolist() == [1, 0]
    assert krum(same[jnp.int32([2, 0, 3, 4, 1, 5])]).tolist() == [3, 0]


def test_a_set_of_least_diameter_with_least_variance() -> None:
    line = jnp.float32([[0], [10], [1], [12]])  # 0 or 12 may go for a diameter of 11 or 10
    assert by_hand([robust.mda(f=1)], line) == [[pytest.approx(11 / 3)]]
    # Of 100 and 0 one has to go, and of the two above and below: four sets with a diameter of 67.3 are left.
    cross = jnp.float32([[100, 0], [0, 0], [50, -45], [50, 45], [45, 0], [44, 0]])
    expected = np.float64(cross)[[1, 2, 4, 5]].mean(0)
    np.testing.assert_allclose(by_hand([robust.mda(f=2)], cross)[0], expected, rtol=1e-6)


def test_monna_without_its_pivot_changes_nothing_and_says_so() -> None:
    present = jnp.bool_([1, 0, 1])
    named = [robust.monna(f=0, pivot=6), robust.monna(f=0, pivot=7), robust.monna(f=0, pivot=1)]
    values = by_hand(named, THREE, ids=jnp.int32([5, 6, 7]), present=present)
    assert values == [[0, 0, 0], [4, 5, 6], [0, 0, 0]]
    rule = robust.monna(f=0, pivot=1)

    @jax.jit
    def skipped(here: jax.Array) -> Any:
        beside = fl.Message((), here.sum().astype(jnp.float32), {})
        shares = on_one_device([jax.ShapeDtypeStruct((3,), jnp.float32)])
        rows: Any = Rows([jnp.where(here[:, None], THREE, 0)], jnp.ones(3), here, jnp.arange(3), shares, beside)
        return rule.metrics(rule.decode(RuleState(jnp.int32(0), jnp.int32(0)), rows, jax.random.key(0))[1])

    for here, count in ((present, 1), (present | True, 0), (present & False, 1)):
        assert skipped(here) == {"skipped": count}


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: robust.krum(f=-1), "`f` is -1; expected an int of at least 0"),
        (lambda: robust.multi_krum(f=1.5), "`f` is 1.5; expected an int of at least 0"),
        (lambda: robust.krum(f=1, neighbors="all"), "`neighbors` is 'all'; expected one of 'blanchard', 'byzfl'"),
        (lambda: robust.multi_krum(f=1, m=0), "`m` is 0; expected an int of at least 1"),
        (lambda: robust.mda(f=13), "`f` is 13; expected at most 12, as mda looks at 2..f sets .*multi_krum"),
        (lambda: robust.monna(f=1, pivot=-1), "`pivot` is -1; expected an int of at least 0. It is the id"),
        (lambda: robust.apply(robust.krum(f=1), THREE), "`krum` needs at least 5 clients"),
        (lambda: robust.apply(robust.krum(f=2, neighbors="byzfl"), THREE), "`krum` needs at least 5 clients"),
        (lambda: robust.apply(robust.multi_krum(f=1, m=3, neighbors="byzfl"), THREE), "needs at least 4 clients"),
        (lambda: robust.apply(robust.mda(f=2), THREE), "`mda` needs at least 5 clients"),
        (lambda: robust.apply(robust.monna(f=2, pivot=0), THREE), "`monna` needs at least 5 clients"),
        (lambda: robust.apply(robust.mda(f=1), THREE, weights=jnp.ones(3)), "`mda` counts every client as one"),
        (
            lambda: jax.eval_shape(lambda f: robust.apply(robust.mda(f=f), jnp.ones((27, 1))), jnp.int32(1)),
            "`f` is traced, and 27 clients may then have up to 13 bad ones",
        ),
    ],
)
def test_errors(make: Callable[[], Any], text: str) -> None:
    with pytest.raises((ValueError, TypeError), match=text):
        make()
