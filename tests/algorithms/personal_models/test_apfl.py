"""APFL: against NumPy, at its fixed point, and the rule by which its share adapts."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import personal_problems as problems
import pytest

import fedjaxlite as fl
from fedjaxlite.algorithms.personal_models.apfl import apfl

RATE, OWN_RATE, ALPHA, ALPHA_RATE = 0.05, 0.08, 0.4, 0.3


def settings() -> dict[str, Any]:
    return {"client_optimizer": optax.sgd(RATE), "batch_size": problems.BATCH, "epochs": 2, "shuffle": False}


def mixture(alpha: float, local: np.ndarray, shared: np.ndarray) -> np.ndarray:
    return alpha * local + (1 - alpha) * shared


def test_rounds_with_an_adaptive_share_against_numpy() -> None:
    people = problems.linear()
    algorithm = apfl(
        helpers.linear_loss,
        alpha=ALPHA,
        alpha_rate=ALPHA_RATE,
        personal_optimizer=optax.sgd(OWN_RATE),
        **settings(),
    )
    run, state, infos = problems.played(algorithm, people)
    shared, own = problems.flat(problems.start()), {}
    for cohort in problems.COHORTS:
        deltas, sizes = [], []
        for k in (k for k in cohort if k >= 0 and problems.SIZES[k]):
            x, y = problems.rows(people, k)
            local, alpha = own.get(k, (shared, ALPHA))
            model = shared
            for step, batch in enumerate(problems.batches(x, y, 2, problems.work_of(cohort, k))):
                mixed = problems.gradient(mixture(alpha, local, model), *batch)
                slope = (local - model) @ mixed
                model, local = model - RATE * problems.gradient(model, *batch), local - OWN_RATE * alpha * mixed
                alpha = float(np.clip(alpha - ALPHA_RATE * slope, 0, 1)) if step == 0 else alpha
            own[k] = local, alpha
            deltas.append(shared - model)
            sizes.append(len(x))
        shared = shared - np.average(deltas, axis=0, weights=sizes)
    assert problems.close(state.params, shared)
    personal = [mixture(own[k][1], own[k][0], shared) if k in own else shared for k in range(4)]
    problems.check_exports(run, state, people, personal)
    assert state.clients.algorithm.alpha.tolist() == pytest.approx([own[0][1], own[1][1], ALPHA, ALPHA], abs=1e-5)
    assert own[0][1] == 0.0 < own[1][1] < ALPHA, "one share should have been clipped, and the other not"
    assert infos[0].clients["local_steps"].tolist() == [2, 3, 0]
    assert infos[2].clients["alpha"][:2].tolist() == pytest.approx([own[0][1], own[1][1]], abs=1e-5)


def test_with_one_local_step_the_mixture_ends_at_each_clients_own_optimum() -> None:
    """On a/2 (x - b)^2 for any share above 0; a share of 0 is the shared model. Full batches, shares as tracers."""
    people = problems.quadratics()

    @jax.jit
    @jax.vmap
    def ends(alpha: Any) -> Any:
        algorithm = apfl(problems.quadratic, alpha=alpha, client_optimizer=optax.sgd(0.2), batch_size=None, steps=1)
        run = fl.rounds(algorithm, sampler=fl.sampling.full(3), aggregator=fl.mean(), execution=helpers.ONE)
        state = run.init(jnp.float32(0.3), people, key=jax.random.key(0))
        state, _ = run.steps(state, people, 300)
        return state.params, [run.client_params(state, i) for i in range(3)]

    shared, personal = ends(jnp.float32([0.0, 0.5, 1.0]))
    best = float((problems.A * problems.B).sum() / problems.A.sum())
    assert shared.tolist() == pytest.approx([best] * 3, abs=1e-5)
    for i, b in enumerate(problems.B):
        assert personal[i].tolist() == pytest.approx([best, b, b], abs=1e-5)


def test_arguments_out_of_range() -> None:
    def make(**options: Any) -> fl.Algorithm:
        settings: dict[str, Any] = {"alpha": 0.5, "client_optimizer": optax.sgd(0.1)}
        return apfl(problems.quadratic, **{**settings, **options})

    with pytest.raises(ValueError, match=r"`alpha` is 1.5; expected a number in \[0, 1\]"):
        make(alpha=1.5)
    with pytest.raises(ValueError, match=r"`alpha` is -0.5; expected a number"):
        make(alpha=-0.5)
    with pytest.raises(ValueError, match=r"`alpha_rate` is 0; expected a finite number above 0\. Leave it out"):
        make(alpha_rate=0)
    with pytest.raises(TypeError, match=r"`personal_optimizer` is 0.1; expected an optax optimizer"):
        make(personal_optimizer=0.1)
