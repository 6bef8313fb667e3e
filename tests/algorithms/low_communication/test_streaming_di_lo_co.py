"""Streaming DiLoCo against the paper's equations in plain JAX, and DiLoCo, which it is without fragments and overlap."""

from collections.abc import Iterator
from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import fedjaxlite as fl
from fedjaxlite.algorithms.low_communication.di_lo_co import di_lo_co
from fedjaxlite.algorithms.low_communication.streaming_di_lo_co import streaming_di_lo_co

SIZES = (4, 9, 6)
PEOPLE = helpers.regression(SIZES)
X, Y = (np.split(np.asarray(PEOPLE.features[name]), np.cumsum(SIZES)[:-1]) for name in ("x", "y"))
INNER = optax.adamw(0.05)
DEFAULT: dict[str, Any] = {"inner_optimizer": INNER}
PIECES = ((0, 2), (2, 4))
"""Of the four parameters, as two fragments."""


@pytest.fixture(autouse=True)
def standard_promotion(full_precision: None) -> Iterator[None]:
    del full_precision
    with jax.numpy_dtype_promotion("standard"):  # Optax's Adam itself needs it
        yield


def by_hand(rounds: list[list[int]], *, steps: int, overlap: int, mixing: float) -> tuple[Any, list[Any]]:
    """The paper's algorithm 2 for workers that may be away, on a flat vector, step by step: the model and the workers'."""
    start, back = ravel_pytree(helpers.linear_params())
    shared = np.array(start)

    @jax.jit
    def stepped(flat: Any, kept: Any, batch: Any) -> Any:
        loss = lambda w: jnp.mean(helpers.linear_loss(back(w), batch, jax.random.key(0)))  # noqa: E731
        updates, kept = INNER.update(jax.grad(loss)(flat), kept, flat)
        return optax.apply_updates(flat, updates), kept

    def mixed(flat: Any, fragment: int) -> Any:
        low, high = PIECES[fragment]
        flat = np.array(flat)
        flat[low:high] = mixing * flat[low:high] + (1 - mixing) * shared[low:high]
        return flat

    momentum = np.zeros_like(shared)
    own: list[Any] = [None] * len(SIZES)
    kept: list[Any] = [INNER.init(start)] * len(SIZES)
    waiting: list[list[int]] = [[] for _ in SIZES]  # fragments that changed since a worker was last there
    for r, there in enumerate(rounds):
        low, high = PIECES[r % 2]
        deltas = []
        for k in there:
            flat = np.array(shared if own[k] is None else own[k])
            todo = [] if own[k] is None else waiting[k]
            latest = (r - 1) % 2
            for fragment in set(todo) - {latest}:
                flat = mixed(flat, fragment)
            for t in range(steps):
                flat = mixed(flat, latest) if t == overlap and latest in todo else flat
                flat, kept[k] = stepped(flat, kept[k], {"x": X[k], "y": Y[k]})
            deltas.append(shared[low:high] - np.asarray(flat)[low:high])
            own[k], waiting[k] = flat, []
        delta = sum(deltas[1:], deltas[0]) / len(deltas)
        velocity = delta + 0.9 * momentum[low:high]
        momentum[low:high] = velocity
        shared[low:high] -= 0.7 * (delta + 0.9 * velocity)
        for todo in waiting:
            todo.append(r % 2)
    return back(jnp.asarray(shared)), own


def test_rounds_are_those_of_the_paper_for_workers_that_come_late_and_go() -> None:
    rounds = [[0, 1], [0, 2], [0], [1, 2], [0, 1, 2], [0, 1, 2]]
    options: dict[str, Any] = {"steps": 3, "overlap": 1, "mixing": 0.25}
    algorithm = streaming_di_lo_co(helpers.linear_loss, fragments=2, batch_size=None, **DEFAULT, **options)
    sampler = fl.sampling.replay([there + [-1] * (3 - len(there)) for there in rounds])
    _, state, _ = helpers.one_run(
        algorithm, PEOPLE, helpers.linear_params(), sampler=sampler, aggregator=fl.mean(), num_rounds=len(rounds)
    )
    params, own = by_hand(rounds, **options)
    assert helpers.max_difference(state.server_state.params, params) < 1e-6
    for k, want in enumerate(own):
        got = ravel_pytree(jax.tree.map(lambda leaf, k=k: leaf[k], state.clients.algorithm.params))[0]
        assert helpers.max_difference(got, want) < 1e-6


def test_one_fragment_without_overlap_and_mixing_is_di_lo_co() -> None:
    options: dict[str, Any] = {"batch_size": 4, "steps": 3, **DEFAULT}
    states = [
        helpers.one_run(make(helpers.linear_loss, **options), PEOPLE, helpers.linear_params(), num_rounds=4)[1]
        for make in (streaming_di_lo_co, di_lo_co)
    ]
    assert helpers.max_difference(states[0].server_state.params, states[1].server_state.params) < 1e-6
    own = states[0].clients.algorithm.optimizer_state
    assert helpers.max_difference(own, states[1].clients.algorithm) < 1e-6


def test_bytes_are_a_fragment_and_the_whole_model_for_who_comes_first() -> None:
    algorithm = streaming_di_lo_co(helpers.linear_loss, fragments=2, steps=3, **DEFAULT)
    rounds = [[0, 1, -1], [0, 2, -1], [0, -1, -1], [1, -1, -1]]
    sampler, start = fl.sampling.replay(rounds), helpers.linear_params()
    run, state, _ = helpers.one_run(algorithm, PEOPLE, start, sampler=sampler, aggregator=fl.mean(), num_rounds=0)
    moved = []
    for _ in rounds:
        state, info = run.step(state, PEOPLE)
        moved.append(tuple(int(info.clients[name].sum()) for name in ("bytes_up", "bytes_down")))
    # Four numbers in two fragments of two, 8 bytes each, and a weight of 4 bytes; worker 1 missed both when it is back.
    assert moved == [(24, 32), (24, 24), (12, 8), (12, 16)]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"inner_optimizer": optax.sgd(-0.1)}, r"`inner_optimizer` steps uphill: its learning rate is below 0"),
        ({"fragments": 0}, r"`fragments` is 0; expected"),
        ({"overlap": 3, "steps": 3}, r"`overlap` is 3 and `steps` is 3; expected fewer, since a fragment has to be"),
        ({"mixing": 1.0}, r"`mixing` is 1\.0; expected a number in \[0, 1\)"),
    ],
)
def test_arguments_out_of_range_are_refused(options: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        streaming_di_lo_co(helpers.linear_loss, **{**DEFAULT, **options})


def test_models_that_cannot_be_cut_are_refused() -> None:
    algorithm = streaming_di_lo_co(helpers.linear_loss, fragments=5, **DEFAULT)
    with pytest.raises(ValueError, match=r"`fragments` is 5, and the model has 4 parameters; expected at most so many"):
        algorithm.init(helpers.linear_params())
    with pytest.raises(TypeError, match=r"`params` are fl\.Variables; expected a model without state"):
        algorithm.init(fl.Variables(helpers.linear_params(), {}))


@pytest.mark.slow
def test_mixing_may_be_a_traced_number() -> None:
    """As where many weights are tried at once."""

    def last(mixing: Any) -> Any:
        options: dict[str, Any] = {"fragments": 2, "overlap": 1, "batch_size": None, "steps": 2}
        algorithm = streaming_di_lo_co(
            helpers.linear_loss, inner_optimizer=optax.sgd(0.05, momentum=0.9), mixing=mixing, **options
        )
        return helpers.one_run(algorithm, PEOPLE, helpers.linear_params(), num_rounds=4)[1].server_state.params

    both = jax.vmap(last)(jnp.float32([0.0, 0.5]))
    for i, mixing in enumerate((0.0, 0.5)):
        assert helpers.max_difference(jax.tree.map(lambda leaf, i=i: leaf[i], both), last(mixing)) < 1e-6
    assert float(abs(both["w"][0] - both["w"][1]).max()) > 1e-3
