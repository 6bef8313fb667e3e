"""The command line's privacy: a calibrated run, its budget and its resumption, and options that do not go together."""

import tomllib

import pytest
from test_cli import SMALL, call, refused

from fedjaxlite.observers import records

PRIVATE = [*SMALL, "--clip-norm", 0.5, "--delta", 1e-3]


@pytest.mark.whole
def test_a_private_run_keeps_its_budget_and_its_noise(tmp_path) -> None:
    """Calibrated for four rounds, stopped before it passes a smaller budget, and resumed with the noise that it had."""
    out = tmp_path / "run"
    told = call("run", *PRIVATE, "--rounds", 4, "--epsilon", 8, "--max-epsilon", 6.5, "--out", out)
    found = records.read(out / "records.jsonl")
    assert "at delta 0.001, per client" in told
    assert 1 <= len(found) < 4
    assert found[-1]["epsilon"] <= 6.5
    assert "loss" in found[-1]["simulation_only"]
    config = tomllib.loads((out / "config.toml").read_text())
    noise = config["privacy"]["noise_multiplier"]
    assert config["aggregator"]["gaussian"]["noise_multiplier"] == noise
    assert config["sampler"]["name"].startswith("poisson")

    call("run", "--resume", out, "--max-epsilon", 100, "--rounds", 5, "--no-progress")
    resumed = records.read(out / "records.jsonl")
    assert len(resumed) == 5
    assert resumed[3].get("epsilon", resumed[4]["epsilon"]) <= resumed[4]["epsilon"]
    assert resumed[4]["epsilon"] > 8  # calibrated for four
    assert "--cohort is 2, and the run that is resumed has 4" in refused("run", "--resume", out, "--cohort", 2)
    assert f"the run that is resumed has {noise}" in refused("run", "--resume", out, "--noise-multiplier", 9)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--noise-multiplier", 1], "noise needs --clip-norm, which bounds what one client can change"),
        (
            ["--clip-norm", 1, "--noise-multiplier", 1, "--epsilon", 2],
            "--noise-multiplier and --epsilon were both given",
        ),
        (["--clip-norm", 1, "--max-epsilon", 2], "--max-epsilon says nothing without noise"),
        (["--clip-norm", 1, "--delta", 1e-3], "--delta says nothing without noise"),
        (["--clip-norm", 1, "--epsilon", -1], "--epsilon is -1.0; expected a finite number above 0"),
        (
            ["--clip-norm", 1, "--noise-multiplier", 1, "--aggregator", "weighted"],
            "`gaussian` needs",
        ),
        (["--clip-norm", 1, "--noise-multiplier", -1], "`noise_multiplier` is -1"),
    ],
)
def test_options_that_do_not_go_together(options, told, tmp_path) -> None:
    assert told in refused("run", *SMALL, *options, "--rounds", 1, "--out", tmp_path / "run")


@pytest.mark.whole
def test_cohorts_come_from_a_secret_unless_a_seed_is_given_and_then_epsilon_says_so(tmp_path) -> None:
    def run(name, *options):
        out = tmp_path / name
        told = call("run", *PRIVATE, "--noise-multiplier", 2, "--rounds", 2, *options, "--out", out)
        assert "(simulation only)" in told  # the bytes of all clients
        return told, records.read(out / "records.jsonl")

    told, found = run("secret")
    assert "if the seed is secret" not in told
    assert "epsilon_unamplified" not in found[-1]
    told, found = run("fixed", "--cohort-seed", 3)
    last = found[-1]
    assert last["epsilon"] < last["epsilon_unamplified"]
    assert (
        f"epsilon {last['epsilon']:.4g} at delta 0.001, per client, if the seed is secret: cohorts were drawn from "
        f"--cohort-seed 3, and against whoever knows that it is {last['epsilon_unamplified']:.4g}, without amplification"
    ) in " ".join(told.split())
    assert {"selected", "reported", "bytes_up", "bytes_down", "seconds"} <= set(last["simulation_only"])
    call("run", "--resume", tmp_path / "fixed", "--rounds", 3, "--no-progress")
    assert len(records.read(tmp_path / "fixed" / "records.jsonl")) == 3
