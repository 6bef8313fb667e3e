"""FedALA: weights of the mixture and models against NumPy."""

from typing import Any

import helpers
import numpy as np
import optax
import personal_problems as problems
import pytest

from fedjaxlite.algorithms.personal_models.fed_ala import fed_ala
from fedjaxlite.algorithms.pieces.leaves import by_name

RATE, ETA, SHARE = 0.05, 0.9, 0.8
SETTINGS: dict[str, Any] = {"client_optimizer": optax.sgd(RATE), "batch_size": problems.BATCH, "shuffle": False}
TOP = np.array([0.0, 0.0, 1.0])


def test_rounds_against_numpy() -> None:
    people = problems.linear()
    algorithm = fed_ala(
        helpers.linear_loss, top=by_name("b"), eta=ETA, sample=SHARE, mix_epochs=2, epochs=2, **SETTINGS
    )
    run, state, infos = problems.played(algorithm, people)
    shared, own, mixes = problems.flat(problems.start()), {}, dict.fromkeys(range(4), 1.0)
    for cohort in problems.COHORTS:
        models, sizes = [], []
        for k in (k for k in cohort if k >= 0 and problems.SIZES[k]):
            x, y = problems.rows(people, k)
            work, old = problems.work_of(cohort, k), own.get(k, shared)
            begun = lambda mix: shared + TOP * (mix - 1) * (shared - old)  # noqa: B023, E731
            for batch in problems.batches(x, y, 2, SHARE * work):
                step = ETA * problems.gradient(begun(mixes[k]), *batch) * (shared - old)
                mixes[k] = float(np.clip(mixes[k] - step[2], 0, 1))
            model = begun(mixes[k])
            for batch in problems.batches(x, y, 2, work):
                model = model - RATE * problems.gradient(model, *batch)
            own[k] = model
            models.append(model)
            sizes.append(len(x))
        shared = np.average(models, axis=0, weights=sizes)
    assert problems.close(state.params, shared)
    np.testing.assert_allclose(state.clients.algorithm.mix["b"], [mixes[k] for k in range(4)], atol=1e-5)
    assert state.clients.algorithm.mix["w"] is None
    assert any(0.01 < mix < 0.99 for mix in mixes.values()), mixes
    problems.check_exports(run, state, people, [own.get(k, shared) for k in range(4)])
    assert infos[0].clients["mix_steps"].tolist() == [2, 3, 0]
    assert run.traffic(problems.start(), people) == (12 + 4, 12)


def test_arguments() -> None:
    make = lambda **options: fed_ala(helpers.linear_loss, top=by_name("b"), **SETTINGS, **options)  # noqa: E731
    with pytest.raises(ValueError, match="`eta` is 0; expected a finite number above 0"):
        make(eta=0)
    with pytest.raises(ValueError, match=r"`sample` is 1.5; expected a number in \(0, 1\]"):
        make(sample=1.5)
    with pytest.raises(ValueError, match="`mix_epochs` is 0; expected an int of at least 1"):
        make(mix_epochs=0)
