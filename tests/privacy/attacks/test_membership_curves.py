"""ROC curves against scikit-learn, and against pairs counted by hand."""

import numpy as np
import pytest
from sklearn import metrics

from fedjaxlite.privacy import attacks


@pytest.mark.parametrize("decimals", [6, 1])  # the second has many ties
def test_curves_are_scikit_learns(decimals) -> None:
    rng = np.random.default_rng(1)
    member = rng.random(500) < 0.3
    scores = np.round(rng.normal(size=500) + member, decimals)
    curve = attacks.roc(scores, member)
    fpr, tpr, thresholds = metrics.roc_curve(member, scores, drop_intermediate=False)
    np.testing.assert_allclose(curve.fpr, fpr, atol=1e-12)
    np.testing.assert_allclose(curve.tpr, tpr, atol=1e-12)
    np.testing.assert_array_equal(curve.thresholds, thresholds)
    assert attacks.auc(curve) == pytest.approx(metrics.roc_auc_score(member, scores), abs=1e-12)


def test_area_is_the_share_of_pairs_in_order() -> None:
    scores, member = np.array([3.0, 1.0, 1.0, 0.0, -np.inf]), np.array([True, True, False, False, True])
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[member] for b in scores[~member]]
    assert attacks.auc(attacks.roc(scores, member)) == pytest.approx(np.mean(pairs))


def test_rate_at_a_rate_of_false_alarms_is_not_interpolated() -> None:
    """Ten of 1000 members score above all non-members, and no rate below 1 / 1000 allows a single false alarm."""
    scores = np.concatenate([np.full(10, 9.0), np.zeros(990), np.linspace(1, 2, 1000)])
    member = np.arange(2000) < 1000
    curve = attacks.roc(scores, member)
    assert attacks.tpr_at_fpr(curve, 9e-4) == 0.01
    assert attacks.tpr_at_fpr(curve, 0.999) == 0.01
    assert attacks.tpr_at_fpr(curve, 1.0) == 1.0


@pytest.mark.parametrize(
    ("scores", "member", "text"),
    [
        ([1.0, 2.0], [True], r"`scores` has shape \[2\] and `member` \[1\]"),
        ([1.0, 2.0], [1, 0], "`member` has dtype int64; expected bools"),
        ([1.0, np.nan], [True, False], "`scores` holds NaN"),
        ([1.0, 2.0], [True, True], "`member` has 2 True of 2; expected members and non-members"),
    ],
)
def test_errors(scores, member, text) -> None:
    with pytest.raises(ValueError, match=text):
        attacks.roc(scores, member)


def test_a_rate_outside_of_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`fpr` is 0; expected a number in \(0, 1\]"):
        attacks.tpr_at_fpr(attacks.roc([1.0, 0.0], [True, False]), 0)
