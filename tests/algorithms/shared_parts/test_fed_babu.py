"""FedBABU: a head that nobody trains together, and that clients tune alone; against NumPy."""

from typing import Any

import helpers
import jax
import numpy as np
import optax
import personal_problems as problems
import pytest

import fedjaxlite as fl
from fedjaxlite.algorithms.pieces.leaves import by_name
from fedjaxlite.algorithms.shared_parts.fed_babu import fed_babu

RATE, TUNE_RATE = 0.05, 0.04
SETTINGS: dict[str, Any] = {"client_optimizer": optax.sgd(RATE), "batch_size": problems.BATCH, "shuffle": False}
HEAD = np.array([0.0, 0.0, 1.0])


def test_rounds_and_tuned_heads_against_numpy() -> None:
    people = problems.linear()
    algorithm = fed_babu(
        helpers.linear_loss,
        head=by_name("b"),
        tune_optimizer=optax.sgd(TUNE_RATE),
        tune_epochs=3,
        epochs=2,
        **SETTINGS,
    )
    run, state, infos = problems.played(algorithm, people)
    shared, tuned = problems.flat(problems.start()), {}
    for cohort in problems.COHORTS:
        models, sizes = [], []
        for k in (k for k in cohort if k >= 0 and problems.SIZES[k]):
            x, y = problems.rows(people, k)
            work = problems.work_of(cohort, k)
            model, own = shared, shared
            for batch in problems.batches(x, y, 2, work):
                model = model - RATE * (1 - HEAD) * problems.gradient(model, *batch)
            for batch in problems.batches(x, y, 3, work):
                own = own - TUNE_RATE * HEAD * problems.gradient(own, *batch)
            tuned[k] = own
            models.append(model)
            sizes.append(len(x))
        shared = np.average(models, axis=0, weights=sizes)
    assert problems.close(state.params, shared)
    assert float(state.params["b"]) == float(problems.start()["b"])
    problems.check_exports(run, state, people, [tuned.get(k, shared) for k in range(4)])
    assert infos[0].clients["tuned_steps"].tolist() == [3, 5, 0]
    assert run.traffic(problems.start(), people) == (8 + 4, 8)


def test_without_tuning_clients_keep_nothing_and_have_the_shared_model() -> None:
    algorithm = fed_babu(helpers.linear_loss, head=by_name("b"), **SETTINGS)
    params = problems.start()
    own = algorithm.init_client(params)
    assert not jax.tree.leaves(own)
    assert algorithm.broadcast is not None
    model = algorithm.client_params(algorithm.broadcast(algorithm.init(params)), own)
    assert helpers.max_difference(model, params) == 0


def test_state_is_never_of_the_head() -> None:
    params = fl.Variables(problems.start(), {"b": problems.start()["b"]})
    algorithm = fed_babu(helpers.linear_loss, head=by_name("b"), **SETTINGS)
    assert algorithm.broadcast is not None
    fixed = algorithm.resident(algorithm.broadcast(algorithm.init(params)))
    assert len(jax.tree.leaves(fixed)) == 1
    assert fixed[0].state == {"b": None}


def test_arguments() -> None:
    make = lambda **options: fed_babu(helpers.linear_loss, head=by_name("b"), **SETTINGS, **options)  # noqa: E731
    with pytest.raises(ValueError, match="`tune` is 'all'; expected one of 'head', 'body', 'full'"):
        make(tune="all")
    with pytest.raises(ValueError, match="`tune_epochs` is 2 and `tune_steps` is 3; expected at most one of them"):
        make(tune_epochs=2, tune_steps=3)
    with pytest.raises(TypeError, match="`tune_optimizer` is 0.1; expected an optax optimizer"):
        make(tune_optimizer=0.1)
