"""Tilted averaging: federated averaging at t = 0, tilted optima of quadratics, and the running estimate."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite.algorithms.groups_and_fairness.term import term

TILTS = (-20.0, -1.0, 0.0, 1.0, 10.0, 40.0)
VALUES, SIZES = [0.0, 0.3, 1.0], [3, 2, 1]


def point(x: Any, batch: Any, key: Any) -> jax.Array:
    del key
    return (x - batch["x"]) ** 2 / 2


def gradient(x: float, t: float) -> float:
    """Of the tilted objective on the clients' values, in double precision."""
    values, shares = np.array(VALUES), np.array(SIZES) / sum(SIZES)
    losses = (x - values) ** 2 / 2
    weights = shares * np.exp(t * (losses - losses.max() if t > 0 else losses - losses.min()))
    return float((weights * (x - values)).sum() / weights.sum())


def objective(x: float, t: float) -> float:
    losses, shares = (x - np.array(VALUES)) ** 2 / 2, np.array(SIZES) / sum(SIZES)
    return float(shares @ losses if t == 0 else np.log(shares @ np.exp(t * losses)) / t)


def test_t_0_is_federated_averaging() -> None:
    data, start = helpers.regression((4, 9, 1, 6)), helpers.linear_params()
    options = {"client_optimizer": optax.sgd(0.02), "batch_size": 4, "epochs": 2}
    _, got, _ = helpers.one_run(term(helpers.linear_loss, t=0, **options), data, start, num_rounds=2)
    _, want, _ = helpers.one_run(helpers.fed_avg(0.02, batch_size=4, epochs=2), data, start, num_rounds=2)
    assert helpers.max_difference(got.params, want.params) < 1e-6
    assert float(got.server_state.tilted_loss) == 0


def test_it_ends_at_the_tilted_optimum_of_every_t() -> None:
    """From the least loss (t < 0) over the mean to the largest; the state's estimate is the objective there."""
    data = helpers.one_value_each(VALUES, SIZES)

    def fixed_point(t: jax.Array) -> tuple[jax.Array, jax.Array]:
        algorithm = term(point, t=t, client_optimizer=optax.sgd(0.1), batch_size=None, steps=1)
        run = fl.rounds(algorithm, sampler=fl.sampling.full(3), aggregator=fl.weighted_mean(), execution=helpers.ONE)
        state, _ = run.steps(run.init(jnp.float32(0.2), data, key=jax.random.key(0)), data, 400)
        return state.params, state.server_state.tilted_loss

    points, estimates = jax.jit(jax.vmap(fixed_point))(jnp.float32(TILTS))
    for t, x, estimate in zip(TILTS, points.tolist(), estimates.tolist(), strict=True):
        assert gradient(x, t) == pytest.approx(0, abs=1e-5), t
        assert estimate == pytest.approx(0 if t == 0 else objective(x, t), abs=1e-5)
    assert points.tolist() == sorted(points.tolist())
    assert float(points[2]) == pytest.approx(1.6 / 6, abs=1e-5)
    assert float(points[-1]) == pytest.approx(0.5, abs=0.05)


def test_weights_of_one_round_are_exponentials_of_the_losses() -> None:
    """Local rate 1 from x = 2: clients end at their values, so the new model is the tilted mean of these."""
    data = helpers.one_value_each(VALUES, SIZES)
    algorithm = term(point, t=1.5, client_optimizer=optax.sgd(1.0), batch_size=None)
    run = fl.rounds(algorithm, sampler=fl.sampling.full(3), aggregator=fl.weighted_mean(), execution=helpers.ONE)
    first = run.init(jnp.float32(2.0), data, key=jax.random.key(0))
    weights = np.array(SIZES) * np.exp(1.5 * (2 - np.array(VALUES)) ** 2 / 2)
    want = float(weights @ np.array(VALUES) / weights.sum())
    for guess in (0.0, 1.7, -30.0):  # whatever R is; at -30 the exponents still fit
        start = first._replace(server_state=first.server_state._replace(tilted_loss=jnp.float32(guess)))
        state, info = run.step(start, data)
        assert float(state.params) == pytest.approx(want, abs=1e-5)
        assert float(state.server_state.tilted_loss) == pytest.approx(objective(2.0, 1.5), abs=1e-4)
    assert info.clients["start_loss"].tolist() == pytest.approx((2 - np.array(VALUES)) ** 2 / 2)
    far = first._replace(server_state=first.server_state._replace(tilted_loss=jnp.float32(-1e6)))
    for _ in range(3):
        far, info = run.step(far, data)
        assert np.isfinite(float(far.params))
        assert int(info.num_nonfinite) == 0


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`t` is inf; expected a finite number"):
        term(point, t=float("inf"), client_optimizer=optax.sgd(0.1))
    with pytest.raises(TypeError, match=r"`t` is 'high'; expected a finite number"):
        term(point, t="high", client_optimizer=optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"`server_optimizer` steps uphill"):
        term(point, t=1, client_optimizer=optax.sgd(0.1), server_optimizer=optax.sgd(-1.0))
