"""What a server sees, attacked by the closed form of a linear layer: open updates, and masked ones."""

from functools import cache

import jax
import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite.reproduce.studies import leak, leak_members, leak_views

pytestmark = pytest.mark.whole


@cache
def closed_form(view: str) -> leak.Outcome:
    """The attack on a view of 64 clients with random pictures."""
    rng = np.random.default_rng(0)
    x, y = rng.random((64, 8, 8, 1)).astype(np.float32), rng.integers(0, 10, 64).astype(np.int32)
    model = fl.models.mlp(features=(16, 10))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = leak_views.seen(view, model, x, y, 8, jax.random.key(0))
        return leak.judge(leak.closed_form(found.target["dense_0"]), found.x, x[::-1])


def test_plain_updates_give_their_example_away() -> None:
    assert closed_form(leak_views.PLAIN).psnr.min() > 60


@pytest.mark.whole
def test_masked_messages_have_nothing_of_it() -> None:
    """Mean correlation over 64 images within 4 standard errors of 0: one false alarm in 16,000 seeds."""
    found = closed_form(leak_views.MASKED)
    assert abs(found.correlation.mean()) < 4 / np.sqrt(64 * 64)
    assert found.psnr.max() < 15


@pytest.mark.parametrize(
    ("view", "clients", "images"), [(leak_views.EPOCHS, 16, 4), (leak_views.SUM, 8, 8), (leak_views.NOISED[8], 64, 1)]
)
def test_views_are_of_the_images_that_they_name(view, clients, images) -> None:
    """As many clients, with as many images each, and every image reconstructed."""
    found = closed_form(view)
    assert found.x.shape == (64, 8, 8, 1)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        x, y = np.zeros((64, 8, 8, 1), np.float32), np.zeros(64, np.int32)
        seen = leak_views.seen(view, fl.models.mlp(features=(4, 10)), x, y, 8, jax.random.key(0))
    assert seen.x.shape[:2] == (clients, images)
    assert {leaf.shape[0] for leaf in jax.tree.leaves((seen.params, seen.target))} == {clients}


def test_the_sum_of_clients_gives_more_than_noise() -> None:
    """Masks hide single updates, and not what their sum shows: its images correlate above those of noised updates."""
    assert closed_form(leak_views.SUM).correlation.mean() > closed_form(leak_views.NOISED[1]).correlation.mean() + 0.1


def test_pictures_travel_as_text() -> None:
    images = np.random.default_rng(0).random((3, 4, 5))
    back = leak._images(leak._text(images), 4, 5)
    np.testing.assert_allclose(back, images, atol=0.5 / 255 + 1e-9)


def test_curves_keep_their_corners() -> None:
    """The points kept for the figure lie on the curve, and reach both of its ends."""
    from fedjaxlite.privacy import attacks

    rng = np.random.default_rng(0)
    curve = attacks.roc(np.concatenate([rng.normal(1, 1, 3000), rng.normal(0, 1, 3000)]), np.arange(6000) < 3000)
    fpr, tpr = leak_members._corners(curve)
    assert len(fpr) < 130
    assert (fpr[-1], tpr[-1]) == (1.0, 1.0)
    own = {(round(f, 6), round(t, 6)) for f, t in zip(curve.fpr, curve.tpr, strict=True)}
    assert set(zip(fpr, tpr, strict=True)) <= own
    assert abs(np.trapezoid(tpr, fpr) - attacks.auc(curve)) < 0.01
