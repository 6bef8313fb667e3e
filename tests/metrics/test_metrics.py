"""Metrics against scikit-learn in float64, in batches of any size, with padding that holds NaN, and with weights."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import some_often
from sklearn import metrics as sk

import fedjaxlite as fl
from fedjaxlite.metrics import Metric, running
from fedjaxlite.metrics.sums import add, by_halves, total

N = 3001


def measured(
    metric: Metric, outputs: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None, batch_size: int = 500
) -> Any:
    """A metric over batches, the last one padded with rows that may not count."""
    weight = np.ones(len(y), np.float32) if weight is None else weight.astype(np.float32)
    spare = -len(y) % batch_size
    junk = np.nan if y.dtype.kind == "f" else -7
    y = np.concatenate([y, np.full((spare, *y.shape[1:]), junk, y.dtype) if y.dtype != bool else np.zeros(spare, bool)])
    outputs = np.concatenate([outputs, np.full((spare, *outputs.shape[1:]), np.nan, outputs.dtype)])
    weight = np.concatenate([weight, np.zeros(spare, np.float32)])
    rows = lambda array: jnp.asarray(array.reshape(-1, batch_size, *array.shape[1:]))  # noqa: E731
    batches = rows(outputs), rows(y), rows(weight)

    @jax.jit
    def run(batches: Any) -> Any:
        def one(carry: Any, batch: Any) -> Any:
            kept = running.of_batch([metric], batch[0], {"y": batch[1]}, batch[2])
            return running.added([metric], carry, kept.sums), kept.rows

        first = jax.tree.map(lambda leaf: leaf[0], batches)
        shapes = jax.eval_shape(lambda b: running.of_batch([metric], b[0], {"y": b[1]}, b[2]).sums, first)
        carry, kept = jax.lax.scan(one, running.nothing(shapes), batches)
        kept = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), kept)
        return running.finished([metric], carry, kept, batches[2].reshape(-1))[metric.name]

    return np.asarray(run(batches), np.float64)


def softmax(logits: np.ndarray) -> np.ndarray:
    grown = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return grown / grown.sum(1, keepdims=True)


RNG = np.random.default_rng(0)
LABELS = RNG.choice(4, N, p=[0.6, 0.25, 0.1, 0.05]).astype(np.int32)
LOGITS = (3 * RNG.normal(size=(N, 4)) + 2 * np.eye(4)[LABELS]).astype(np.float32)
YES = (RNG.random(N) < 0.2).astype(np.int32)
SCORES = np.round(RNG.normal(size=N) + 1.5 * YES, 1).astype(np.float32)  # with many ties
TARGETS = (30 + 10 * RNG.normal(size=N)).astype(np.float32)
GUESSES = (TARGETS + 4 * RNG.normal(size=N)).astype(np.float32)
WEIGHT = RNG.random(N).astype(np.float32) * RNG.integers(0, 4, N).astype(np.float32)
P4, CHOICE = softmax(LOGITS), LOGITS.argmax(1)
P2 = 1 / (1 + np.exp(-SCORES.astype(np.float64)))


def ece(probabilities: np.ndarray, labels: np.ndarray, weight: np.ndarray, bins: int = 15) -> float:
    sure, right = probabilities.max(1), probabilities.argmax(1) == labels
    place = np.digitize(sure, np.linspace(0, 1, bins + 1), right=True) - 1
    gaps = [abs((weight * (sure - right))[place == b].sum()) for b in range(bins)]
    return sum(gaps) / weight.sum()


def case(metric: Metric, outputs: np.ndarray, y: np.ndarray, want: Callable[[Any], Any]) -> Any:
    return pytest.param(metric, outputs, y, want, id=f"{metric.name}{list(outputs.shape[1:])}{metric.keep}")


m = fl.metrics
CASES = [
    case(m.accuracy(), LOGITS, LABELS, lambda w: sk.accuracy_score(LABELS, CHOICE, sample_weight=w)),
    case(m.accuracy(), SCORES, YES, lambda w: sk.accuracy_score(YES, SCORES > 0, sample_weight=w)),
    case(m.top_k(2), LOGITS, LABELS, lambda w: sk.top_k_accuracy_score(LABELS, P4, k=2, sample_weight=w)),
    case(m.balanced_accuracy(), LOGITS, LABELS, lambda w: sk.balanced_accuracy_score(LABELS, CHOICE, sample_weight=w)),
    case(m.macro_f1(), LOGITS, LABELS, lambda w: sk.f1_score(LABELS, CHOICE, average="macro", sample_weight=w)),
    case(m.macro_f1(), SCORES[:, None], YES, lambda w: sk.f1_score(YES, SCORES > 0, average="macro", sample_weight=w)),
    case(m.confusion_matrix(), LOGITS, LABELS, lambda w: sk.confusion_matrix(LABELS, CHOICE, sample_weight=w)),
    case(m.auroc(), SCORES, YES, lambda w: sk.roc_auc_score(YES, SCORES, sample_weight=w)),
    case(m.auroc(), LOGITS[:, :2], YES, lambda w: sk.roc_auc_score(YES, softmax(LOGITS[:, :2])[:, 1], sample_weight=w)),
    case(m.auroc(), LOGITS, LABELS, lambda w: sk.roc_auc_score(LABELS, P4, multi_class="ovr", sample_weight=w)),
    case(m.auroc(bins=4096), SCORES, YES, lambda w: sk.roc_auc_score(YES, SCORES, sample_weight=w)),
    case(m.auprc(), SCORES, YES, lambda w: sk.average_precision_score(YES, SCORES, sample_weight=w)),
    case(m.auprc(bins=4096), SCORES, YES, lambda w: sk.average_precision_score(YES, SCORES, sample_weight=w)),
    case(
        m.auprc(),
        LOGITS,
        LABELS,
        lambda w: np.mean([sk.average_precision_score(c == LABELS, P4[:, c], sample_weight=w) for c in range(4)]),
    ),
    case(m.mean_absolute_error(), GUESSES, TARGETS, lambda w: sk.mean_absolute_error(*_f8(), sample_weight=w)),
    case(m.root_mean_squared_error(), GUESSES, TARGETS, lambda w: sk.root_mean_squared_error(*_f8(), sample_weight=w)),
    case(m.r2(), GUESSES, TARGETS, lambda w: sk.r2_score(*_f8(), sample_weight=w)),
    case(m.r2(), GUESSES[:, None], TARGETS, lambda w: sk.r2_score(*_f8(), sample_weight=w)),
    case(m.negative_log_likelihood(), LOGITS, LABELS, lambda w: sk.log_loss(LABELS, P4, sample_weight=w)),
    case(m.negative_log_likelihood(), SCORES, YES, lambda w: sk.log_loss(YES, P2, sample_weight=w)),
    case(m.perplexity(), LOGITS, LABELS, lambda w: np.exp(sk.log_loss(LABELS, P4, sample_weight=w))),
    case(m.expected_calibration_error(), LOGITS, LABELS, lambda w: ece(P4, LABELS, w)),
    case(m.expected_calibration_error(bins=7), SCORES, YES, lambda w: ece(np.stack([1 - P2, P2], 1), YES, w, 7)),
]


def _f8() -> tuple[np.ndarray, np.ndarray]:
    return TARGETS.astype(np.float64), GUESSES.astype(np.float64)


WEIGHTED = [pytest.param(64, WEIGHT, id="weighted"), pytest.param(5000, None, id="alike")]


@pytest.mark.parametrize(
    ("metric", "outputs", "y", "want", "batch_size", "weight"),
    some_often(
        (
            pytest.param(*one.values, *how.values, id=f"{one.id}-{how.id}")
            for one, how in itertools.product(CASES, WEIGHTED)
        ),
        5,  # one way of two cases in five
    ),
)
def test_metrics_are_those_of_scikit_learn_to_a_millionth(
    metric: Metric, outputs: Any, y: Any, want: Any, weight: Any, batch_size: int
) -> None:
    found = measured(metric, outputs, y, weight, batch_size)
    expected = want(np.ones(N) if weight is None else weight.astype(np.float64))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 if metric.name != "confusion_matrix" else 1e-3)


def once(metric: Metric, outputs: Any, y: Any, weight: Any = None) -> Any:
    """A metric of one batch."""
    weight = jnp.ones(len(y), jnp.float32) if weight is None else jnp.float32(weight)

    @jax.jit  # one program, where each operation would be one of its own
    def whole(outputs: Any, y: Any, weight: Any) -> Any:
        kept = metric.batch(outputs, y, weight)
        return metric.finish(kept, weight) if metric.keep == "rows" else metric.finish(kept)

    return np.asarray(whole(outputs, y, weight))


class TestTargets:
    def test_tokens_weigh_the_mean_and_padding_does_not_count(self) -> None:
        model = fl.models.from_functions(lambda key: (), lambda params, x, **_: x, name="given")
        x = RNG.normal(size=(6, 5, 4)).astype(np.float32)
        y = RNG.integers(0, 4, (6, 5)).astype(np.int32)
        real = y != 0
        loss, aux = jax.jit(lambda batch: fl.losses.sequence_cross_entropy(model)((), batch, None))({"x": x, "y": y})
        want = float((loss * aux.example_weight).sum() / aux.example_weight.sum())
        assert once(m.negative_log_likelihood(), x, y) == pytest.approx(want, rel=1e-5)
        assert once(m.perplexity(), x, y) == pytest.approx(np.exp(want), rel=1e-5)
        assert once(m.accuracy(), x, y) == pytest.approx((x.argmax(2) == y)[real].mean())
        assert once(m.accuracy(ignored_ids=()), x, y) == pytest.approx((x.argmax(2) == y).mean())
        assert once(m.accuracy(ignored_ids=(1, 2)), x, y) == pytest.approx(
            (x.argmax(2) == y)[(y == 0) | (y == 3)].mean()
        )

    def test_several_yes_or_no_labels(self) -> None:
        outputs, y = RNG.normal(size=(40, 3)).astype(np.float32), RNG.integers(0, 2, (40, 3))
        y[:, 2] = 1
        want = np.mean([sk.roc_auc_score(y[:, i], outputs[:, i]) for i in (0, 1)])
        assert once(m.auroc(), outputs, y) == pytest.approx(want, rel=1e-6)
        assert once(m.accuracy(), outputs, y) == pytest.approx(((outputs > 0) == y).mean())
        with pytest.raises(ValueError, match=r"'macro_f1' got targets \[B, 3\]; expected one class an example"):
            once(m.macro_f1(), outputs, y)

    @pytest.mark.parametrize(
        "metric",
        [
            m.accuracy(),
            m.macro_f1(),
            m.auroc(),
            m.auprc(),
            m.auroc(bins=9),
            m.perplexity(),
            m.expected_calibration_error(),
        ],
        ids=lambda metric: metric.name,
    )
    @pytest.mark.whole
    def test_what_cannot_be_judged_is_nan_and_not_left_out(self, metric: Metric) -> None:
        assert np.isfinite(once(metric, LOGITS[:9], LABELS[:9]))
        for row, label in ((LOGITS[0], 4), (LOGITS[0], -1), (LOGITS[0] * np.nan, 1)):
            outputs, labels = np.stack([*LOGITS[:9], row]), np.append(LABELS[:9], np.int32(label))
            assert np.isnan(once(metric, outputs, labels))
            assert np.isfinite(once(metric, outputs, labels, [1] * 9 + [0]))
        assert np.isnan(once(metric, SCORES[:9], np.float32([0.5, *YES[1:9]])))

    @pytest.mark.parametrize(
        "metric",
        list({case.values[0].name: case.values[0] for case in CASES if case.values[0].better}.values()),
        ids=lambda x: x.name,
    )
    def test_nothing_measured_is_nan(self, metric: Metric) -> None:
        numbers = metric.name in ("mean_absolute_error", "root_mean_squared_error", "r2")
        y = TARGETS[:3] if numbers else YES[:3]
        assert np.isnan(once(metric, SCORES[:3], y, np.zeros(3)))

    def test_one_class_alone_has_no_area_and_equal_targets_no_r2(self) -> None:
        assert np.isnan(once(m.auroc(), SCORES[:5], np.ones(5, int)))
        assert np.isnan(once(m.auprc(), SCORES[:5], np.zeros(5, int)))
        assert once(m.auprc(), SCORES[:5], np.ones(5, int)) == 1
        assert np.isnan(once(m.r2(), SCORES[:5], np.full(5, 7, np.float32)))
        # Of three classes one has no example: the mean is over the other two.
        labels = np.array([0, 1, 0, 1, 1])
        p = softmax(LOGITS[:5, :3])
        want = np.mean([sk.roc_auc_score(labels == c, p[:, c]) for c in (0, 1)])
        assert once(m.auroc(), LOGITS[:5, :3], labels) == pytest.approx(want, rel=1e-6)

    @pytest.mark.parametrize(
        ("metric", "outputs", "y", "text"),
        [
            (
                m.accuracy(),
                (5, 3),
                np.zeros(5, np.float32),
                r"'accuracy' got outputs \[B, 3\] and targets float32 \[B\]",
            ),
            (m.auroc(), (5, 3, 2), np.zeros((5, 3), np.int32), r"'auroc' got outputs \[B, 3, 2\] and targets int32"),
            (
                m.r2(),
                (5, 3),
                np.zeros(5, np.float32),
                r"'r2' got outputs \[B, 3\] and targets \[B\]; expected the same",
            ),
            (
                m.mean("own", lambda o, y: o, better="lower"),
                (5, 3),
                np.zeros(5),
                r"'own' gave values of shape \[5, 3\]",
            ),
        ],
        ids=lambda value: getattr(value, "name", None),
    )
    def test_shapes_that_do_not_fit_are_refused(self, metric: Metric, outputs: Any, y: Any, text: str) -> None:
        with pytest.raises(ValueError, match=text):
            once(metric, np.zeros(outputs, np.float32), y)


class TestOwn:
    def test_a_mean_of_ones_own_and_weights_by_a_feature(self) -> None:
        far = m.mean("far", lambda outputs, y: abs(outputs - y) > 4, better="lower")
        assert once(far, GUESSES, TARGETS) == pytest.approx((abs(GUESSES - TARGETS) > 4).mean())
        batch = {"y": TARGETS, "w": WEIGHT}
        for metric, outputs, y in ((far, GUESSES, TARGETS), (m.auroc(), SCORES, YES)):
            batch = {"y": y, "w": np.append(WEIGHT[:-1], np.float32(np.nan))}
            mask = np.append(np.ones(N - 1), 0)
            assert _by(metric, outputs, batch, mask) == pytest.approx(
                float(once(metric, outputs, y, np.append(WEIGHT[:-1], 0))), rel=1e-6
            )
        with pytest.raises(ValueError, match=r"'far' reads the feature 'weights'; the data have \['w', 'y'\]"):
            _by(far, GUESSES, batch, mask, by="weights")

    def test_what_is_no_metric_is_refused(self) -> None:
        check = m.metric.check_metrics
        for wrong, text in (
            (m.accuracy(), r"`metrics` is Metric.*; expected a list of metrics"),
            ("accuracy", r"`metrics` is 'accuracy'; expected a list"),
            ([m.accuracy], r"`metrics\[0\]` is .*; expected a Metric; call it: fl.metrics.accuracy\(\)"),
            (["accuracy"], r"`metrics\[0\]` is 'accuracy'; expected a Metric, as fl.metrics has them"),
            ([m.accuracy()._replace(keep="all")], r"`metrics\[0\].keep` is 'all'; expected one of 'sums', 'rows'"),
            ([m.accuracy()._replace(better="up")], r"`metrics\[0\].better` is 'up'; expected \"lower\" or"),
            (
                [m.auroc()._replace(finish=lambda sums: 0)],
                r"`metrics\[0\].finish` is .*expected a function of \(rows, w",
            ),
            (
                [m.accuracy(), m.accuracy(ignored_ids=())],
                r"has 'accuracy' more than once; give one of them another name",
            ),
        ):
            with pytest.raises((TypeError, ValueError), match=text):
                check(wrong)
        with pytest.raises(ValueError, match="`k` is 0; expected an int of at least 1"):
            m.top_k(0)
        with pytest.raises(TypeError, match=r"`ignored_ids\[0\]` is 1.5; expected an int"):
            m.perplexity(ignored_ids=(1.5,))
        with pytest.raises(ValueError, match='`better` is .*; expected "lower" or "higher"'):
            m.mean("own", lambda o, y: o, better="up")


def _by(metric: Metric, outputs: Any, batch: Any, mask: Any, by: str = "w") -> float:
    own, weight = m.weighted(metric, by=by), jnp.float32(mask)

    @jax.jit
    def whole(outputs: Any, batch: Any, weight: Any) -> Any:
        kept = own.batch(outputs, batch, weight)
        return own.finish(kept, weight) if own.keep == "rows" else own.finish(kept)

    return float(whole(jnp.asarray(outputs), batch, weight))


def test_ties_in_top_k_go_to_the_smaller_index_as_accuracy_takes_them() -> None:
    outputs, y = np.float32([[1, 1, 0]] * 3), np.int32([0, 1, 2])
    assert [once(m.top_k(k), outputs, y).item() for k in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1])


def test_a_sum_in_two_parts_loses_nothing_that_float32_would() -> None:
    values = np.float32([1e8, 1, -1e8, 1e-3] * 50)
    high, low = jnp.float32(0), jnp.float32(0)
    adds = jax.jit(add)
    for value in values:
        high, low = adds(high, low, jnp.float32(value))
    assert float(high + low) == pytest.approx(values.astype(np.float64).sum(), rel=1e-6)
    grown = np.float32(RNG.random(100_001))
    assert float(jax.jit(by_halves)(jnp.asarray(grown))) == pytest.approx(grown.astype(np.float64).sum(), rel=2e-7)
    assert np.isnan(total(jnp.ones(2), jnp.float32([1, np.nan])))


def test_r2_of_clustered_targets_far_from_zero() -> None:
    """Batches whose means lie far apart, and targets whose mean is a hundred times their spread."""
    y = np.sort(1000 + 10 * RNG.normal(size=20_000)).astype(np.float32)
    outputs = (y + 3 * RNG.normal(size=20_000)).astype(np.float32)
    want = sk.r2_score(y.astype(np.float64), outputs.astype(np.float64))
    assert measured(m.r2(), outputs, y, batch_size=64) == pytest.approx(want, abs=1e-6)


def test_a_curve_is_that_of_scikit_learn() -> None:
    for weight in (None, WEIGHT):
        false, true, at = m.roc_curve(SCORES, YES, weight=weight)
        want = sk.roc_curve(YES, SCORES, sample_weight=weight, drop_intermediate=False)
        np.testing.assert_allclose((false, true), want[:2], atol=1e-12)
        assert at[0] == np.inf
        assert (np.diff(at) < 0).all()
    with pytest.raises(ValueError, match=r"`labels\[1\]` is 2; expected 0 or 1"):
        m.roc_curve([0.1, 0.2], [0, 2])
    with pytest.raises(ValueError, match=r"`outputs` is NaN in row 1"):
        m.roc_curve([0.1, np.nan], [0, 1])
    with pytest.raises(ValueError, match=r"`outputs` has shape \[3, 3\] and `labels` \[3\]"):
        m.roc_curve(np.eye(3), [0, 1, 0])
