"""DiLoCo against the paper's equations in plain JAX, and the methods that it is a case of."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite.algorithms.low_communication.di_lo_co import di_lo_co
from fedjaxlite.algorithms.one_model.fed_avg import fed_avg

pytestmark = pytest.mark.usefixtures("full_precision", "as_users_have_it")

SIZES = (4, 9, 6)
PEOPLE = helpers.regression(SIZES)
X, Y = (np.split(np.asarray(PEOPLE.features[name]), np.cumsum(SIZES)[:-1]) for name in ("x", "y"))
FULL: dict[str, Any] = {"batch_size": None, "steps": 4}
DEFAULT: dict[str, Any] = {"inner_optimizer": optax.adamw(1e-3)}


@pytest.fixture(name="as_users_have_it")
def standard_promotion() -> Iterator[None]:
    with jax.numpy_dtype_promotion("standard"):  # Optax's Adam itself needs it
        yield


def gradient_of(client: int, params: Any) -> Any:
    """The gradient of a client's mean loss."""
    return _gradient({"x": X[client], "y": Y[client]}, params)


@jax.jit
def _gradient(batch: Any, params: Any) -> Any:
    return jax.grad(lambda p: jnp.mean(helpers.linear_loss(p, batch, jax.random.key(0))))(params)


@partial(jax.jit, static_argnums=(0, 1))
def local_steps(inner: Any, steps: int, batch: Any, own: Any, kept: Any) -> Any:
    """So many steps of a worker on its whole data: its model, and what its optimizer keeps."""

    def one(carry: Any, _: None) -> Any:
        updates, kept = inner.update(_gradient(batch, carry[0]), carry[1], carry[0])
        return (optax.apply_updates(carry[0], updates), kept), None

    return jax.lax.scan(one, (own, kept), None, length=steps)[0]


def by_hand(
    rounds: list[list[int]], inner: Any, steps: int, ages: list[list[int]] | None = None
) -> tuple[Any, list[Any]]:
    """The paper's algorithm 1 with Nesterov momentum written out in NumPy: the model, and what the workers keep.

    With `ages`, a worker begins from the model of so many rounds before.
    """
    params = jax.device_get(helpers.linear_params())
    momentum = jax.tree.map(np.zeros_like, params)
    kept, models = [inner.init(params) for _ in SIZES], [params]
    for number, there in enumerate(rounds):
        deltas = []
        for place, k in enumerate(there):
            began = models[number - (0 if ages is None else ages[number][place])]
            own, kept[k] = local_steps(inner, steps, {"x": X[k], "y": Y[k]}, began, kept[k])
            deltas.append(jax.tree.map(np.subtract, began, jax.device_get(own)))
        delta = jax.tree.map(lambda *each: sum(each[1:], each[0]) / len(each), *deltas)
        momentum = jax.tree.map(lambda v, d: d + 0.9 * v, momentum, delta)
        params = jax.tree.map(lambda w, d, v: w - 0.7 * (d + 0.9 * v), params, delta, momentum)
        models.append(params)
    return params, kept


def test_rounds_are_those_of_the_paper_and_a_worker_that_is_away_keeps_its_state() -> None:
    inner = optax.adamw(0.05)
    rounds = [[0, 1, 2], [0, 2], [1, 2]]
    sampler = fl.sampling.replay([there + [-1] * (3 - len(there)) for there in rounds])
    algorithm = di_lo_co(helpers.linear_loss, inner_optimizer=inner, **FULL)
    _, state, _ = helpers.one_run(
        algorithm, PEOPLE, helpers.linear_params(), sampler=sampler, aggregator=fl.mean(), num_rounds=3
    )
    params, kept = by_hand(rounds, inner, steps=4)
    assert helpers.max_difference(state.server_state.params, params) < 1e-6
    for k, want in enumerate(kept):
        own = jax.tree.map(lambda leaf, k=k: leaf[k], state.clients.algorithm)
        assert helpers.max_difference(own, want) < 1e-6
    assert state.clients.algorithm[0].count[:3].tolist() == [8, 8, 12]


def arrivals(
    seconds: list[float], quorum: int, grace: float, steps: int
) -> tuple[list[list[int]], list[list[int]], list[float]]:
    """Decoupled DiLoCo's clock: who is in each step, how old their models are, and when it is made."""
    done, version, steps_made = dict(enumerate(seconds)), dict.fromkeys(range(len(seconds)), 0), []
    for number in range(steps):
        here, now, ends = [], 0.0, np.inf
        while done and (k := min(done, key=lambda k: done[k])) is not None and done[k] < ends:
            now = done.pop(k)
            here.append((k, number - version[k]))
            if len(here) == quorum:
                ends = now + grace
        now = ends if done else now
        steps_made.append((*map(list, zip(*here, strict=True)), now))
        for k, _ in here:
            done[k], version[k] = now + seconds[k], number + 1
    there, ages, times = map(list, zip(*steps_made, strict=True))
    return there, ages, times


@pytest.mark.parametrize(("quorum", "grace"), [(1, 0.75), pytest.param(2, None, marks=pytest.mark.slow)])
def test_learners_that_do_not_wait_are_those_of_the_equations(quorum: int, grace: float | None) -> None:
    inner, seconds, steps = optax.adamw(0.05), [2.0, 2.5, 6.25], 8
    there, ages, times = arrivals(seconds, quorum, grace or 0.0, steps)
    assert max(map(max, ages)) >= 2
    assert len({len(each) for each in there}) == (1 if grace is None else 3)
    sampler = fl.systems.fed_buff(
        quorum,
        concurrency=3,
        service=fl.systems.service.measured(seconds),
        sampler=fl.sampling.full(3),
        grace=grace,
    )
    algorithm = di_lo_co(helpers.linear_loss, inner_optimizer=inner, **FULL)
    _, state, info = helpers.one_run(
        algorithm, PEOPLE, helpers.linear_params(), sampler=sampler, aggregator=fl.mean(), num_rounds=steps
    )
    params, kept = by_hand(there, inner, 4, ages)
    assert helpers.max_difference(state.server_state.params, params) < 1e-6
    for k, want in enumerate(kept):
        own = jax.tree.map(lambda leaf, k=k: leaf[k], state.clients.algorithm)
        assert helpers.max_difference(own, want) < 1e-6
    assert state.clients.algorithm[0].count[:3].tolist() == [4 * sum(k in each for each in there) for k in range(3)]
    assert float(info.sampler["simulated_seconds"].whole + info.sampler["simulated_seconds"].part) == times[-1]


def test_one_inner_step_of_sgd_is_nesterov_momentum_on_the_mean_gradient() -> None:
    algorithm = di_lo_co(helpers.linear_loss, inner_optimizer=optax.sgd(0.05), batch_size=None, steps=1)
    _, state, _ = helpers.one_run(algorithm, PEOPLE, helpers.linear_params(), aggregator=fl.mean(), num_rounds=5)
    params, central = helpers.linear_params(), optax.sgd(0.7 * 0.05, momentum=0.9, nesterov=True)
    central_state = central.init(params)
    for _ in range(5):
        mean = jax.tree.map(
            lambda *each: sum(each[1:], each[0]) / len(each), *(gradient_of(k, params) for k in range(3))
        )
        updates, central_state = central.update(mean, central_state, params)
        params = optax.apply_updates(params, updates)
    assert helpers.max_difference(state.server_state.params, params) < 1e-6


@pytest.mark.parametrize(
    "momentum", [None, pytest.param(0.9, marks=pytest.mark.slow)], ids=["plain SGD", "momentum, one round"]
)
def test_an_outer_sgd_of_rate_one_is_federated_averaging_to_the_bit(momentum: float | None) -> None:
    inner = optax.sgd(0.02, momentum=momentum)
    length: dict[str, Any] = {"batch_size": 4, "epochs": 2}
    here = di_lo_co(helpers.linear_loss, inner_optimizer=inner, outer_optimizer=optax.sgd(1.0), **length)
    there = fed_avg(helpers.linear_loss, client_optimizer=inner, **length)
    runs = [
        helpers.one_run(algorithm, PEOPLE, helpers.linear_params(), num_rounds=3 if momentum is None else 1)[1]
        for algorithm in (here, there)
    ]
    assert helpers.max_difference(runs[0].server_state.params, runs[1].server_state.params) == 0.0


def test_one_worker_is_lookahead() -> None:
    """Lookahead (Zhang et al. 2019): fast weights go H steps, slow ones a part of the way; the fast start from these."""
    alone, inner, outer_rate = helpers.regression((5,)), optax.adam(0.05), 0.5
    algorithm = di_lo_co(helpers.linear_loss, inner_optimizer=inner, outer_optimizer=optax.sgd(outer_rate), **FULL)
    _, state, _ = helpers.one_run(algorithm, alone, helpers.linear_params(), num_rounds=3)
    lookahead = optax.lookahead(inner, sync_period=4, slow_step_size=outer_rate)
    params: Any = optax.LookaheadParams.init_synced(helpers.linear_params())
    own = lookahead.init(params)
    batch = {name: jnp.asarray(value) for name, value in alone.features.items()}

    def one(carry: Any, _: None) -> Any:
        updates, own = lookahead.update(_gradient(batch, carry[0].fast), carry[1], carry[0])
        return (optax.apply_updates(carry[0], updates), own), None

    params, _ = jax.jit(lambda *carry: jax.lax.scan(one, carry, None, length=12)[0])(params, own)
    assert helpers.max_difference(state.server_state.params, params.slow) < 1e-6


def test_a_worker_without_examples_keeps_its_state_and_changes_nothing() -> None:
    data = fl.Population.from_arrays(
        {name: np.asarray(value) for name, value in PEOPLE.features.items()},
        client_ids=np.repeat([0, 1, 2], SIZES),
        order=[0, 1, 2, 3],
        allow_empty=True,
    )
    algorithm = di_lo_co(helpers.linear_loss, inner_optimizer=optax.adam(0.05), batch_size=4, epochs=1)
    with_empty = helpers.one_run(algorithm, data, helpers.linear_params(), num_rounds=2)[1]
    without = helpers.one_run(algorithm, PEOPLE, helpers.linear_params(), num_rounds=2)[1]
    assert with_empty.clients.algorithm[0].count[:4].tolist() == [2, 6, 4, 0]
    assert helpers.max_difference(with_empty.server_state.params, without.server_state.params) < 1e-6


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"inner_optimizer": optax.sgd(-0.1)}, r"`inner_optimizer` steps uphill: its learning rate is below 0"),
        ({"outer_optimizer": optax.sgd(0.0)}, r"`outer_optimizer` changed nothing in 64 steps"),
        ({"epochs": 1, "steps": 1}, r"expected exactly one of them"),
        ({"batch_size": 0}, r"`batch_size` is 0; expected"),
    ],
)
def test_arguments_out_of_range_are_refused(options: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        di_lo_co(helpers.linear_loss, **{**DEFAULT, **options})
