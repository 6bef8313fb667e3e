"""Sweeps from the command line: the runs, what they leave and repeat, and refusals."""

import json
import re
import sys
import tomllib

import jax
import numpy as np
import pytest
from test_cli import SMALL, call, refused

import fedjaxlite as fl
from fedjaxlite.cli import build, sweeping
from fedjaxlite.cli.settings import Settings
from fedjaxlite.observers import records

pytestmark = pytest.mark.whole

FEW = [*SMALL[:3], 6, "--cohort", 3, "--epochs", 1, "--devices", 1, "--no-progress"]
PROX = ["--algorithm", "fed_prox", "--sweep", "mu=0.01,0.5", "--sweep", "epochs=1,2", "--rounds", 2]


def rows(out) -> list[dict]:
    return [json.loads(line) for line in (out / "sweep.jsonl").read_text().splitlines()]


@pytest.mark.whole
def test_a_sweep_is_a_table_of_runs_repeats_and_chooses_on_held_out_clients(tmp_path) -> None:
    out, again = tmp_path / "sweep", tmp_path / "again"
    told = call("run", *FEW, *PROX, "--seeds", 2, "--out", out)
    files = {"table.md", "sweep.png", "sweep.json", "sweep.jsonl", "config.toml"}
    assert {path.name for path in out.iterdir()} == files
    found = rows(out)
    assert len(found) == 4 * 2 * 2
    known = json.loads((out / "sweep.json").read_text())
    assert known["points"][1] == {"mu": 0.01, "epochs": 2}
    assert [group["traced"] for group in known["programs"]] == [["mu"], ["mu"]]  # a program for each number of epochs
    assert (known["select"], known["better"]) == ("validation_accuracy", "higher")
    means = np.mean(
        [[r["validation_accuracy"] for r in found if _of(r, p) and r["round"] == 2] for p in known["points"]], 1
    )
    assert known["best"] == int(np.argmax(means))
    assert told.splitlines()[0].startswith("| mu | epochs | validation_accuracy |")
    assert f"best: mu={known['points'][known['best']]['mu']:g}, epochs=" in told
    call("run", "--config", out / "config.toml", "--out", again, "--no-progress")
    assert rows(again) == found
    assert tomllib.loads((again / "config.toml").read_text())["arguments"]["sweep"] == ["mu=0.01,0.5", "epochs=1,2"]


def _of(row: dict, point: dict) -> bool:
    return all(row[name] == value for name, value in point.items())


@pytest.mark.whole
def test_its_rows_are_the_runs_of_the_same_options(tmp_path) -> None:
    """A run of the sweep, and the run that `build` makes of its options, by `fl.train`."""
    out = tmp_path / "sweep"
    call("run", *FEW, *PROX, "--seeds", 2, "--seed", 3, "--validation", 0, "--out", out)
    plain = Settings(
        model="logistic", clients=6, cohort=3, epochs=2, devices=1, seed=3, algorithm="fed_prox", set=["mu=0.5"]
    )
    job = build.job(plain)
    model = build.model_of(build.filled(plain), job.population)
    first, own, _ = jax.random.split(jax.random.key(4), 3)
    state = job.rounds.init(model.init(first), job.population, key=own)
    history = fl.train(job.rounds, state, job.population, num_rounds=2, evaluate=job.evaluate, progress=False)
    mine = [row for row in rows(out) if row["mu"] == 0.5 and row["epochs"] == 2 and row["seed"] == 4]
    for row, record in zip(mine, history.records, strict=True):
        for name in ("test_accuracy", "test_loss", "loss"):
            assert row[name] == pytest.approx(record[name], rel=1e-6, abs=1e-6)
    assert json.loads((out / "sweep.json").read_text())["best"] is None
    assert "No best: there is nothing to choose by." in (out / "table.md").read_text()


@pytest.mark.whole
def test_seeds_alone_are_a_sweep_of_one_point_and_clients_are_measured(tmp_path) -> None:
    out = tmp_path / "sweep"
    options = ["--algorithm", "ditto", "--set", "lam=0.1", "--personal-eval", "--per-client-eval", "--rounds", 1]
    told = call("run", *FEW, *options, "--seeds", 2, "--select", "own_accuracy_worst10", "--out", out)
    assert "private runs" not in told
    [first, second] = rows(out)
    assert {"test_accuracy", "clients_accuracy", "own_accuracy", "validation_accuracy"} <= set(first)
    assert first["seed"] != second["seed"]
    assert "| own_accuracy_worst10 |" in told


@pytest.mark.whole
def test_private_runs_have_the_noise_of_their_epsilon(tmp_path) -> None:
    """What is calibrated is calibrated once a point, and shows in the settings of its rounds."""
    pytest.importorskip("dp_accounting")
    settings = build.filled(
        Settings(model="logistic", clients=6, cohort=3, rounds=2, clip_norm=0.5, epsilon=5.0, devices=1)
    )
    data = build.load(settings)
    model = build.model_of(settings, data.train)
    make = sweeping.maker(settings, build.loss_of(settings, model, data.train), model, data.train)
    found = {e: make(epsilon=e) for e in (2.0, 8.0)}
    for epsilon, rounds in found.items():
        spent = fl.privacy.epsilon(rounds, data.train.num_clients, num_rounds=2, delta=data.train.num_clients**-1.1)
        assert spent == pytest.approx(epsilon, rel=1e-2)
        assert spent <= epsilon
    assert sweeping.may_be_traced({"epsilon": [1.0, 2.0], "clip_norm": [0.1, 1.0], "cohort": [1, 2]}) == []
    assert sweeping.may_be_traced({"noise_multiplier": [0.1, 1.0], "mu": [0, 0.5]}) == ["noise_multiplier", "mu"]
    with pytest.raises(
        ValueError, match="epsilon"
    ):  # it is no number of a program: rounds without noise would come out
        jax.eval_shape(lambda e: (make(epsilon=e), e)[1], jax.ShapeDtypeStruct((), "float32"))


@pytest.mark.whole
def test_private_runs_share_a_program_and_are_told_to_add_up(tmp_path) -> None:
    out = tmp_path / "sweep"
    options = ["--clip-norm", 0.5, "--sweep", "noise_multiplier=0.5,2.0", "--seeds", 1, "--rounds", 1]
    told = call("run", *FEW, *options, "--out", out)
    assert "2 private runs on the same clients: their epsilons add up" in told
    assert json.loads((out / "sweep.json").read_text())["programs"] == [
        {"points": [0, 1], "traced": ["noise_multiplier"]}
    ]


@pytest.mark.parametrize(
    ("sweep", "expected"),
    [
        ("client_lr=0.1,1", {"client_lr": [0.1, 1.0]}),
        ("cohort=2,3", {"cohort": [2, 3]}),
        ("sampler=uniform,cyclic", {"sampler": ["uniform", "cyclic"]}),
        ("error-feedback=true,false", {"error_feedback": [True, False]}),
        ("clip_norm=1,none", {"clip_norm": [1.0, None]}),
        (
            "client_optimizer=sgd:0.1,momentum=0.9;adam:0.01",
            {"client_optimizer": ["sgd:0.1,momentum=0.9", "adam:0.01"]},
        ),
    ],
)
def test_values_are_of_the_type_of_their_option(sweep, expected) -> None:
    assert sweeping.grid(Settings(sweep=[sweep])) == expected


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            ["--sweep", "client_rl=0.1,0.2"],
            "--sweep names 'client_rl'; swept can be client_lr, .* Did you mean client_lr?",
        ),
        (["--sweep", "partition=iid,dirichlet:1"], "--sweep names partition, which decides about the data"),
        (["--sweep", "cohort=two"], "--sweep gives cohort the value 'two'; expected int"),
        (["--sweep", "sampler=unifrom"], "--sweep sampler names 'unifrom'; expected one of .* Did you mean uniform?"),
        (["--sweep", "client_lr"], "--sweep is 'client_lr'; expected NAME=V1,V2"),
        (["--sweep", "client_lr=0.1,"], "expected NAME=V1,V2"),
        (["--sweep", "epochs=1", "--sweep", "epochs=2"], "--sweep gives epochs twice"),
        (["--sweep", "client_lr=0.1,-1"], "--client-lr is -1.0; expected a finite number above 0"),
        (["--algorithm", "fed_prox", "--set", "mu=1", "--sweep", "mu=1,2"], "--set and --sweep both give mu"),
        (
            ["--algorithm", "ifca", "--set", "num_clusters=2", "--sweep", "num_clusters=2,3"],
            "--sweep names 'num_clusters'",
        ),
        (["--sweep", "algorithm=fed_avg,ifca"], "--sweep algorithm compares methods that train one model each"),
        (["--seeds", 2, "--tensorboard"], "--tensorboard was given with --sweep or --seeds, and sweep.jsonl has"),
        (["--seeds", 2, "--target-accuracy", 0.5], "--target-accuracy was given with --sweep or --seeds"),
        (["--seeds", 2, "--validation", 1.0], "--validation is 1.0; expected a number in"),
        (
            ["--seeds", 2, "--select", "validation_acc"],
            "`select` is 'validation_acc', and measured are .* Did you mean",
        ),
    ],
)
def test_what_cannot_be_swept_is_refused(options, text, tmp_path) -> None:
    told = " ".join(refused("run", *FEW, "--rounds", 1, *options, "--out", tmp_path / "out").split())
    assert re.search(text, told), told
    assert not (tmp_path / "out").exists()


def test_plan_is_of_one_run_and_a_sweep_does_not_go_on(tmp_path) -> None:
    assert "plan tells what one run will cost" in refused("plan", *FEW[:-1], "--sweep", "client_lr=0.1,0.2")
    (tmp_path / "config.toml").write_text('[arguments]\nsweep = ["client_lr=0.1,0.2"]\n')
    assert "a sweep does not go on where it was stopped; repeat it by --config" in refused("run", "--resume", tmp_path)


@pytest.mark.whole
def test_a_tracker_takes_the_records_and_the_options(tmp_path, monkeypatch) -> None:
    for name in ("MLFLOW_DISABLE_TELEMETRY", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path / "mlruns"))
    call("run", *FEW, "--rounds", 2, "--tracker", "mlflow", "--out", tmp_path / "run")
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=str(tmp_path / "mlruns"))
    run = client.get_run(json.loads((tmp_path / "run" / "mlflow.json").read_text())["id"])
    last = records.read(tmp_path / "run" / "records.jsonl")[-1]
    assert run.data.metrics == pytest.approx(records.numbers_of(last))
    assert (run.data.params["option.clients"], run.data.params["num_clients"]) == ("6", "6")
    assert tomllib.loads((tmp_path / "run" / "config.toml").read_text())["arguments"]["tracker"] == "mlflow"
    monkeypatch.setitem(sys.modules, "wandb", None)
    told = refused("run", *FEW, "--tracker", "wandb", "--out", tmp_path / "other")
    assert 'pip install "fedjaxlite[wandb]"' in told
