"""Service times, weights of staleness, and what a command line says of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjaxlite.systems import service, staleness

KEY = jax.random.key(5)


def times(made, count=4000):
    clients = jnp.arange(count, dtype=jnp.int32)
    return np.asarray(made.seconds(KEY, clients, (), jnp.ones((count,)), clients))


def test_drawn_times_have_their_quantiles():
    # Each count of 4,000 has a standard deviation of at most 32: five of them, a false alarm in a million.
    for made, quantile in (
        (service.exponential(3.0), lambda p: -3 * np.log1p(-p)),
        (service.lognormal(2.0, 0.5), lambda p: 2 * np.exp(0.5 * {0.25: -0.67449, 0.5: 0, 0.75: 0.67449}[p])),
    ):
        for p in (0.25, 0.5, 0.75):
            assert abs((times(made) <= quantile(p)).sum() - 4000 * p) < 158
    np.testing.assert_array_equal(times(service.constant(3), 4), [3, 3, 3, 3])


def test_a_table_of_times_is_read_row_by_row():
    table = service.measured([[1, 2], [3, 4], [5, 6]])
    seconds = table.seconds(None, jnp.array([0, 1, 0, 1]), (), None, jnp.array([0, 1, 2, 3]))
    assert seconds.tolist() == [1, 4, 5, 2]


def test_a_command_line_names_a_service(tmp_path):
    assert service.parse("exponential:1").name == "exponential(1.0)"
    assert service.parse("lognormal:3,0.5").name == "lognormal(3.0, 0.5)"
    (tmp_path / "own.csv").write_text("# seconds\n2.5\n\n4 # slow\n")
    (tmp_path / "table.txt").write_text("1,2\n3,4\n")
    np.save(tmp_path / "own.npy", np.array([2.5, 4.0]))
    for name in ("own.csv", "own.npy"):
        np.testing.assert_array_equal(times(service.parse(f"file:{tmp_path / name}"), 2), [2.5, 4])
    np.testing.assert_array_equal(times(service.parse(f"file:{tmp_path / 'table.txt'}"), 2), [1, 4])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("exponental:1", "of no known kind. Did you mean 'exponential'"),
        ("exponential", r"exponential takes 1 number\(s\), not 0"),
        ("lognormal:1", r"lognormal takes 2 number\(s\), not 1"),
        ("constant:fast", "expected numbers behind the colon"),
        ("constant:0", "`seconds` is 0.0; expected a finite number above 0"),
        ("lognormal:1,inf", "`sigma` is inf; expected a finite number"),
        ("file:no/such.csv", "cannot be read"),
        ("file:", "`service` is 'file:', without a path. Write constant:SECONDS"),
    ],
)
def test_a_command_line_that_names_none(text, message):
    with pytest.raises(ValueError, match=message):
        service.parse(text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("seconds\n1\n", "Line 1 of .* is 'seconds'; expected seconds"),
        ("1,2\n3\n", "Line 2 of .* has 1 numbers; those before it 2"),
        ("# none\n", "holds no numbers"),
        ("1\n-1\n", "holds -1.0 for client 1 in row 0"),
        ("1\nnan\n", "holds nan for client 1"),
    ],
)
def test_files_that_hold_no_times(tmp_path, content, message):
    (tmp_path / "times.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        service.parse(f"file:{tmp_path / 'times.csv'}")


def test_values_that_are_no_times():
    with pytest.raises(ValueError, match=r"`values` has shape \[1, 1, 1\]; expected seconds"):
        service.measured([[[1.0]]])
    with pytest.raises(TypeError, match="`values` is traced"):
        jax.jit(lambda v: service.measured(v).seconds(None, v, (), None, v))(jnp.ones((2,)))


def test_weights_are_those_of_the_source():
    age = jnp.array([0.0, 1.0, 4.0, 5.0, 14.0])
    assert staleness.constant().weight(age).tolist() == [1] * 5
    np.testing.assert_allclose(staleness.polynomial(0.5).weight(age), (1 + np.asarray(age)) ** -0.5, rtol=1e-6)
    np.testing.assert_allclose(staleness.parse("hinge:10,4").weight(age), [1, 1, 1, 1 / 11, 1 / 101], rtol=1e-6)
    assert not staleness.parse("constant").discounts
    assert staleness.parse("polynomial:2").discounts
    for text, message in (("linear:1", "`staleness` is 'linear:1', of no known kind"), ("hinge:1,-1", "`b` is -1.0")):
        with pytest.raises(ValueError, match=message):
            staleness.parse(text)
