"""The validators: what they let pass they give back as plain Python values, and what they refuse they name."""

from collections.abc import Callable
from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

import fedjaxlite as fl
from fedjaxlite import algorithms, checks


@pytest.mark.parametrize(
    "scalar",
    [np.float64, np.float32, np.float16, jnp.float32, jnp.bfloat16, np.array, lambda v: jnp.asarray(v, jnp.float32)],
)
def test_numbers_come_back_as_python_floats(scalar: Callable[[float], Any]) -> None:
    assert type(checks.positive(x=scalar(0.5))) is float
    assert checks.positive(x=scalar(0.5)) == 0.5


@pytest.mark.parametrize("scalar", [np.int8, np.int64, np.uint32, jnp.int32])
def test_whole_numbers_come_back_as_python_ints(scalar: Callable[[int], Any]) -> None:
    assert type(checks.nonnegative(x=scalar(2))) is int
    assert checks.fraction(x=0) == 0
    assert type(checks.positive_int(x=2)) is int


@hypothesis.given(st.integers(1, 2**31 - 1), st.sampled_from([int, np.int64, np.uint32]))
def test_ints_within_int32_pass_and_come_back_plain(value: int, kind: Callable[[int], Any]) -> None:
    assert checks.positive_int(n=kind(value)) == value
    assert type(checks.positive_int(n=kind(value))) is int
    assert type(checks.trip_count(n=kind(value))) is int


@hypothesis.given(st.integers(2**31, 10**40))
def test_ints_beyond_int32_are_refused_with_the_limit(value: int) -> None:
    with pytest.raises(ValueError, match=r"`n` is \d+; expected an int of at least 1 and at most 2\*\*31 - 1"):
        checks.positive_int(n=value)
    assert checks.positive_count(n=value) == value


def test_several_values_come_back_in_their_order() -> None:
    assert checks.positive_int(a=np.int8(1), b=2) == (1, 2)
    assert checks.flag(a=np.bool_(True), b=False) == (True, False)


def test_tracers_pass_where_numbers_are_not_static_and_become_floats() -> None:
    def traced(value: Any) -> Any:
        passed = checks.positive(rate=value)
        assert passed.dtype == jnp.float32
        return passed * jnp.float32(2)

    assert float(jax.jit(traced)(jnp.int32(3))) == 6
    assert float(jax.jit(traced)(jnp.bfloat16(0.5))) == 1
    assert int(jax.jit(lambda n: checks.trip_count(steps=n))(jnp.int8(3))) == 3


def in_jit(check: Callable[[Any], Any], value: Any) -> None:
    jax.jit(lambda x: (check(x), x)[1])(value)


class Nothing:
    """An object that is nothing in particular."""

    def __repr__(self) -> str:
        return "Nothing()"


REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: checks.positive(x=1 + 2j), TypeError, r"`x` is \(1\+2j\); expected a finite number above 0"),
    (lambda: checks.positive(x={"a": 1}), TypeError, r"`x` is \{'a': 1\}; expected a finite number"),
    (lambda: checks.positive(x=Nothing()), TypeError, r"`x` is Nothing\(\)"),
    (lambda: checks.positive(x=np.ones(3)), TypeError, r"`x` is an array float64\[3\]; expected a finite number"),
    (lambda: checks.positive(x=[[1], [2, 3]]), TypeError, r"`x` is \[\[1\], \[2, 3\]\]"),
    (lambda: checks.positive(x=10**400), ValueError, r"`x` is 1000.*\.\.\.; expected a finite number above 0"),
    (lambda: checks.nonnegative(x=1e39), ValueError, r"`x` is 1e\+39; .*within 3\.4e38, the largest float32"),
    (lambda: checks.nonnegative(x=jax.random.key(0)), TypeError, r"`x` is an array key<fry>\[\]; expected a num"),
    (lambda: in_jit(lambda x: checks.positive(x=x), jnp.ones(2)), TypeError, "`x` is .*; expected a finite number"),
    (lambda: in_jit(lambda x: checks.positive_int(n=x), jnp.int32(2)), TypeError, "`n` is .*; expected an int of at"),
    (lambda: in_jit(lambda x: checks.concrete("Say why.", n=x), jnp.int32(2)), TypeError, "`n` is traced; .* Say why"),
    (lambda: checks.flag(shuffle=1.5), TypeError, r"`shuffle` is 1\.5; expected True or False"),
    (lambda: checks.flag(shuffle=1), TypeError, "`shuffle` is 1; expected True or False"),
    (
        lambda: checks.one_of((True, False, "auto"), lower=1),
        ValueError,
        "`lower` is 1; expected one of True, False, 'au",
    ),
    (lambda: checks.one_of((1, 2), option=True), ValueError, "`option` is True; expected one of 1, 2"),
    (lambda: checks.one_of(("a",), by=np.ones(2)), ValueError, r"`by` is an array float64\[2\]; expected one of 'a'"),
    (lambda: checks.is_function_of("a", "b", f=lambda a: a), TypeError, r"`f` is <lambda>\(a\); .* of \(a, b\)"),
    (lambda: checks.is_key(key=3), TypeError, "`key` is 3; expected one random key, such as jax.random.key"),
    (lambda: checks.is_key(key=jax.random.split(jax.random.key(0))), TypeError, r"`key` is key<fry>\[2\]"),
    (lambda: checks.real_array(x=iter([1])), TypeError, "`x` is <list_iterator.*; expected an array"),
    (lambda: checks.real_array(x=["a"]), TypeError, r"`x` is \['a'\]; expected an array .* of real numbers"),
    (lambda: checks.numeric_leaves("params", {"w": "text"}), TypeError, r"`params\['w'\]` is 'text'; expected an arr"),
    (lambda: checks.numeric_leaves("params", {"w": 2**40}), ValueError, r"`params\['w'\]` is \d+; .* within int32"),
    (lambda: checks.float_leaves("params", {}), ValueError, r"`params` is \{\}; expected a pytree with at least one"),
    (lambda: checks.float_leaves("params", [1]), TypeError, r"`params\[0\]` is 1; expected floats, and not int"),
]


@pytest.mark.parametrize(("act", "error", "text"), REFUSED)
def test_what_is_refused_is_named(act: Callable[[], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        act()


def test_iterators_are_looked_at_without_being_used_up() -> None:
    given = iter([1, 2])
    assert not checks.is_traced(given)
    assert list(given) == [1, 2]


PRESETS = (algorithms.fed_adam, algorithms.fed_adagrad, algorithms.fed_yogi, algorithms.fed_avg_m)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.__name__)
def test_a_misspelled_option_is_reported_against_the_function_that_was_called(preset: Callable[..., Any]) -> None:
    loss = lambda params, batch, key: params * batch["x"]  # noqa: E731
    with pytest.raises(
        TypeError, match=rf"{preset.__name__}\(\) got an unexpected keyword argument 'batchsize'; .*batch_"
    ):
        preset(loss, client_optimizer=optax.sgd(0.1), server_lr=0.1, batchsize=3)


LOSSES: list[tuple[Callable[..., Any], Any, type[Exception], str]] = [
    (lambda p, b, k: b["z"] * p, jnp.float32(1), ValueError, "the loss function read 'z', .*it has 'mask', 'x'"),
    (lambda p, b, k: None, jnp.float32(1), TypeError, r"the loss function returned None; expected the losses \[2\]"),
    (lambda p, b, k: "abc", jnp.float32(1), TypeError, r"the loss function failed \(TypeError: .*not a valid JAX type"),
    (lambda p, b: b["x"], jnp.float32(1), TypeError, r"`loss_fn` is <lambda>\(p, b\); .*\(params, batch, key\)"),
    (lambda p, b, k: b["x"] * p, 3, TypeError, r"`params` is .*; expected floats, and not int32.*state"),
    (
        lambda p, b, k: b["x"] * p["w"],
        jnp.float32(1),
        TypeError,
        r"the loss function failed \(TypeError: .*float32\[\]",
    ),
]


@pytest.mark.parametrize(("loss", "params", "error", "text"), LOSSES)
def test_a_loss_that_does_not_fit_is_told_before_training(
    loss: Callable[..., Any], params: Any, error: type[Exception], text: str
) -> None:
    people = fl.Population.from_arrays({"x": np.array([1, 2, 3], np.float32)}, client_ids=[0, 0, 1])
    with pytest.raises(error, match=text):
        algorithm = algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.1), batch_size=2)
        run = fl.rounds(algorithm, sampler=fl.sampling.full(2), aggregator=fl.mean())
        run.init(params, people, key=jax.random.key(0))


def test_an_error_of_the_losses_own_stays_as_it_is() -> None:
    def strict(params: Any, batch: Any, key: Any) -> Any:
        raise RuntimeError("my own")

    mask = jnp.ones(1, bool)
    with pytest.raises(RuntimeError, match="my own"):
        fl.batch_loss(strict, jnp.float32(1), {"x": np.ones(1, np.float32)}, mask, None)
