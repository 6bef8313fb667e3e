"""The script that attacks what a server sees: at a size of seconds, and its acceptance at that size."""

import json

import jax
import numpy as np
import pytest

from fedjaxlite.reproduce import leak, leak_views, seeds


@pytest.fixture(scope="module")
def closed_forms():
    """The linear layer's attack on every view of 64 clients with random pictures."""
    import fedjaxlite as fl

    rng = np.random.default_rng(0)
    x, y = rng.random((64, 8, 8, 1)).astype(np.float32), rng.integers(0, 10, 64).astype(np.int32)
    model = fl.models.mlp(features=(16, 10))
    found = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for setting in leak_views.settings(model, x, y, 8, jax.random.key(0)):
            for view, target in setting.targets.items():
                found[view] = leak.judge(leak.closed_form(target["dense_0"]), setting.x, x[::-1])
    return found


@pytest.mark.slow
def test_plain_updates_give_their_example_away(closed_forms) -> None:
    assert closed_forms[leak.PLAIN].psnr.min() > 60


@pytest.mark.slow
def test_masked_messages_have_nothing_of_it(closed_forms) -> None:
    """Mean correlation over 64 images within 4 standard errors of 0: one false alarm in 16,000 seeds."""
    found = closed_forms[leak.MASKED]
    assert abs(found.correlation.mean()) < 4 / np.sqrt(64 * 64)
    assert found.psnr.max() < 15


@pytest.mark.slow
def test_the_script_runs(tmp_path) -> None:
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        rows = leak.main(seeds.Arguments(1, True, tmp_path))
    assert f"digits, DLG: {leak.SUM}" in rows
    for name in ("leak", "leak_labels", "leak_members"):
        assert json.loads((tmp_path / f"{name}.json").read_text())["rows"]
    for name in ("leak_digits", "leak_members"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
