"""Weights of classes, focal, ordinal, quantile and Huber losses, and missing targets, against float64 formulas."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sk

import fedjaxlite as fl

losses = fl.losses
RNG = np.random.default_rng(0)
GIVEN = fl.models.from_functions(lambda key: jnp.float32(1), lambda scale, x: scale * x, name="given")
ONE = jnp.float32(1)
LOGITS = RNG.normal(size=(12, 3)).astype(np.float32)
LABELS = RNG.integers(0, 3, 12).astype(np.int32)
WEIGHTS = [0.5, 3.0, 0.0]


def rows(loss: Any, x: np.ndarray, y: np.ndarray, **features: Any) -> tuple[np.ndarray, Any]:
    found, aux = jax.jit(lambda scale: loss(scale, {"x": x, "y": y, **features}, None))(ONE)
    return np.asarray(found, np.float64), aux


def probabilities(logits: np.ndarray) -> np.ndarray:
    grown = np.exp(logits.astype(np.float64))
    return grown / grown.sum(1, keepdims=True)


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z.astype(np.float64)))


class TestClassWeights:
    def test_a_loss_is_multiplied_and_the_accuracy_is_not(self) -> None:
        found, aux = rows(losses.cross_entropy(GIVEN, class_weights=WEIGHTS), LOGITS, LABELS)
        own = np.array(WEIGHTS)[LABELS]
        p = probabilities(LOGITS)
        np.testing.assert_allclose(found, -own * np.log(p[np.arange(12), LABELS]), rtol=2e-6)
        assert found.sum() / own.sum() == pytest.approx(sk.log_loss(LABELS, p, sample_weight=own), rel=1e-6)
        plain = rows(losses.cross_entropy(GIVEN), LOGITS, LABELS)[1]
        np.testing.assert_array_equal(aux.metrics["accuracy"], plain.metrics["accuracy"])
        smooth = rows(losses.cross_entropy(GIVEN, class_weights=WEIGHTS, label_smoothing=0.2), LOGITS, LABELS)[0]
        np.testing.assert_allclose(
            smooth, own * rows(losses.cross_entropy(GIVEN, label_smoothing=0.2), LOGITS, LABELS)[0], rtol=1e-6
        )

    @pytest.mark.parametrize(
        ("given", "error", "text"),
        [
            ([1, -1, 1], ValueError, r"`class_weights` is \[1.0, -1.0, 1.0\]; expected finite numbers of at least 0"),
            ([0, 0, 0], ValueError, "and one above 0"),
            ([[1, 2]], ValueError, r"`class_weights` is .*expected an array \[C\] of real numbers"),
            ("balanced", TypeError, r"`class_weights` is .*'balanced'; expected an array \[C\]"),
        ],
    )
    def test_what_are_no_weights_is_refused(self, given: Any, error: type[Exception], text: str) -> None:
        for build in (losses.cross_entropy, losses.focal):
            with pytest.raises(error, match=text):
                build(GIVEN, class_weights=given)

    def test_they_are_one_a_class(self) -> None:
        with pytest.raises(ValueError, match="`class_weights` has 2 entries for a model of 10 classes"):
            losses.cross_entropy(fl.models.logistic(num_classes=10), class_weights=[1, 2])
        with pytest.raises(
            ValueError, match="focal of `given` got 2 `class_weights` for 3 classes; expected one a class"
        ):
            rows(losses.focal(GIVEN, class_weights=[1, 2]), LOGITS, LABELS)


class TestFocal:
    @pytest.mark.parametrize("gamma", [0, 0.5, 2])
    def test_of_classes_and_of_yes_or_no(self, gamma: float) -> None:
        loss = losses.focal(GIVEN, gamma=gamma, class_weights=WEIGHTS)
        p = probabilities(LOGITS)[np.arange(12), LABELS]
        np.testing.assert_allclose(
            rows(loss, LOGITS, LABELS)[0],
            -np.array(WEIGHTS)[LABELS] * (1 - p) ** gamma * np.log(p),
            rtol=5e-6,
            atol=1e-7,
        )
        y = RNG.integers(0, 2, (12, 3))
        p = np.where(y == 1, sigmoid(LOGITS), 1 - sigmoid(LOGITS))
        want = (-np.array([0.25, 0.75])[y] * (1 - p) ** gamma * np.log(p)).mean(1)
        found, aux = rows(losses.focal(GIVEN, gamma=gamma, class_weights=[0.25, 0.75]), LOGITS, y)
        np.testing.assert_allclose(found, want, rtol=5e-6)
        np.testing.assert_allclose(aux.metrics["accuracy"], ((LOGITS > 0) == y).mean(1), rtol=1e-6)

    def test_gradients_are_finite_where_a_model_is_sure(self) -> None:
        sure = jnp.float32([[90, 0, 0], [-90, 0, 0], [0, 0, 0]])

        def total(x: Any, gamma: float) -> jax.Array:
            return losses.focal(GIVEN, gamma=gamma)(ONE, {"x": x, "y": jnp.int32([0, 0, 1])}, None)[0].sum()

        grads = jax.jit(lambda x: {gamma: jax.grad(total)(x, gamma) for gamma in (0, 0.5, 1, 2)})(sure)
        for gamma, grad in grads.items():
            assert np.isfinite(grad).all(), gamma

    def test_what_is_wrong(self) -> None:
        with pytest.raises(ValueError, match="`gamma` is -1; expected a number of at least 0"):
            losses.focal(GIVEN, gamma=-1)
        found = rows(losses.focal(GIVEN), LOGITS[:2], np.int32([3, 0]))[0]
        assert np.isnan(found).tolist() == [True, False]
        assert np.isnan(rows(losses.focal(GIVEN), LOGITS[:1, 0], np.float32([np.nan]))[0]).all()


class TestOrdinal:
    def test_it_is_the_sum_over_questions(self) -> None:
        y = RNG.integers(0, 4, 12).astype(np.int32)
        found, aux = rows(losses.ordinal(GIVEN), LOGITS, y)
        above = np.arange(3)[None] < y[:, None]
        np.testing.assert_allclose(
            found, -np.log(np.where(above, sigmoid(LOGITS), 1 - sigmoid(LOGITS))).sum(1), rtol=2e-6
        )
        rank = (LOGITS > 0).sum(1)
        np.testing.assert_array_equal(aux.metrics["accuracy"], rank == y)
        np.testing.assert_array_equal(aux.metrics["absolute_error"], abs(rank - y))

    def test_what_does_not_fit(self) -> None:
        loss = losses.ordinal(GIVEN)
        assert np.isnan(rows(loss, LOGITS[:3], np.int32([4, -1, 3]))[0]).tolist() == [True, True, False]
        masked = rows(loss, LOGITS[:2], np.int32([4, 0]), mask=np.array([False, True]))[0]
        assert np.isfinite(masked).all()
        with pytest.raises(
            ValueError, match=r"ordinal of `given` got logits of shape \[12\] and labels of shape \[12\]"
        ):
            rows(loss, LOGITS[:, 0], LABELS)
        with pytest.raises(TypeError, match="ordinal of `given` got labels of dtype float32; expected ints"):
            rows(loss, LOGITS, LABELS.astype(np.float32))


class TestNumbers:
    def test_huber_and_quantiles(self) -> None:
        x, y = 3 * LOGITS[:, 0], LOGITS[:, 1]
        e = np.abs(x.astype(np.float64) - y)
        found, aux = rows(losses.huber(GIVEN, delta=1.5), x, y)
        np.testing.assert_allclose(found, np.where(e < 1.5, e**2 / 2, 1.5 * (e - 0.75)), rtol=2e-6)
        np.testing.assert_allclose(aux.metrics["absolute_error"], e, rtol=1e-6)
        levels = (0.1, 0.5, 0.9)
        found = rows(losses.quantile(GIVEN, quantiles=levels), LOGITS, y)[0]
        want = np.mean([sk.mean_pinball_loss(y, LOGITS[:, i], alpha=level) for i, level in enumerate(levels)])
        assert found.mean() == pytest.approx(want, rel=1e-6)
        assert rows(losses.quantile(GIVEN, quantiles=[0.5]), x, y)[0].mean() == pytest.approx(e.mean() / 2, rel=1e-6)

    def test_what_is_wrong(self) -> None:
        with pytest.raises(ValueError, match="`delta` is 0; expected a finite number above 0"):
            losses.huber(GIVEN, delta=0)
        with pytest.raises(
            ValueError, match=r"`quantiles` is \[0.5, 1\]; expected numbers between 0 and 1, both excluded"
        ):
            losses.quantile(GIVEN, quantiles=[0.5, 1])
        with pytest.raises(TypeError, match="`quantiles` is 0.5; expected numbers between 0 and 1"):
            losses.quantile(GIVEN, quantiles=0.5)  # pyright: ignore[reportArgumentType]
        with pytest.raises(
            ValueError, match=r"got outputs of shape \[12, 3\] and targets of shape \[12\]; expected \[B, 2\]"
        ):
            rows(losses.quantile(GIVEN, quantiles=(0.1, 0.9)), LOGITS, LOGITS[:, 0])


class TestMissing:
    @pytest.mark.parametrize("name", ["squared_error", "huber", "binary_cross_entropy"])
    @pytest.mark.parametrize("by", ["nan", "y_missing"])
    def test_the_mean_over_a_batch_is_that_over_targets_that_are_there(self, name: str, by: str) -> None:
        build = getattr(losses, name)
        y = (LOGITS[::-1] > 0).astype(np.float32)
        gone = RNG.random(y.shape) < 0.4
        gone[0] = True
        given = {"y": np.where(gone, np.nan, y)} if by == "nan" else {"y": y, "y_missing": gone}
        x = np.asarray(LOGITS)
        entries = rows(build(GIVEN), x.reshape(-1), y.reshape(-1))[0]
        want = entries[~gone.reshape(-1)].mean()

        def mean(x: Any) -> jax.Array:
            return fl.batch_loss(build(GIVEN, missing=by), ONE, {"x": x, **given}, jnp.ones(12, bool), None).loss

        got, slope = jax.jit(jax.value_and_grad(mean))(x)
        assert float(got) == pytest.approx(want, rel=1e-6)
        assert ((np.asarray(slope) == 0) == gone).all()
        found, aux = rows(build(GIVEN, missing=by), x, **given)
        assert found[0] == aux.example_weight[0] == 0
        np.testing.assert_array_equal(aux.example_weight, (~gone).sum(1))

    @pytest.mark.parametrize("dtype", [bool, np.int32, np.float32])
    def test_what_is_missing_may_be_told_by_any_dtype_and_be_traced(self, dtype: Any) -> None:
        loss = losses.squared_error(GIVEN, missing="gone")
        batch = {"x": LOGITS[:3, 0], "y": LOGITS[:3, 0] + 1, "gone": np.asarray([0, 1, 0], dtype)}
        found = jax.jit(lambda scale, batch: loss(scale, batch, None))(ONE, batch)[0]
        np.testing.assert_allclose(found, [1, 0, 1], rtol=1e-6)

    def test_a_quantile_of_what_is_there(self) -> None:
        y = np.float32([1, np.nan, 3])
        found, aux = rows(losses.quantile(GIVEN, quantiles=[0.5], missing="nan"), np.float32([0, 0, 0]), y)
        assert found.tolist() == [0.5, 0, 1.5]
        assert aux.example_weight.tolist() == [1, 0, 1]

    def test_nothing_is_left_out_unless_it_was_asked_for(self) -> None:
        assert np.isnan(rows(losses.squared_error(GIVEN), LOGITS[:2, 0], np.float32([1, np.nan]))[0]).tolist() == [
            False,
            True,
        ]
        with pytest.raises(
            ValueError, match=r"squared_error of `given` takes the feature 'gone' for which targets are mi"
        ):
            rows(losses.squared_error(GIVEN, missing="gone"), LOGITS[:, 0], LOGITS[:, 1])
        with pytest.raises(ValueError, match=r"got the feature 'gone' of shape \[1\] and targets of shape \[12\]"):
            rows(losses.squared_error(GIVEN, missing="gone"), LOGITS[:, 0], LOGITS[:, 1], gone=np.ones(1))
        with pytest.raises(TypeError, match='`missing` is True; expected a str. It is "nan", or the name of a feature'):
            losses.huber(GIVEN, missing=True)  # pyright: ignore[reportArgumentType]
