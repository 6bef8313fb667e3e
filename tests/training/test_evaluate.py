"""Evaluation: exact means over padded batches, per client, and after local fine-tuning."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite.data.client_report import ClientReport, gini

SIZES = (3, 1, 8, 5)
PEOPLE = helpers.regression(SIZES)
PARAMS = {"w": jnp.float32([0.3, -0.2, 1.0]), "b": jnp.float32(0.5)}


def own_loss(client: dict[str, np.ndarray], params: Any = PARAMS) -> np.ndarray:
    return (client["x"] @ np.asarray(params["w"]) + float(params["b"]) - client["y"]) ** 2


def loss_with_tokens(params: Any, batch: Any, key: Any) -> Any:
    """A loss that counts examples by a weight and reports a metric, and would be NaN for a zero target."""
    assert key is None
    aux = fl.LossAux(metrics={"error": jnp.abs(batch["y"])}, example_weight=jnp.floor(1 + 3 * jnp.abs(batch["y"])))
    return helpers.linear_loss(params, batch, key) + 0.0 * jnp.log(jnp.abs(batch["y"])), aux


def linear_to(outputs: tuple[int, ...]) -> fl.models.Model:
    """A model from `[B, 3]` to `[B, *outputs]`."""
    return fl.models.from_functions(
        lambda key: jnp.ones((3, *outputs)), lambda params, x, **_: jnp.tensordot(x, params, 1), name="linear"
    )


class TestCentral:
    @pytest.mark.parametrize("batch_size", [1, 5, 17, 500])
    def test_any_batch_size_gives_the_mean_over_all_rows(self, batch_size: int) -> None:
        features = PEOPLE.features
        weight = np.floor(1 + 3 * np.abs(features["y"]))
        want = np.average(own_loss(features), weights=weight)
        got = fl.evaluate(loss_with_tokens, dict(features), batch_size=batch_size)(PARAMS)
        assert float(got["loss"]) == pytest.approx(want, rel=1e-5)
        assert float(got["error"]) == pytest.approx(np.average(np.abs(features["y"]), weights=weight), rel=1e-5)

    def test_a_population_is_pooled(self) -> None:
        got = fl.evaluate(helpers.linear_loss, PEOPLE)(PARAMS)
        assert float(got["loss"]) == pytest.approx(own_loss(PEOPLE.features).mean(), rel=1e-5)

    def test_it_runs_under_jit_and_on_other_params_without_compiling(self) -> None:
        run = fl.evaluate(helpers.linear_loss, PEOPLE)
        losses = jax.jit(jax.vmap(lambda b: run({**PARAMS, "b": b})["loss"]))(jnp.float32([0.5, 0.6]))
        assert float(losses[0]) == pytest.approx(own_loss(PEOPLE.features).mean(), rel=1e-5)
        assert float(losses[1]) != float(losses[0])

    def test_a_model_takes_the_loss_that_fits_its_labels(self) -> None:
        model = fl.models.from_functions(
            lambda key: jnp.ones((3, 2)), lambda params, x, key=None, train=False, mask=None: x @ params, name="linear"
        )
        x, labels = np.asarray(PEOPLE.features["x"]), np.arange(17) % 2
        got = fl.evaluate(model, {"x": x, "y": labels.astype(np.int32)})(jnp.float32(np.eye(3, 2)))
        logits = x[:, :2]
        want = np.log(np.exp(logits).sum(1)) - logits[np.arange(17), labels]
        assert float(got["loss"]) == pytest.approx(want.mean(), rel=1e-5)
        assert float(got["accuracy"]) == pytest.approx((logits.argmax(1) == labels).mean())

    @pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.float32, np.bool_])
    @pytest.mark.parametrize("outputs", [(), (1,), (2,)])
    @pytest.mark.parametrize("labels", [(), (1,), (2,), (2, 2)])
    def test_a_model_is_enough_for_classes_alone(self, dtype: Any, outputs: Any, labels: Any) -> None:
        """Labels and outputs of every kind: either one loss alone is meant, or a loss is asked for."""
        model = linear_to(outputs)
        data = {"x": np.ones((6, 3), np.float32), "y": np.zeros((6, *labels), dtype)}
        people = fl.Population.from_arrays(data, client_ids=[0, 0, 1, 1, 2, 2])
        classes = outputs == (2,) and labels == () and dtype in (np.int32, np.uint8)
        for build in (
            lambda: fl.evaluate(model, data),
            lambda: fl.evaluate(model, people),
            lambda: fl.evaluate_clients(model, people),
            lambda: fl.evaluate_personalized(model, people, people, client_optimizer=optax.sgd(0.1)),
        ):
            if classes:
                build()
            else:
                with pytest.raises(
                    ValueError, match=r"`linear` gives outputs \[B.*fl.losses.binary_cross_entropy\(model"
                ):
                    build()

    def test_token_sequences_are_classes_too(self) -> None:
        model = fl.models.char_lstm(vocab_size=5, embed=2, hidden=3, layers=1)
        data = {"x": np.ones((4, 3), np.int32), "y": np.ones((4, 3), np.int32)}
        got = fl.evaluate(model, data)(model.init(jax.random.key(0)))
        want = fl.evaluate(fl.losses.sequence_cross_entropy(model), data)(model.init(jax.random.key(0)))
        assert got == want
        with pytest.raises(ValueError, match=r"gives outputs \[B, 3, 5\] and `y` is int32 \[B\]"):
            fl.evaluate(model, {**data, "y": data["y"][:, 0]})

    def test_a_loss_of_ones_own_meets_any_labels(self) -> None:
        model = linear_to((1,))
        for dtype in (np.int32, np.float32, np.bool_):
            y = (np.asarray(PEOPLE.features["y"]) > 0).astype(dtype)
            data = {"x": np.asarray(PEOPLE.features["x"]), "y": y}
            got = fl.evaluate(fl.losses.binary_cross_entropy(model), data)(jnp.ones((3, 1)))
            right = (data["x"].sum(1) > 0) == (y > 0)
            assert float(got["accuracy"]) == pytest.approx(right.mean())

    def test_wrong_data(self) -> None:
        with pytest.raises(
            TypeError, match=r"`data` is a ndarray; expected a dict of arrays \[n, ...\], or a Population"
        ):
            fl.evaluate(helpers.linear_loss, np.ones(3))
        with pytest.raises(ValueError, match=r"features of \{'x': 2, 'y': 3\} rows; expected the same number"):
            fl.evaluate(helpers.linear_loss, {"x": np.ones(2), "y": np.ones(3)})
        with pytest.raises(ValueError, match="at least 1, in each"):
            fl.evaluate(helpers.linear_loss, {"x": np.ones((0, 2))})
        with pytest.raises(ValueError, match="`batch_size` is 0"):
            fl.evaluate(helpers.linear_loss, PEOPLE, batch_size=0)
        with pytest.raises(TypeError, match="`model_or_loss` is 3; expected a function of .params, batch, key."):
            fl.evaluate(3, PEOPLE)
        model = fl.models.from_functions(lambda key: (), lambda params, x, **_: x, name="m")
        with pytest.raises(ValueError, match=r'the data have no feature "y", only \[\'x\'\]; give a loss function'):
            fl.evaluate(model, {"x": np.ones(3)})


class TestClients:
    @pytest.mark.parametrize("execution", [helpers.ONE, fl.Execution(lanes=3, devices=2)])
    def test_each_client_is_measured_on_its_own_examples(self, execution: fl.Execution) -> None:
        report = fl.evaluate_clients(loss_with_tokens, PEOPLE, batch_size=3, execution=execution)(PARAMS)
        assert report.num_examples.tolist() == list(SIZES)
        for i in range(4):
            own = PEOPLE.client(i)
            weight = np.floor(1 + 3 * np.abs(own["y"]))
            np.testing.assert_allclose(report.metrics["loss"][i], np.average(own_loss(own), weights=weight), rtol=1e-5)
        assert set(report.metrics) == {"loss", "error"}

    def test_the_summary_is_the_distribution_over_clients(self) -> None:
        rng = np.random.default_rng(0)
        sizes = rng.integers(1, 9, 25)
        sizes[7] = 0
        values = {"accuracy": rng.random(25), "loss": rng.random(25)}
        values["loss"][7] = values["accuracy"][7] = np.nan
        summary = ClientReport(sizes, values).summary()
        some = sizes > 0
        for name in values:
            own, ordered = values[name][some], np.sort(values[name][some])
            assert summary[name] == pytest.approx(np.average(own, weights=sizes[some]))
            assert summary[f"{name}_mean"] == pytest.approx(own.mean())
            for q in (10, 50, 90):
                assert summary[f"{name}_p{q}"] == pytest.approx(np.quantile(own, q / 100))
            assert summary[f"{name}_var"] == pytest.approx(own.var())
            low, high = ordered[:2].mean(), ordered[-2:].mean()
            assert (summary[f"{name}_worst10"], summary[f"{name}_best10"]) == pytest.approx(
                (high, low) if name == "loss" else (low, high)
            )
            differences = np.abs(own[:, None] - own[None]).mean() / (2 * own.mean())
            assert summary[f"{name}_gini"] == pytest.approx(differences)

    def test_the_worst_clients_are_those_of_which_it_is_said(self) -> None:
        values = np.arange(10.0)
        for name in ("mae", "rmse", "perplexity", "brier", "nll", "error", "zero_one_loss", "log_loss", "loss_drop"):
            report = ClientReport(np.ones(10, int), {"loss": values, name: values})
            with pytest.raises(ValueError, match=f"the report has the metric '{name}', and nobody says whether lower"):
                report.summary()
            for way, worst in (("lower", 9), ("higher", 0)):
                for told in (report.summary(better={name: way}), report._replace(better={name: way}).summary()):
                    assert (told[f"{name}_worst10"], told[f"{name}_best10"]) == (worst, 9 - worst)
                    assert (told["loss_worst10"], told["loss_best10"]) == (9, 0)
        for name, worst in (("absolute_error", 9), ("accuracy", 0)):
            assert ClientReport(np.ones(10, int), {name: values}).summary()[f"{name}_worst10"] == worst
        with pytest.raises(ValueError, match=r"`better\['mae'\]` is 'down'; expected \"lower\" or \"higher\""):
            report.summary(better={"mae": "down"})
        with pytest.raises(TypeError, match=r"`better` is 'lower'; expected a dict such as"):
            report.summary(better="lower")

    def test_a_loss_says_which_way_its_metrics_are_better(self) -> None:
        def loss(params: Any, batch: Any, key: Any) -> Any:
            error = batch["x"] @ params["w"] + params["b"] - batch["y"]
            return error**2, fl.LossAux(metrics={"mae": jnp.abs(error)})

        declared = fl.losses.declare(loss, better={"mae": "lower"})
        report = fl.evaluate_clients(declared, PEOPLE)(PARAMS)
        summary = report.summary()
        assert summary["mae_worst10"] == report.metrics["mae"].max() > summary["mae_best10"]
        assert fl.evaluate(declared, PEOPLE).better == {"mae": "lower"}
        tune = fl.evaluate_personalized(declared, PEOPLE, PEOPLE, client_optimizer=optax.sgd(0.01))
        assert [one.better for one in tune(PARAMS)] == [{"mae": "lower"}] * 2
        with pytest.raises(ValueError, match="fl.losses.declare"):
            fl.evaluate_clients(loss, PEOPLE)(PARAMS).summary()
        with pytest.raises(ValueError, match=r"`better\['mae'\]` is 1; expected \"lower\" or \"higher\""):
            fl.losses.declare(loss, better={"mae": 1})

    def test_a_client_without_examples_has_no_loss(self) -> None:
        people = fl.Population.from_clients([{"x": np.float32([2])}, {"x": np.zeros(0, np.float32)}], allow_empty=True)
        square = lambda params, batch, key: (params - batch["x"]) ** 2  # noqa: E731
        report = fl.evaluate_clients(square, people, execution=fl.Execution(lanes=2, devices=1))(jnp.float32(0))
        assert report.metrics["loss"][0] == 4
        assert np.isnan(report.metrics["loss"][1])
        assert report.summary()["loss"] == 4

    def test_gini(self) -> None:
        assert gini(np.ones(5)) == pytest.approx(0)
        assert gini(np.array([0, 0, 0, 1.0])) == pytest.approx(0.75)
        assert gini(np.zeros(3)) == 0

    def test_personalized_models_are_measured_as_the_algorithm_makes_them(self) -> None:
        run, state, _ = helpers.one_run(helpers.local_momentum(), PEOPLE, PARAMS, sampler=fl.sampling.replay([[2, 0]]))
        report = fl.evaluate_clients(helpers.linear_loss, PEOPLE, rounds=run, execution=helpers.ONE)(state)
        for i in range(4):
            want = own_loss(PEOPLE.client(i), run.client_params(state, i)).mean()
            np.testing.assert_allclose(report.metrics["loss"][i], want, rtol=1e-5)
        common = fl.evaluate_clients(helpers.linear_loss, PEOPLE, execution=helpers.ONE)(state.params)
        same = np.isclose(common.metrics["loss"], report.metrics["loss"], rtol=1e-4)
        assert same.tolist() == [False, True, False, True]


class TestFineTuning:
    def test_before_and_after_local_training(self) -> None:
        train, test = PEOPLE, helpers.regression((2, 4, 1, 3), seed=5)
        run = fl.evaluate_personalized(
            helpers.linear_loss,
            train,
            test,
            client_optimizer=optax.sgd(0.05),
            batch_size=10,
            epochs=2,
            execution=fl.Execution(lanes=3, devices=1),
        )
        before, after = run(PARAMS)
        assert before.num_examples.tolist() == [2, 4, 1, 3]
        step = jax.jit(lambda p, x, y: jax.grad(lambda q: helpers.linear_loss(q, {"x": x, "y": y}, None).mean())(p))
        for i in range(4):
            own, model = train.client(i), PARAMS
            for _ in range(2):  # batches of 10 hold the whole client
                model = jax.tree.map(lambda p, g: p - 0.05 * g, model, step(model, own["x"], own["y"]))
            np.testing.assert_allclose(before.metrics["loss"][i], own_loss(test.client(i)).mean(), rtol=1e-5)
            np.testing.assert_allclose(after.metrics["loss"][i], own_loss(test.client(i), model).mean(), rtol=1e-4)

    def test_the_key_gives_the_order_of_fine_tuning(self) -> None:
        run = fl.evaluate_personalized(
            helpers.linear_loss, PEOPLE, PEOPLE, client_optimizer=optax.sgd(0.05), batch_size=2, execution=helpers.ONE
        )
        fixed, again, other = (run(PARAMS, *key)[1].metrics["loss"] for key in ((), (), (jax.random.key(4),)))
        assert (fixed == again).all()
        assert (fixed != other).any()

    def test_populations_of_other_clients_are_refused(self) -> None:
        with pytest.raises(
            ValueError, match=r"`train` has 4 clients and `test` 2; expected the same clients in the same"
        ):
            fl.evaluate_personalized(
                helpers.linear_loss, PEOPLE, helpers.regression((2, 2)), client_optimizer=optax.sgd(0.1)
            )
