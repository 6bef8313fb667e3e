"""Fine-tuning: what each client keeps, beside an algorithm that does not notice."""

from typing import Any

import helpers
import jax.numpy as jnp
import numpy as np
import optax
import personal_problems as problems
import pytest

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.algorithms.personal_models.ditto import ditto
from fedjaxlite.algorithms.personal_models.fine_tuning import fine_tuned

RATE, TUNE = 0.05, 0.03


def shared_algorithm() -> fl.Algorithm:
    return algorithms.fed_avg(
        helpers.linear_loss, client_optimizer=optax.sgd(RATE), batch_size=problems.BATCH, epochs=2, shuffle=False
    )


def tuned(algorithm: Any, **options: Any) -> fl.Algorithm:
    settings: dict[str, Any] = {
        "client_optimizer": optax.sgd(TUNE),
        "batch_size": problems.BATCH,
        "epochs": 3,
        "shuffle": False,
    }
    return fine_tuned(algorithm, helpers.linear_loss, **{**settings, **options})


def test_rounds_against_numpy() -> None:
    """A client keeps the model that it tuned from the one received in its last round."""
    people = problems.linear()
    run, state, infos = problems.played(tuned(shared_algorithm()), people)
    shared, own = problems.flat(problems.start()), {}
    for cohort in problems.COHORTS:
        deltas, sizes = [], []
        for k in (k for k in cohort if k >= 0 and problems.SIZES[k]):
            x, y = problems.rows(people, k)
            work = problems.work_of(cohort, k)
            model = personal = shared
            for batch in problems.batches(x, y, 2, work):
                model = model - RATE * problems.gradient(model, *batch)
            for batch in problems.batches(x, y, 3, work):
                personal = personal - TUNE * problems.gradient(personal, *batch)
            own[k] = personal
            deltas.append(shared - model)
            sizes.append(len(x))
        shared = shared - np.average(deltas, axis=0, weights=sizes)
    assert problems.close(state.params, shared)
    problems.check_exports(run, state, people, [own.get(k, shared) for k in range(4)])
    assert min(np.abs(own[k] - shared).max() for k in own) > 0.05
    assert infos[0].clients["personal_steps"].tolist() == [3, 5, 0]


def test_an_algorithm_with_models_of_its_own_is_tuned_from_them() -> None:
    """Ditto inside: on a/2 (x - b)^2 each step of rate r brings its personal model nearer to b by a factor 1 - r a."""
    people = problems.quadratics()
    inner = ditto(problems.quadratic, lam=0.5, client_optimizer=optax.sgd(0.1), batch_size=1, steps=5)
    algorithm = fine_tuned(inner, problems.quadratic, client_optimizer=optax.sgd(0.05), batch_size=1, steps=2)
    _, state, info = helpers.one_run(algorithm, people, jnp.float32(0.3), num_rounds=2)
    own = state.clients.algorithm
    want = problems.B + (1 - 0.05 * problems.A) ** 2 * (np.asarray(own.inner.personal) - problems.B)
    assert own.personal.tolist() == pytest.approx(want.tolist(), abs=1e-6)
    assert algorithm.name == "fine_tuned(ditto)"
    assert {"loss", "local_steps", "personal_loss", "personal_steps"} <= set(info.clients)


def test_what_is_refused() -> None:
    with pytest.raises(TypeError, match=r"`algorithm` is 3; expected an Algorithm"):
        tuned(3)
    with pytest.raises(ValueError, match=r"`epochs` is 3 and `steps` is 2; expected exactly one"):
        tuned(shared_algorithm(), steps=2)
    with pytest.raises(ValueError, match=r"`client_params` of `scaffold` gives .*fine-tuning expected a model"):
        helpers.one_run(tuned(helpers.scaffold()), problems.linear(), problems.start(), num_rounds=0)
