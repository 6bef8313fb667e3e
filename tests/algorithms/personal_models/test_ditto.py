"""Ditto: against NumPy, and at its closed-form fixed point."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import personal_problems as problems
import pytest

import fedjaxlite as fl
from fedjaxlite.algorithms.personal_models.ditto import ditto

LAM, RATE, OWN_RATE = 0.3, 0.05, 0.04


def settings() -> dict[str, Any]:
    return {"client_optimizer": optax.sgd(RATE), "batch_size": problems.BATCH, "epochs": 2, "shuffle": False}


def test_rounds_with_stragglers_empty_and_absent_clients_against_numpy() -> None:
    people = problems.linear()
    algorithm = ditto(
        helpers.linear_loss, lam=LAM, personal_optimizer=optax.sgd(OWN_RATE), personal_epochs=3, **settings()
    )
    run, state, infos = problems.played(algorithm, people)
    shared, own = problems.flat(problems.start()), {}
    for cohort in problems.COHORTS:
        deltas, sizes = [], []
        for k in (k for k in cohort if k >= 0 and problems.SIZES[k]):
            x, y = problems.rows(people, k)
            work = problems.work_of(cohort, k)
            model, personal = shared, own.get(k, shared)
            for batch in problems.batches(x, y, 2, work):
                model = model - RATE * problems.gradient(model, *batch)
            for batch in problems.batches(x, y, 3, work):
                personal = personal - OWN_RATE * (problems.gradient(personal, *batch) + LAM * (personal - shared))
            own[k] = personal
            deltas.append(shared - model)
            sizes.append(len(x))
        shared = shared - np.average(deltas, axis=0, weights=sizes)
    assert problems.close(state.params, shared)
    # Client 2 has no examples and client 3 never took part: theirs is the current shared model.
    problems.check_exports(run, state, people, [own.get(k, shared) for k in range(4)])
    assert min(np.abs(own[k] - shared).max() for k in own) > 0.05
    assert infos[0].clients["local_steps"].tolist() == [2, 3, 0]
    assert infos[0].clients["personal_steps"].tolist() == [3, 5, 0]
    assert state.clients.algorithm.joined.tolist() == [True, True, False, False]


def test_personal_models_end_between_their_own_optimum_and_the_shared_model() -> None:
    """Full participation on a/2 (x - b)^2: v_k = (a_k b_k + lam w) / (a_k + lam), and w is FedAvg's fixed point."""
    people, lams = problems.quadratics(), jnp.float32([0.0, 0.5, 3.0])

    @jax.jit
    @jax.vmap
    def ends(lam: Any) -> Any:
        algorithm = ditto(problems.quadratic, lam=lam, client_optimizer=optax.sgd(0.1), batch_size=1, steps=5)
        run = fl.rounds(algorithm, sampler=fl.sampling.full(3), aggregator=fl.mean(), execution=helpers.ONE)
        state = run.init(jnp.float32(0.3), people, key=jax.random.key(0))
        state, _ = run.steps(state, people, 80)
        return state.params, state.clients.algorithm.personal

    shared, personal = ends(lams)
    a, b = problems.A.astype(np.float64), problems.B.astype(np.float64)
    pull = 1 - (1 - 0.1 * a) ** 5
    want = (pull * b).sum() / pull.sum()
    assert shared.tolist() == pytest.approx([want] * 3, abs=1e-5)
    for lam, models in zip([0.0, 0.5, 3.0], personal, strict=True):
        assert models.tolist() == pytest.approx(((a * b + lam * want) / (a + lam)).tolist(), abs=1e-5)


def test_arguments_out_of_range() -> None:
    def make(**options: Any) -> fl.Algorithm:
        settings: dict[str, Any] = {"lam": 1.0, "client_optimizer": optax.sgd(0.1)}
        return ditto(problems.quadratic, **{**settings, **options})

    with pytest.raises(ValueError, match=r"`lam` is -1; expected a number of at least 0"):
        make(lam=-1)
    with pytest.raises(ValueError, match=r"`personal_epochs` is 2 and `personal_steps` is 3; expected at most one"):
        make(personal_epochs=2, personal_steps=3)
    with pytest.raises(TypeError, match=r"`personal_optimizer` is 0.1; expected an optax optimizer"):
        make(personal_optimizer=0.1)


def test_the_personal_model_trains_as_long_as_the_shared_one_unless_told() -> None:
    make = lambda **options: ditto(problems.quadratic, lam=1.0, client_optimizer=optax.sgd(0.1), **options)  # noqa: E731
    named = [(a.hparams["personal_epochs"], a.hparams["personal_steps"]) for a in (make(), make(steps=4))]
    assert named == [(1, None), (None, 4)]
    assert make(steps=4, personal_epochs=2).hparams["personal_steps"] is None
