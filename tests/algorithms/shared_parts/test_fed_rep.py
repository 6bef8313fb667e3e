"""FedPer, LG-FedAvg and FedRep: who keeps what, against NumPy."""

from typing import Any

import helpers
import numpy as np
import optax
import personal_problems as problems
import pytest

import fedjaxlite as fl
from fedjaxlite.algorithms.pieces.leaves import by_name
from fedjaxlite.algorithms.shared_parts.fed_per import fed_per
from fedjaxlite.algorithms.shared_parts.fed_rep import fed_rep
from fedjaxlite.algorithms.shared_parts.lg_fed_avg import lg_fed_avg

RATE, HEAD_RATE = 0.05, 0.08
SETTINGS: dict[str, Any] = {"client_optimizer": optax.sgd(RATE), "batch_size": problems.BATCH, "shuffle": False}
HEAD = np.array([0.0, 0.0, 1.0])
"""The bias, in a vector of weights and bias."""
ALL = np.ones(3)


def by_hand(
    people: fl.Population, own_mask: np.ndarray, phases: list[tuple[np.ndarray, float, int]]
) -> list[np.ndarray]:
    """Every client's model after the rounds of `COHORTS`, and the shared one; a phase is (what moves, rate, epochs)."""
    shared = problems.flat(problems.start())
    own = dict.fromkeys(range(len(problems.SIZES)), shared)
    for cohort in problems.COHORTS:
        models, sizes = [], []
        for k in (k for k in cohort if k >= 0 and problems.SIZES[k]):
            x, y = problems.rows(people, k)
            model = np.where(own_mask, own[k], shared)
            for moves, rate, epochs in phases:
                for batch in problems.batches(x, y, epochs, problems.work_of(cohort, k)):
                    model = model - rate * moves * problems.gradient(model, *batch)
            own[k] = model
            models.append(model)
            sizes.append(len(x))
        mean = np.average(models, axis=0, weights=sizes)
        shared = np.where(own_mask, shared, mean)
    return [np.where(own_mask, own[k], shared) for k in range(len(problems.SIZES))] + [shared]


def check(algorithm: fl.Algorithm, own_mask: np.ndarray, phases: list[tuple[np.ndarray, float, int]]) -> list[Any]:
    people = problems.linear()
    run, state, infos = problems.played(algorithm, people)
    *models, shared = by_hand(people, own_mask, phases)
    assert problems.close(state.params, shared)
    problems.check_exports(run, state, people, models)
    # Clients 2 (no examples) and 3 (never there) have the part of the start, the others one of their own.
    assert all(np.abs((models[k] - shared) * own_mask).max() > 0.05 for k in (0, 1))
    common = int(np.sum(1 - own_mask)) * 4
    assert run.traffic(problems.start(), people) == (common + 4, common)
    return infos


def test_fed_per_trains_both_and_keeps_the_head() -> None:
    check(fed_per(helpers.linear_loss, personal=by_name("b"), epochs=2, **SETTINGS), HEAD, [(ALL, RATE, 2)])


def test_lg_fed_avg_keeps_the_representation() -> None:
    check(lg_fed_avg(helpers.linear_loss, local=by_name("w"), epochs=2, **SETTINGS), 1 - HEAD, [(ALL, RATE, 2)])


def test_fed_rep_fits_the_head_before_the_body_moves() -> None:
    algorithm = fed_rep(
        helpers.linear_loss,
        head=by_name("b"),
        head_optimizer=optax.sgd(HEAD_RATE),
        head_epochs=3,
        epochs=2,
        **SETTINGS,
    )
    infos = check(algorithm, HEAD, [(HEAD, HEAD_RATE, 3), (1 - HEAD, RATE, 2)])
    assert infos[0].clients["head_steps"].tolist() == [3, 5, 0]
    assert infos[0].clients["local_steps"].tolist() == [2, 3, 0]
    # The head's fit starts from the received model, the body's from under the fitted head.
    assert infos[0].clients["head_loss"][0] > infos[0].clients["loss"][0]


def test_arguments() -> None:
    make = lambda **options: fed_rep(helpers.linear_loss, head=by_name("b"), **{**SETTINGS, **options})  # noqa: E731
    with pytest.raises(ValueError, match="`head_epochs` is 2 and `head_steps` is 3; expected at most one of them"):
        make(head_epochs=2, head_steps=3)
    with pytest.raises(ValueError, match="`epochs` is 2 and `steps` is 3; expected exactly one"):
        make(epochs=2, steps=3)
    with pytest.raises(TypeError, match="`head_optimizer` is 0.1; expected an optax optimizer"):
        make(head_optimizer=0.1)
    hparams = make(steps=4).hparams
    assert (hparams["head_epochs"], hparams["head_steps"], hparams["epochs"], hparams["steps"]) == (1, None, None, 4)
