"""pFedMe: against NumPy, and on quadratics, whose Moreau envelopes are quadratics again."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import personal_problems as problems
import pytest

import fedjaxlite as fl
from fedjaxlite.algorithms.personal_models.p_fed_me import p_fed_me

LAM, ETA, BETA, OWN_RATE, INNER, ACCURACY = 2.0, 0.2, 1.5, 0.05, 4, 1.0


def make(**options: Any) -> fl.Algorithm:
    settings: dict[str, Any] = {
        "lam": LAM,
        "eta": ETA,
        "inner_steps": INNER,
        "personal_optimizer": optax.sgd(OWN_RATE),
        "beta": BETA,
        "accuracy": ACCURACY,
        "batch_size": problems.BATCH,
        "epochs": 2,
        "shuffle": False,
    }
    return p_fed_me(helpers.linear_loss, **{**settings, **options})


def test_rounds_against_numpy() -> None:
    people = problems.linear()
    run, state, infos = problems.played(make(), people)
    shared, own = problems.flat(problems.start()), {}
    stopped = 0
    for cohort in problems.COHORTS:
        models, sizes = [], []
        for k in (k for k in cohort if k >= 0 and problems.SIZES[k]):
            x, y = problems.rows(people, k)
            model = theta = shared
            for batch in problems.batches(x, y, 2, problems.work_of(cohort, k)):
                for _ in range(INNER):
                    slope = problems.gradient(theta, *batch) + LAM * (theta - model)
                    if slope @ slope <= ACCURACY:
                        stopped += 1
                        break
                    theta = theta - OWN_RATE * slope
                model = model - ETA * LAM * (model - theta)
            own[k] = theta
            models.append(model)
            sizes.append(len(x))
        shared = (1 - BETA) * shared + BETA * np.average(models, axis=0, weights=sizes)
    assert problems.close(state.params, shared)
    problems.check_exports(run, state, people, [own.get(k, shared) for k in range(4)])
    assert stopped > 0
    assert infos[0].clients["local_steps"].tolist() == [2, 3, 0]


def test_on_quadratics_it_is_averaging_of_the_envelopes() -> None:
    """f = a/2 (x - b)^2 has the envelope a'/2 (x - b)^2 with a' = lam a / (a + lam), and theta = (ab + lam w)/(a + lam).

    R steps of rate eta on it, solved to the end, make w fall on its fixed point by 1 - beta mean(c) a round, where
    c = 1 - (1 - eta a')^R; the server's beta does not move the fixed point.
    """
    people, rounds, betas = problems.quadratics(), 3, [0.5, 1.0, 2.0]

    @jax.jit
    @jax.vmap
    def after(beta: Any) -> Any:
        algorithm = p_fed_me(
            problems.quadratic,
            lam=LAM,
            eta=0.3,
            inner_steps=60,
            personal_optimizer=optax.sgd(0.2),
            beta=beta,
            batch_size=None,
            steps=4,
        )
        run = fl.rounds(algorithm, sampler=fl.sampling.full(3), aggregator=fl.mean(), execution=helpers.ONE)
        state = run.init(jnp.float32(0.3), people, key=jax.random.key(0))
        state, _ = run.steps(state, people, rounds)
        return state.params, state.clients.algorithm.personal

    shared, personal = after(jnp.float32(betas))
    a, b = problems.A.astype(np.float64), problems.B.astype(np.float64)
    rate = 1 - 0.3 * LAM * a / (a + LAM)
    pull = 1 - rate**4
    end = (pull * b).sum() / pull.sum()
    for i, beta in enumerate(betas):
        received, last = (end + (1 - beta * pull.mean()) ** t * (0.3 - end) for t in (rounds - 1, rounds))
        assert float(shared[i]) == pytest.approx(last, abs=1e-5)
        anchor = b + rate**3 * (received - b)
        assert personal[i].tolist() == pytest.approx(((a * b + LAM * anchor) / (a + LAM)).tolist(), abs=1e-5)


def test_arguments_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"`lam` is 0; expected a finite number above 0"):
        make(lam=0)
    with pytest.raises(ValueError, match=r"`eta` is -1; expected a finite number above 0"):
        make(eta=-1)
    with pytest.raises(ValueError, match=r"`beta` is 0; expected a finite number above 0"):
        make(beta=0)
    with pytest.raises(ValueError, match=r"`accuracy` is -1; expected a number of at least 0"):
        make(accuracy=-1)
    with pytest.raises(ValueError, match=r"`inner_steps` is 0; expected an int of at least 1"):
        make(inner_steps=0)
    with pytest.raises(TypeError, match=r"`personal_optimizer` is 0.1; expected an optax optimizer"):
        make(personal_optimizer=0.1)
