"""Per-FedAvg: where it ends on quadratics, where its Hessian is taken, and on which batches."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import personal_problems as problems
import pytest

import fedjaxlite as fl
from fedjaxlite.algorithms.personal_models.per_fed_avg import VARIANTS, per_fed_avg

ALPHA, RATE = 0.08, 0.05


def test_rounds_with_the_exact_product_against_numpy() -> None:
    """Stored order, so that D, D' and D'' are one batch; and each client keeps its adapted model."""
    people = problems.linear()
    algorithm = per_fed_avg(
        helpers.linear_loss,
        alpha=ALPHA,
        client_optimizer=optax.sgd(RATE),
        variant="exact",
        keep=True,
        batch_size=problems.BATCH,
        epochs=2,
        shuffle=False,
    )
    run, state, infos = problems.played(algorithm, people)
    shared, own = problems.flat(problems.start()), {}
    for cohort in problems.COHORTS:
        deltas, sizes = [], []
        for k in (k for k in cohort if k >= 0 and problems.SIZES[k]):
            x, y = problems.rows(people, k)
            model = shared
            for bx, by in problems.batches(x, y, 2, problems.work_of(cohort, k)):
                adapted = model - ALPHA * problems.gradient(model, bx, by)
                slope = problems.gradient(adapted, bx, by)
                model = model - RATE * (slope - ALPHA * 2 * bx.T @ (bx @ slope) / len(bx))
            own[k] = shared - ALPHA * problems.gradient(shared, x[: problems.BATCH], y[: problems.BATCH])
            deltas.append(shared - model)
            sizes.append(len(x))
        shared = shared - np.average(deltas, axis=0, weights=sizes)
    assert problems.close(state.params, shared)
    problems.check_exports(run, state, people, [own.get(k, shared) for k in range(4)])
    assert infos[0].clients["local_steps"].tolist() == [2, 3, 0]
    assert algorithm.name == "per_fed_avg"


def test_each_variant_on_quadratics_and_where_its_hessian_is_taken() -> None:
    """What clients send, in closed form.

    On a/2 (x - b)^2, K full-batch steps of rate r along s (x - b), s = a (1 - alpha a)^2: (1 - (1 - r s)^K) (x - b).
    On (x - b)^4 / 4 the Hessian 3 (x - b)^2 is not constant: it is that of the model before adaptation.
    """
    quartic = lambda params, batch, key: (params - batch["b"]) ** 4 / 4  # noqa: E731
    smooth: dict[str, Any] = {"alpha": 0.2, "client_optimizer": optax.sgd(0.3), "batch_size": None, "steps": 2}
    steep: dict[str, Any] = {"alpha": 0.05, "client_optimizer": optax.sgd(1.0), "batch_size": 1, "steps": 1}

    cases = [("smooth/exact", problems.quadratic, smooth), *((f"steep/{v}", quartic, steep) for v in VARIANTS)]

    def client(shared: Any, data: fl.ClientData) -> fl.ClientOutput:
        info = {}
        for name, loss, settings in cases:
            algorithm = per_fed_avg(loss, variant=name.split("/")[1], delta=0.02, **settings)  # type: ignore[arg-type]
            info[name] = algorithm.client_update(shared, (), data, data.key).update
        return fl.ClientOutput(jnp.float32(0.0), info=info)

    people = problems.quadratics()
    everyone = fl.sampling.full(3).sample(jax.random.key(0), 0, people)
    call = fl.federated_sum(client, aggregator=fl.mean(), execution=helpers.ONE)
    _, info = call(jnp.float32(0.3), people, everyone, key=jax.random.key(0))
    got = {name: np.asarray(values).tolist() for name, values in info.clients.items()}
    a, away = problems.A.astype(np.float64), 0.3 - problems.B.astype(np.float64)
    want = (1 - (1 - 0.3 * a * (1 - 0.2 * a) ** 2) ** 2) * away
    assert got["smooth/exact"] == pytest.approx(want.tolist(), abs=1e-5)
    slope = (away - 0.05 * away**3) ** 3
    bent = slope * (1 - 0.05 * 3 * away**2)
    for variant, want, tolerance in (("fo", slope, 1e-5), ("exact", bent, 1e-5), ("hf", bent, 5e-3)):
        assert got[f"steep/{variant}"] == pytest.approx(want.tolist(), rel=tolerance), variant


def test_every_local_step_takes_three_batches_of_its_own() -> None:
    """On x w^2 / 2 with single examples: the gradient is x' w (1 - alpha x) (1 - alpha x''), of D', D and D''."""
    people = fl.Population.from_arrays(
        {"x": np.random.default_rng(0).uniform(0.5, 2.0, 40).astype(np.float32)}, np.repeat(np.arange(4), 10)
    )
    curved = lambda params, batch, key: batch["x"] * params**2 / 2  # noqa: E731
    algorithm = per_fed_avg(
        curved, alpha=ALPHA, client_optimizer=optax.sgd(RATE), variant="exact", batch_size=1, steps=2
    )

    def client(shared: Any, data: fl.ClientData) -> fl.ClientOutput:
        output = algorithm.client_update(shared, (), data, data.key)
        plans = [data.batches(batch_size=1, steps=2, stream=stream) for stream in range(3)]
        rows = [jax.vmap(lambda t, plan=plan: plan.batch(t)[0]["x"][0])(jnp.arange(2)) for plan in plans]
        drawn = {f"{s}/{t}": rows[s][t] for s in range(3) for t in range(2)}
        return fl.ClientOutput(jnp.float32(0.0), info={**drawn, "update": output.update})

    everyone = fl.sampling.full(4).sample(jax.random.key(0), 0, people)
    call = fl.federated_sum(client, aggregator=fl.mean(), execution=helpers.ONE)
    _, info = call(jnp.float32(1.5), people, everyone, key=jax.random.key(0))
    drawn = {name: np.asarray(values, np.float64) for name, values in info.clients.items()}
    w = np.full(4, 1.5)
    for t in range(2):
        adapting, outer, curvature = (drawn[f"{s}/{t}"] for s in range(3))
        w = w - RATE * outer * w * (1 - ALPHA * adapting) * (1 - ALPHA * curvature)
        assert np.any(adapting != outer)
        assert np.any(outer != curvature)
    assert (1.5 - drawn["update"]).tolist() == pytest.approx(w.tolist(), abs=1e-5)


def test_without_keeping_a_client_has_the_shared_model() -> None:
    algorithm = per_fed_avg(problems.quadratic, alpha=ALPHA, client_optimizer=optax.sgd(RATE))
    assert algorithm.client_params(problems.start(), algorithm.init_client(problems.start())).keys() == {"w", "b"}
    assert algorithm.init_client(problems.start()) == ()


def test_arguments_out_of_range() -> None:
    def make(**options: Any) -> fl.Algorithm:
        settings: dict[str, Any] = {"alpha": 0.1, "client_optimizer": optax.sgd(0.1)}
        return per_fed_avg(problems.quadratic, **{**settings, **options})

    with pytest.raises(ValueError, match=r"`alpha` is 0; expected a finite number above 0"):
        make(alpha=0)
    with pytest.raises(ValueError, match=r"`delta` is -1; expected a finite number above 0"):
        make(delta=-1)
    with pytest.raises(ValueError, match=r"`variant` is 'second'; expected one of 'fo', 'hf', 'exact'"):
        make(variant="second")
