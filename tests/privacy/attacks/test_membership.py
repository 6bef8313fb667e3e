"""Membership inference on scores whose best possible curve is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import fedjaxlite as fl
from fedjaxlite.privacy import attacks

pytestmark = pytest.mark.whole

S, N, SHIFT = 65, 400, 1.5


def gaussian_scores():
    """S models by N examples; every example has a level of its own, and SHIFT more where the model saw it."""
    rng = np.random.default_rng(11)
    member = rng.random((S, N)) < 0.5
    level = 5.0 * rng.normal(size=N)
    return level + rng.normal(size=(S, N)) + SHIFT * member, member


@pytest.mark.parametrize(("mode", "variance"), [("online", "pooled"), ("online", "example"), ("offline", "pooled")])
def test_lira_has_the_curve_of_the_best_test(mode, variance) -> None:
    """AUC Phi(d / sqrt 2) = 0.856, to 0.02: the means over 32 models are off by 0.18 standard deviations each.

    TPR at 1 % FPR: 1 - Phi(2.326 - 1.5) = 0.204.
    """
    scores, member = gaussian_scores()
    guesses = attacks.lira_leave_one_out(scores, member, mode=mode, variance=variance)
    curve = attacks.roc(guesses.ravel(), member.ravel())
    assert attacks.auc(curve) == pytest.approx(stats.norm.cdf(SHIFT / np.sqrt(2)), abs=0.02)
    assert attacks.tpr_at_fpr(curve, 0.01) == pytest.approx(0.204, abs=0.06)
    # one threshold for all examples is far worse: their levels differ by more than the shift
    assert attacks.auc(attacks.roc(scores.ravel(), member.ravel())) < 0.65


def test_lira_is_the_log_likelihood_ratio() -> None:
    """Against SciPy's densities."""
    shadow = np.array([[0.0], [1.0], [2.0], [4.0]])
    member = np.array([[False], [False], [True], [True]])
    inside, outside = stats.norm(3.0, np.sqrt(2)), stats.norm(0.5, np.sqrt(0.5))
    found = attacks.lira([1.7], shadow, member, variance="example")
    assert found[0] == pytest.approx(inside.logpdf(1.7) - outside.logpdf(1.7), abs=1e-12)
    assert attacks.lira([1.7], shadow, member, mode="offline", variance="example")[0] == pytest.approx(
        outside.logcdf(1.7), abs=1e-12
    )


def test_pooled_variances_are_unbiased() -> None:
    """Offline, two models an example: dividing by the number of models would halve the variance."""
    rng = np.random.default_rng(0)
    shadow = rng.normal(size=(2, 20000)) + 10 * rng.normal(size=20000)
    found = attacks.lira(shadow.mean(0) + 1.0, shadow, np.zeros((2, 20000), bool), mode="offline")
    np.testing.assert_allclose(found, stats.norm.logcdf(1.0), atol=0.02)


def test_confidence_is_the_logit_of_the_probability() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    labels = np.array([0, 1, 2, 3, 0])
    p = np.asarray(jax.nn.softmax(logits))[np.arange(5), labels]
    np.testing.assert_allclose(attacks.confidence(logits, labels), np.log(p / (1 - p)), atol=1e-5)


def test_loss_scores_are_minus_the_losses() -> None:
    model = fl.models.logistic(num_classes=3, input_shape=(2,))
    params = {"dense_0": {"kernel": jnp.array([[1.0, 0.0, -1.0], [0.5, 0.5, 0.0]]), "bias": jnp.zeros(3)}}
    examples = {"x": np.float32([[1, 2], [0, 1]]), "y": np.int32([0, 2])}
    expected = -fl.losses.cross_entropy(model)(params, examples, None)[0]
    np.testing.assert_allclose(attacks.loss_scores(fl.losses.cross_entropy(model), params, examples), expected)


@pytest.mark.slow
def test_client_scores_have_the_law_of_a_random_direction() -> None:
    """2000 candidates outside of the sum: mean 0 and variance 1 / d, to 4 standard errors (1 in 16,000 each)."""
    rng = np.random.default_rng(5)

    def draw(n):
        shapes = {"a": (n, 6, 10), "b": (n, 40)}
        return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}

    inside, outside = draw(8), draw(2000)
    released = jax.tree.map(lambda leaf: leaf.sum(0), inside)
    found = np.asarray(attacks.client_scores(released, outside))
    assert abs(found.mean()) < 4 * 0.1 / np.sqrt(2000)
    assert found.var() == pytest.approx(0.01, rel=4 * np.sqrt(2 / 2000))
    assert float(attacks.client_scores(released, inside).min()) > found.max() * 0.5
    np.testing.assert_allclose(attacks.client_scores(released, inside).mean(), 1 / np.sqrt(8), atol=0.05)


def test_what_all_clients_share_is_taken_out() -> None:
    """Against NumPy; and the common part is as long as one likes without a change."""
    rng = np.random.default_rng(6)
    own, released = rng.normal(size=(5, 30)), rng.normal(size=30)
    own -= own.mean(0)
    expected = own @ released / np.linalg.norm(own, axis=1) / np.linalg.norm(released)
    common = 10 * rng.normal(size=30)
    given = [jnp.asarray(value, jnp.float32) for value in (released + 2 * common, own + common)]
    np.testing.assert_allclose(attacks.client_scores(*given, num_members=2), expected, atol=1e-5)
    assert np.ptp(attacks.client_scores(*given)) < 0.2 < np.ptp(expected)


def test_errors() -> None:
    shadow, member = np.zeros((3, 2)), np.array([[True, True], [False, True], [True, True]])
    with pytest.raises(ValueError, match="`shadow_member` has 0 models without example 1; expected at least 1"):
        attacks.lira(np.zeros(2), shadow, member)
    with pytest.raises(ValueError, match="has 1 models without example 0; expected at least 2"):
        attacks.lira(np.zeros(2), shadow, member, variance="example")
    with pytest.raises(ValueError, match=r"`scores` has shape \[3\], `shadow_scores` \[3, 2\]"):
        attacks.lira(np.zeros(3), shadow, member)
    with pytest.raises(ValueError, match="`shadow_member` has dtype float64; expected bools"):
        attacks.lira(np.zeros(2), shadow, shadow)
    with pytest.raises(ValueError, match="values that are not finite"):
        attacks.lira([0.0, np.inf], shadow, member)
    with pytest.raises(ValueError, match="`mode` is 'both'; expected one of 'online', 'offline'"):
        attacks.lira(np.zeros(2), shadow, member, mode="both")
    with pytest.raises(ValueError, match=r"`logits` has shape \[2, 1\] and `labels` \[2\]"):
        attacks.confidence(np.zeros((2, 1)), np.zeros(2, int))
    with pytest.raises(ValueError, match="`num_members` is -1; expected a number of at least 0"):
        attacks.client_scores(jnp.ones(3), jnp.ones((2, 3)), num_members=-1)
    with pytest.raises(TypeError, match="`loss_fn` is None; expected a function"):
        attacks.loss_scores(None, {}, {})
