"""Metrics in evaluations: central, per client, personal, with intervals, and what reports and records make of them."""

from functools import cache, partial
from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats
from sklearn import metrics as sk

import fedjaxlite as fl
from fedjaxlite.evaluation import by_size
from fedjaxlite.observers import records

m = fl.metrics
SIZES = (3, 1, 300, 40, 25, 1100)
"""Three sizes of clients, for what keeps rows."""
TWO = fl.Execution(lanes=3, devices=helpers.available(2))


def people(sizes: tuple[int, ...] = SIZES, classes: int = 3, seed: int = 0) -> fl.Population:
    rng = np.random.default_rng(seed)
    n = sum(sizes)
    y = rng.integers(0, classes, n).astype(np.int32)
    x = (rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[y]).astype(np.float32)
    return fl.Population.from_arrays({"x": x, "y": y}, client_ids=np.repeat(np.arange(len(sizes)), sizes))


PEOPLE, PAIRS = people(), people(classes=2, seed=1)
MODEL = fl.models.from_functions(lambda key: jnp.eye(3), lambda params, x: x @ params, name="linear")
TWO_MODEL = fl.models.from_functions(lambda key: jnp.eye(2), lambda params, x: x @ params, name="linear")
PARAMS = jnp.float32(np.eye(3) + 0.3 * np.random.default_rng(5).normal(size=(3, 3)))
PARAMS2 = PARAMS[:2, :2]
ALL = [m.accuracy(), m.balanced_accuracy(), m.macro_f1(), m.auroc(), m.auprc(), m.negative_log_likelihood()]
FEW = [m.macro_f1(), m.auroc()]
SUMS = [m.accuracy(), m.macro_f1(), m.expected_calibration_error()]


@cache
def of_sums_and_rows() -> fl.ClientReport:
    """Of every client, by metrics of both kinds."""
    return fl.evaluate_clients(MODEL, PEOPLE, metrics=[*SUMS, m.auroc()], execution=helpers.ONE)(PARAMS)


def wanted(data: dict[str, np.ndarray], params: Any = PARAMS) -> dict[str, float]:
    """The metrics of scikit-learn."""
    logits, y = np.asarray(data["x"], np.float64) @ np.asarray(params, np.float64), data["y"]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    choice, classes = logits.argmax(1), range(logits.shape[1])
    areas = [sk.roc_auc_score(y == c, p[:, c]) for c in classes if 0 < (y == c).sum() < len(y)]
    return {
        "accuracy": sk.accuracy_score(y, choice),
        "balanced_accuracy": np.mean([(choice == y)[y == c].mean() for c in np.unique(y)]),
        "macro_f1": sk.f1_score(y, choice, average="macro"),
        "auroc": np.mean(areas) if areas else np.nan,
        "auprc": np.mean([sk.average_precision_score(y == c, p[:, c]) for c in np.unique(y)]),
        "negative_log_likelihood": sk.log_loss(y, p, labels=classes),
    }


class TestCentral:
    @pytest.mark.parametrize("batch_size", helpers.some_often([100, 2000], 2))
    def test_they_are_those_of_scikit_learn_beside_the_loss(self, batch_size: int) -> None:
        run = fl.evaluate(MODEL, PEOPLE, metrics=[*ALL, m.confusion_matrix()], batch_size=batch_size)
        found = run(PARAMS)
        for name, want in wanted(PEOPLE.features).items():
            assert float(found[name]) == pytest.approx(want, rel=1e-6), name
        assert float(found["loss"]) == pytest.approx(float(fl.evaluate(MODEL, PEOPLE)(PARAMS)["loss"]), rel=1e-6)
        choice = (PEOPLE.features["x"] @ np.asarray(PARAMS)).argmax(1)
        np.testing.assert_array_equal(found["confusion_matrix"], sk.confusion_matrix(PEOPLE.features["y"], choice))
        assert {name: run.better[name] for name in ("auroc", "negative_log_likelihood")} == {
            "auroc": "higher",
            "negative_log_likelihood": "lower",
        }

    def test_under_jit_and_vmap(self) -> None:
        run = fl.evaluate(MODEL, PEOPLE, metrics=[m.auroc(), m.accuracy()])
        several = jnp.stack([PARAMS, 2 * PARAMS, -PARAMS])
        found = jax.jit(jax.vmap(run))(several)
        for i in range(3):
            alone = run(several[i])
            assert float(found["auroc"][i]) == pytest.approx(float(alone["auroc"]), rel=1e-6)
        assert float(found["auroc"][0]) == pytest.approx(float(found["auroc"][1]), abs=0.02)

    def test_the_model_is_passed_through_once(self) -> None:
        run = fl.evaluate(MODEL, PEOPLE, metrics=[m.accuracy(), m.auroc()], batch_size=50)
        text = jax.jit(run).lower(PARAMS).compile().as_text()
        alone = jax.jit(fl.evaluate(MODEL, PEOPLE, batch_size=50)).lower(PARAMS).compile().as_text()
        assert text.count(" dot(") == alone.count(" dot(") == 1

    def test_a_plain_loss_has_to_be_told_its_model(self) -> None:
        def loss(params: Any, batch: Any, key: Any) -> Any:
            return optax.softmax_cross_entropy_with_integer_labels(batch["x"] @ params, batch["y"])

        with pytest.raises(
            ValueError, match=r"the loss `loss` does not tell which one it has. Give it: model=..., a M"
        ):
            fl.evaluate(loss, PEOPLE, metrics=[m.accuracy()])
        want = fl.evaluate(MODEL, PEOPLE, metrics=[m.accuracy()])(PARAMS)["accuracy"]
        for given in (
            fl.evaluate(loss, PEOPLE, metrics=[m.accuracy()], model=MODEL),
            fl.evaluate(fl.losses.declare(loss, model=MODEL), PEOPLE, metrics=[m.accuracy()]),
        ):
            assert given(PARAMS)["accuracy"] == want
        with pytest.raises(TypeError, match="`model` is 3; expected a Model, such as"):
            fl.evaluate(loss, PEOPLE, metrics=[m.auroc()], model=3)
        with pytest.raises(ValueError, match="is called 'loss', as the loss is; expected another name"):
            fl.evaluate(MODEL, PEOPLE, metrics=[m.auroc()._replace(name="loss")])(PARAMS)

    def test_a_dict_of_ones_own_and_a_feature_beside_y(self) -> None:
        rates = m.Metric(
            "rate",
            batch=lambda outputs, batch, weight: (
                m.total(
                    (outputs[:, 1] > outputs[:, 0])[:, None] & (batch["group"][:, None] == jnp.int32([[0, 1]])), weight
                ),
                m.total(batch["group"][:, None] == jnp.int32([[0, 1]]), weight),
            ),
            finish=lambda sums: {"a": (sums[0] / sums[1])[0], "b": (sums[0] / sums[1])[1]},
            better={"a": "higher", "b": "lower"},
            targets=None,
        )
        group = (np.arange(sum(SIZES)) % 3 == 0).astype(np.int32)
        run = fl.evaluate(TWO_MODEL, {**PAIRS.features, "group": group}, metrics=[rates])
        found = run(PARAMS2)
        logits = PAIRS.features["x"] @ np.asarray(PARAMS2)
        for key, of in (("a", 0), ("b", 1)):
            want = (logits[:, 1] > logits[:, 0])[group == of].mean()
            assert float(found[f"rate_{key}"]) == pytest.approx(want, rel=1e-6)
        assert (run.better["rate_a"], run.better["rate_b"]) == ("higher", "lower")


class TestClients:
    @pytest.mark.parametrize(
        "execution",
        [pytest.param(helpers.ONE, marks=pytest.mark.slow, id="one"), pytest.param(TWO, id="two devices")],
    )
    def test_each_client_has_its_own(self, execution: fl.Execution) -> None:
        report = fl.evaluate_clients(MODEL, PEOPLE, metrics=[*ALL, m.confusion_matrix()], execution=execution)(PARAMS)
        for i in range(len(SIZES)):
            own = PEOPLE.client(i)
            for name, want in wanted(own).items():
                assert report.metrics[name][i] == pytest.approx(want, rel=1e-6, nan_ok=True), (i, name)
            choice = (own["x"] @ np.asarray(PARAMS)).argmax(1)
            matrix = sk.confusion_matrix(own["y"], choice, labels=[0, 1, 2])
            np.testing.assert_array_equal(report.arrays["confusion_matrix"][i], matrix)
        assert report.num_examples.tolist() == list(SIZES)
        assert set(report.metrics) == {"loss", *wanted(PEOPLE.client(2))}
        assert report.low == {}

    @pytest.mark.whole
    def test_ragged_clients_are_measured_in_groups_of_like_size(self, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = fl.evaluate_clients(MODEL, PEOPLE, metrics=[m.auroc()], bootstrap=5, execution=helpers.ONE)(PARAMS)
        monkeypatch.setattr(by_size, "_FEW", 0)
        monkeypatch.setattr(by_size, "_STEP", 4)
        groups = by_size.groups(PEOPLE, jax.random.key(0))
        assert [(group.ids.tolist(), group.most) for group in groups] == [([0, 1, 3, 4], 40), ([2], 300), ([5], 1100)]
        report = fl.evaluate_clients(MODEL, PEOPLE, metrics=[m.auroc()], bootstrap=5, execution=helpers.ONE)(PARAMS)
        for field in ("metrics", "low", "high"):
            for name, values in getattr(whole, field).items():
                np.testing.assert_allclose(getattr(report, field)[name], values, rtol=1e-6, err_msg=name)

    def test_sums_alone_need_no_rows_and_give_the_same(self) -> None:
        alone, both = (
            fl.evaluate_clients(MODEL, PEOPLE, metrics=SUMS, execution=helpers.ONE)(PARAMS),
            of_sums_and_rows(),
        )
        for name in ("loss", "accuracy", "macro_f1", "expected_calibration_error"):
            np.testing.assert_allclose(alone.metrics[name], both.metrics[name], rtol=1e-6)

    def test_what_is_undefined_is_left_out_and_counted(self) -> None:
        report = of_sums_and_rows()
        values = report.metrics["auroc"]
        there = ~np.isnan(values)
        assert there.tolist() == [True, False, True, True, True, True]
        summary = report.summary()
        assert summary["auroc_undefined"] == 1
        assert summary["auroc_mean"] == pytest.approx(values[there].mean())
        assert summary["auroc"] == pytest.approx(np.average(values[there], weights=np.array(SIZES)[there]))
        assert summary["auroc_worst10"] == pytest.approx(values[there].min())
        assert "loss_undefined" not in summary
        diverged = report._replace(metrics={**report.metrics, "loss": np.where(there, report.metrics["loss"], np.nan)})
        assert np.isnan(diverged.summary()["auroc_mean"])
        nobody = report._replace(metrics={**report.metrics, "auroc": values * np.nan}).summary()
        assert (nobody["auroc_undefined"], np.isnan(nobody["auroc_p50"])) == (6, True)

    def test_a_client_without_examples_has_none(self) -> None:
        empty = fl.Population.from_clients(
            [PEOPLE.client(0), {k: v[:0] for k, v in PEOPLE.client(0).items()}], allow_empty=True
        )
        for metrics in ([m.accuracy()], [m.accuracy(), m.auroc()]):
            report = fl.evaluate_clients(MODEL, empty, metrics=metrics, execution=helpers.ONE)(PARAMS)
            assert np.isnan(report.metrics["accuracy"]).tolist() == [False, True]
            assert "accuracy_undefined" not in report.summary()

    def test_groups_are_pooled_and_their_gap_is_told(self) -> None:
        groups = ["b", "a", "b", "a", "a", "c"]
        report = fl.evaluate_clients(
            MODEL, PEOPLE, metrics=[m.auroc(), m.accuracy()], groups=groups, execution=helpers.ONE
        )(PARAMS)
        assert report.num_examples.tolist() == [66, 303, 1100]
        for row, ids in enumerate(([1, 3, 4], [0, 2], [5])):
            own = {name: np.concatenate([PEOPLE.client(i)[name] for i in ids]) for name in ("x", "y")}
            assert report.metrics["auroc"][row] == pytest.approx(wanted(own)["auroc"], rel=1e-6)
        gaps = report.gaps()
        assert gaps.gap["auroc"] == pytest.approx(np.ptp(report.metrics["auroc"]))
        # Of a mean over examples, the clients' own numbers tell as much.
        told = fl.evaluate_clients(MODEL, PEOPLE, metrics=[m.accuracy()], execution=helpers.ONE)(PARAMS).gaps(groups)
        assert told.groups == ("a", "b", "c")
        assert told.num_clients.tolist() == [3, 2, 1]
        np.testing.assert_allclose(told.metrics["accuracy"], report.metrics["accuracy"], rtol=1e-6)
        assert told.gap["accuracy"] == pytest.approx(gaps.gap["accuracy"], rel=1e-4)
        with pytest.raises(ValueError, match="`groups` has 2 entries for 6 clients; expected one for each of them"):
            fl.evaluate_clients(MODEL, PEOPLE, groups=[0, 1])
        with pytest.raises(
            TypeError, match=r"`groups` has dtype float64 and shape \[6\]; expected one int or str a client"
        ):
            report._replace(num_examples=np.ones(6, int)).gaps(np.ones(6))

    def test_personal_models(self) -> None:
        population = helpers.regression((3, 8, 5))
        params = {"w": jnp.float32([0.3, -0.2, 1.0]), "b": jnp.float32(0.5)}
        model = fl.models.from_functions(lambda key: params, lambda p, x: x @ p["w"] + p["b"], name="linear")
        run, state, _ = helpers.one_run(
            helpers.local_momentum(), population, params, sampler=fl.sampling.replay([[2, 0]])
        )
        report = fl.evaluate_clients(
            fl.losses.squared_error(model), population, rounds=run, metrics=[m.r2()], execution=helpers.ONE
        )(state)
        for i in range(3):
            own, mine = population.client(i), run.client_params(state, i)
            want = sk.r2_score(own["y"], own["x"] @ np.asarray(mine["w"]) + float(mine["b"]))
            assert report.metrics["r2"][i] == pytest.approx(want, abs=1e-5)
        with pytest.raises(ValueError, match="`groups` pools examples under one model, and `rounds` has one a client"):
            fl.evaluate_clients(fl.losses.squared_error(model), population, rounds=run, groups=[0, 0, 1])

    @pytest.mark.whole
    def test_after_fine_tuning(self) -> None:
        train = people((20, 30, 10, 10, 10, 10), seed=3)
        tune = fl.evaluate_personalized(
            MODEL,
            train,
            PEOPLE,
            client_optimizer=optax.sgd(0.5),
            steps=4,
            metrics=FEW,
            bootstrap=20,
            execution=helpers.ONE,
        )
        before, after = tune(PARAMS)
        shared = fl.evaluate_clients(MODEL, PEOPLE, metrics=FEW, execution=helpers.ONE)(PARAMS)
        for name in ("loss", "macro_f1", "auroc"):
            np.testing.assert_allclose(before.metrics[name], shared.metrics[name], rtol=1e-6)
        assert (after.metrics["auroc"] != before.metrics["auroc"])[[2, 5]].all()
        assert (after.low["auroc"][2:] < after.high["auroc"][2:]).all()
        with pytest.raises(ValueError, match="expected exactly one of them"):
            fl.evaluate_personalized(MODEL, train, PEOPLE, client_optimizer=optax.sgd(0.5), steps=4, epochs=1)


class TestIntervals:
    @pytest.mark.whole
    def test_they_are_those_of_scipy_bootstrap(self) -> None:
        """Ends of 95 % intervals, within what 2000 resamples leave to chance (false alarms under 1e-3: fixed seeds)."""
        metrics = [m.accuracy(), m.auroc(), m.negative_log_likelihood()]
        found = fl.evaluate(TWO_MODEL, PAIRS.client(2), metrics=metrics, bootstrap=2000, key=jax.random.key(1))(PARAMS2)
        own = PAIRS.client(2)
        logits = own["x"].astype(np.float64) @ np.asarray(PARAMS2, np.float64)
        odds = logits[:, 1] - logits[:, 0]
        statistics = {
            "accuracy": lambda y, z: np.mean((z > 0) == y),
            "auroc": sk.roc_auc_score,
            "negative_log_likelihood": lambda y, z: np.mean(np.log1p(np.exp(np.where(y == 1, -z, z)))),
        }
        for name, statistic in statistics.items():
            want = stats.bootstrap(
                (own["y"], odds), statistic, paired=True, vectorized=False, method="percentile", n_resamples=2000, rng=0
            )
            low, high = want.confidence_interval
            width = high - low
            assert float(found[f"{name}_low"]) == pytest.approx(low, abs=0.08 * width), name
            assert float(found[f"{name}_high"]) == pytest.approx(high, abs=0.08 * width), name
            assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]
        assert float(found["loss_low"]) == pytest.approx(float(found["negative_log_likelihood_low"]), rel=1e-4)

    @pytest.mark.whole
    def test_of_clients_and_of_arrays(self) -> None:
        metrics = [m.auroc(), m.confusion_matrix()]

        build = partial(fl.evaluate_clients, TWO_MODEL, PAIRS, metrics=metrics, bootstrap=300, execution=helpers.ONE)
        run = build(key=jax.random.key(0))
        report, again, other = run(PARAMS2), run(PARAMS2), build(key=jax.random.key(1))(PARAMS2)
        assert set(report.low) == set(report.high) == {"loss", "accuracy", "auroc"}
        np.testing.assert_array_equal(report.low["auroc"], again.low["auroc"])
        assert (report.low["auroc"] != other.low["auroc"])[2:].all()
        width = report.high["auroc"] - report.low["auroc"]
        assert width[5] < width[2] < width[4]  # the more examples, the narrower
        assert np.isnan(width[1])
        assert report.low["accuracy"][1] == report.high["accuracy"][1] == report.metrics["accuracy"][1]
        # A client's interval is about that of its examples in one place.
        alone = fl.evaluate(TWO_MODEL, PAIRS.client(5), metrics=[m.auroc()], bootstrap=300)(PARAMS2)
        assert report.low["auroc"][5] == pytest.approx(float(alone["auroc_low"]), abs=0.2 * float(width[5]))

    def test_metrics_that_merge_are_resampled_too(self) -> None:
        rng = np.random.default_rng(0)
        x = (30 + 10 * rng.normal(size=400)).astype(np.float32)
        y = (x + 5 * rng.normal(size=400)).astype(np.float32)
        model = fl.models.from_functions(lambda key: jnp.float32(1), lambda p, x: p * x, name="scale")
        found = fl.evaluate(
            fl.losses.squared_error(model), {"x": x, "y": y}, metrics=[m.r2()], bootstrap=1000, batch_size=64
        )(jnp.float32(1))
        want = stats.bootstrap(
            (y, x), sk.r2_score, paired=True, vectorized=False, method="percentile", n_resamples=1000, rng=0
        )
        width = np.ptp(want.confidence_interval)
        assert float(found["r2_low"]) == pytest.approx(want.confidence_interval.low, abs=0.1 * width)
        assert float(found["r2_high"]) == pytest.approx(want.confidence_interval.high, abs=0.1 * width)


@pytest.mark.whole
def test_metrics_are_recorded_and_stop_a_run() -> None:
    algorithm = fl.algorithms.fed_avg(fl.losses.cross_entropy(MODEL), client_optimizer=optax.sgd(0.1))
    run = fl.rounds(algorithm, sampler=fl.sampling.full(6), aggregator=fl.weighted_mean(), execution=helpers.ONE)
    history = fl.train(
        run,
        run.init(PARAMS, PEOPLE, key=jax.random.key(0)),
        PEOPLE,
        num_rounds=2,
        progress=False,
        evaluate=fl.evaluate(MODEL, PEOPLE, metrics=[m.auroc()], bootstrap=10),
        evaluate_state=lambda state: fl.evaluate_clients(MODEL, PEOPLE, metrics=[m.auroc(), m.confusion_matrix()])(
            state.params
        ),
        target={"test_auroc": 0.5},
    )
    record = history.records[-1]
    assert record["test_auroc_low"] < record["test_auroc"] < record["test_auroc_high"]
    assert record["clients_auroc_undefined"] == 1
    assert len(history.records) == 1
    assert "clients_confusion_matrix" not in record


def test_a_matrix_has_no_place_in_a_record() -> None:
    found = fl.evaluate(MODEL, PEOPLE, metrics=[m.confusion_matrix()])(PARAMS)
    with pytest.raises(
        TypeError, match=r"(?s)here returned .* for 'confusion_matrix'; expected a scalar. An array, such as"
    ):
        records.scalars_of(found, "here")


def test_odd_numbers_of_resamples_are_refused() -> None:
    with pytest.raises(ValueError, match="`bootstrap` is 0; expected an int of at least 1"):
        fl.evaluate(MODEL, PEOPLE, bootstrap=0)
    with pytest.raises(ValueError, match="`bootstrap` is 1000000; expected at most 100,000 resamples, such as 1000"):
        fl.evaluate_clients(MODEL, PEOPLE, bootstrap=1_000_000)
