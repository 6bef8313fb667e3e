"""The scripts that run papers' claims again: what they share, and each at a size of seconds."""

import importlib
import json

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite.reproduce import seeds

PEOPLE = helpers.regression((4, 9, 1, 6, 2))
SCRIPTS = ("audit", "ghosh2020", "kairouz2021", "karimireddy2020", "li2020", "li2020_fair", "personalization")


def test_seeds_side_by_side_are_the_runs_of_each() -> None:
    """Under hyperparameters that reach the run as tracers, and measured after every second round."""

    def make(rate: object) -> fl.Rounds:
        return fl.rounds(
            helpers.fed_avg(rate), sampler=fl.sampling.uniform(3), aggregator=fl.weighted_mean(), execution=seeds.ONE
        )

    init = lambda key: {"w": jax.random.normal(key, (3,)), "b": jnp.float32(0)}  # noqa: E731
    play = seeds.player(make, init, num_rounds=4, every=2, measure=lambda params: params["w"].sum())
    states, measured = play(0.02, PEOPLE, 2)
    assert measured.shape == (2, 2)
    run = make(0.02)
    for seed in range(2):
        first, sample, noise = jax.random.split(jax.random.key(seed), 3)
        state = run.init(init(first), PEOPLE, key=sample, noise_key=noise)
        for r in range(4):
            state, _ = run.step(state, PEOPLE)
            if r % 2:
                np.testing.assert_allclose(measured[seed, r // 2], state.params["w"].sum(), rtol=1e-5, atol=1e-6)
        assert helpers.max_difference(seeds.of_seed(states, seed).params, state.params) < 1e-5
    with pytest.raises(ValueError, match="`num_rounds` is 5; expected a multiple of `every`, 2"):
        seeds.player(make, init, num_rounds=5, every=2)


def test_intervals_are_students() -> None:
    """Against the quantile of Student's t with four degrees of freedom, from a table: 2.776."""
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    found = seeds.interval(values)
    assert found.mean == 3.0
    assert found.half == pytest.approx(2.776 * np.std(values, ddof=1) / 5**0.5, rel=1e-3)
    assert np.isnan(seeds.interval([1.0]).half)


def test_tables_are_printed_and_written(tmp_path, capsys) -> None:
    seeds.show("thing: a table", ("first", "second"), {"row": [seeds.Interval(1.0, 0.5), 2.0]}, tmp_path / "new")
    assert "| row | 1 ± 0.5 | 2 |" in capsys.readouterr().out
    found = json.loads((tmp_path / "new" / "thing.json").read_text())
    assert found["rows"] == {"row": [{"mean": 1.0, "half": 0.5}, 2.0]}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_runs(name, tmp_path) -> None:
    script = importlib.import_module(f"fedjaxlite.reproduce.{name}")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        rows = script.main(seeds.Arguments(2, True, tmp_path))
    assert rows
    assert list(tmp_path.glob(f"{name}*.json"))
