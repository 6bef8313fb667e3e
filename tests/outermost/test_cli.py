"""The command line: the main job at a small size, its help, and its errors."""

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

from fedjaxlite.cli import build, named, parse, taking_part
from fedjaxlite.cli.app import app
from fedjaxlite.cli.settings import Settings, to_arguments
from fedjaxlite.cli.taking_part.times import Facts
from fedjaxlite.observers import records

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--model", "logistic", "--clients", "20", "--cohort", "4", "--epochs", "1", "--devices", "1", "--no-progress"]


def call(*arguments: object, code: int = 0) -> str:
    """The output of a command that ends with `code`."""
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result.output


def refused(*arguments: object) -> str:
    text = call(*arguments, code=2)
    assert "Traceback" not in text
    return text


def test_run_trains_and_leaves_everything(tmp_path, request) -> None:
    out = tmp_path / "run"
    told = call("run", *SMALL, "--rounds", 4, "--client-lr", 0.5, "--out", out)
    assert "test accuracy" in told
    assert "after 4 rounds" in told
    assert {p.name for p in out.iterdir()} == {"records.jsonl", "config.toml", "curves.png", "checkpoints", ".lock"}
    request.getfixturevalue("no_pictures")  # one is enough
    found = records.read(out / "records.jsonl")
    assert [r["round"] for r in found] == [1, 2, 3, 4]
    assert found[-1]["test_accuracy"] > found[0]["test_accuracy"]
    config = tomllib.loads((out / "config.toml").read_text())
    assert config["arguments"]["client_lr"] == 0.5
    assert "out" not in config["arguments"]
    assert "command" in config

    told = call("run", "--resume", out, "--rounds", 6, "--no-progress")
    assert "after 6 rounds" in told
    resumed = records.read(out / "records.jsonl")
    assert [r["round"] for r in resumed] == [1, 2, 3, 4, 5, 6]
    assert resumed[:4] == found

    again = tmp_path / "again"
    told = call(
        "run", "--config", out / "config.toml", "--target-accuracy", 0.01, "--out", again, "--no-progress"
    )  # fmt: skip
    assert "after 1 rounds" in told
    assert records.read(again / "records.jsonl")[0]["test_loss"] == pytest.approx(found[0]["test_loss"], rel=1e-6)

    assert "Go on with it by resume=True" in refused("run", *SMALL, "--out", out)
    assert "; keys is" in refused("run", "--resume", out, "--rounds", 7, "--seed", 5)
    told = refused("run", "--resume", out, "--rounds", 7, "--client-lr", 0.25, "--no-progress")
    assert "numbers in it: -0.25 where there was -0.5" in told
    assert "--accept-changes" in told
    call("run", "--resume", out, "--rounds", 7, "--client-lr", 0.25, "--no-progress", "--accept-changes")
    # Records that were lost are told, and everything that counts over records counts without them.
    path = out / "records.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[2:]))
    told = call("run", "--resume", out, "--rounds", 8, "--client-lr", 0.25, "--no-progress")
    assert "(without 2 rounds whose records are missing)" in told
    path.unlink()
    told = call("run", "--resume", out, "--rounds", 8, "--client-lr", 0.25, "--no-progress")
    assert "nothing is left to do, and the records of all 8 rounds are missing" in told


@pytest.mark.whole
def test_a_run_that_diverges_ends_with_a_code_of_its_own(tmp_path) -> None:
    options = [*SMALL, "--rounds", 12, "--client-lr", 1e30, "--checkpoint-every", 3]
    told = call("run", *options, "--lost-rounds", 3, "--diverged-rounds", 3, "--out", tmp_path / "a", code=3)
    assert "failed: " in told
    assert len(records.read(tmp_path / "a" / "records.jsonl")) < 12
    told = call("run", *options, "--lost-rounds", 0, "--diverged-rounds", 0, "--out", tmp_path / "b")
    assert "failed" not in told
    assert sorted(int(p.name) for p in (tmp_path / "b" / "checkpoints").iterdir()) == [9, 12]
    config = tomllib.loads((tmp_path / "b" / "config.toml").read_text())
    assert (config["arguments"]["checkpoint_every"], config["arguments"]["lost_rounds"]) == (3, 0)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.whole
def test_a_terminated_run_says_how_to_go_on(tmp_path) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "fedjaxlite", "run", *SMALL, "--rounds", "100000", "--out", str(out)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    path = out / "records.jsonl"
    while process.poll() is None and not (path.exists() and path.stat().st_size):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 143, told
    assert f"ended by SIGTERM; go on by: fedjaxlite run --resume {out}" in told
    done = len(records.read(path))
    assert [int(p.name) for p in (out / "checkpoints").iterdir()] == [done]
    assert f"after {done + 10} rounds" in call("run", "--resume", out, "--rounds", done + 10, "--no-progress")


@pytest.mark.whole
def test_run_takes_all_axes_at_once(tmp_path) -> None:
    with jax.numpy_dtype_promotion("standard"):  # optax's adam relies on it
        told = call(
            "run", "--dataset", "synthetic", "--clients", 6, "--cohort", 2, "--rounds", 1, "--devices", 1,
            "--epochs", 1, "--warm-start", 0.34, "--per-client-eval", "--sampler", "poisson", "--dropout", 0.1,
            "--stragglers", 0.5, "--clip-norm", 1.0, "--quantize-bits", 12, "--server-optimizer", "adam",
            "--lanes", 2, "--no-progress", "--out", tmp_path / "run",
        )  # fmt: skip
    assert "after 1 rounds" in told
    last = records.read(tmp_path / "run" / "records.jsonl")[-1]
    assert "clients_accuracy_worst10" in last
    config = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert config["population"]["num_clients"] == 4
    assert config["warm_start"].keys() >= {"examples", "steps", "loss", "before_accuracy", "after_accuracy"}
    assert config["aggregator"]["quantize"]["bits"] == 12
    assert config["sampler"]["name"] == "poisson(0.5)+dropout+stragglers"


def test_data_are_divided_without_overlap() -> None:
    settings = build.filled(Settings(partition="shards:2", clients=20, warm_start=0.1, per_client_eval=True))
    data = build.load(settings)
    public, own = len(data.public["y"]), data.own_test.offsets[-1]
    assert public == 144
    assert data.train.num_clients == data.own_test.num_clients == 20
    assert public + own + data.train.offsets[-1] == 1438
    assert data.own_test.num_examples.min() >= 1
    again = build.load(settings)
    assert again.train.fingerprint() == data.train.fingerprint()


def test_natural_clients_keep_their_own_tests() -> None:
    settings = Settings(dataset="synthetic", clients=6, warm_start=0.34, per_client_eval=True)
    data = build.load(build.filled(settings))
    assert data.train.names.tolist() == data.own_test.names.tolist()
    assert data.train.num_clients == 4


@pytest.mark.parametrize("name", ["mlp", "2nn", "logistic", "cnn", "dropout-cnn", "cifar-cnn"])
def test_models_fit_the_data(name) -> None:
    images = {"x": np.zeros((5, 28, 28, 1), np.float32), "y": np.array([0, 1, 2, 6, 0], np.int32)}
    model = named.model(name, images)
    params = jax.eval_shape(model.init, jax.random.key(0))
    logits = jax.eval_shape(lambda p: model.apply(p, images["x"]), params)
    assert logits.shape == (5, 7)


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam", "yogi", "adagrad"])
def test_server_optimizers_go_downhill(name) -> None:
    optimizer = parse.server_optimizer(Settings(server_optimizer=name))
    with jax.numpy_dtype_promotion("standard"):
        update, _ = optimizer.update(jnp.float32(1), optimizer.init(jnp.float32(0)), jnp.float32(0))
    assert float(update) < 0


@pytest.mark.parametrize("name", ["uniform", "poisson", "cyclic", "available"])
def test_samplers_fit_the_population(name) -> None:
    sampler = taking_part.sampler(Settings(sampler=name, cohort=3, dropout=0.1), Facts(10))
    sampler.check(10)
    assert sampler.accounting.expected_size(10) == 3


@pytest.mark.slow
def test_shakespeare_trains(tmp_path) -> None:
    lines = [
        json.dumps({"play": "p", "role": f"r{i}", "lines": ["Who is there?", "Nay, answer me."]}) for i in range(4)
    ]
    (tmp_path / "shakespeare_plays.jsonl").write_text("\n".join(lines))
    told = call(
        "run", "--dataset", "shakespeare", "--data-dir", tmp_path, "--cohort", 1, "--rounds", 1, "--devices", 1,
        "--no-progress", "--out", tmp_path / "run",
    )  # fmt: skip
    assert "test accuracy" in told


def test_plan_prints_what_it_costs() -> None:
    told = call("plan", *SMALL, "--rounds", 30, "--cohort", 1)
    assert "650 parameters" in told
    assert "2.6 kB a round" in told
    assert "fastest" in told
    assert "30 rounds: about" in told


@pytest.mark.whole
def test_the_installed_program_runs_in_a_process_of_its_own(tmp_path) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "fedjaxlite", "run", *SMALL[:-3], "--rounds", "2", "--out", "run"],
        cwd=tmp_path, env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "round 2/2" in done.stdout
    assert (tmp_path / "run" / "curves.png").exists()


def test_help_names_every_option_and_shows_examples() -> None:
    told = call("run", "--help")
    for name in Settings._fields:
        assert f"--{name.replace('_', '-')}" in told
    assert "dirichlet:ALPHA" in told
    assert "fedjaxlite run --resume" in told
    for command in ("plan", "bench"):
        assert "Usage" in call(command, "--help")


def test_the_version_names_the_stack() -> None:
    told = call("--version")
    assert "fedjaxlite 0.1.0" in told
    assert "jax " in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--dataset", "nothing"], "there is no data set 'nothing'"),
        (["--dataset", "mnisst"], "did you mean 'mnist'"),
        (["--partition", "fair"], "--partition is 'fair'; expected one of iid"),
        (["--partition", "dirichlet"], "expected dirichlet:ALPHA with a number"),
        (["--partition", "dirichlet:-1"], "`alpha` is -1.0"),
        (["--partition", "natural"], "has no clients of its own; give another --partition"),
        (["--client-lr", "-0.1"], "--client-lr is -0.1; expected a finite number above 0"),
        (["--client-lr", "much"], "--client-lr"),
        (["--server-lr", "0"], "--server-lr is 0.0"),
        (["--cohort", "101"], "--cohort is 101, and there are 100 clients"),
        (["--clients", "5000"], "num_clients=5000, but there are 1438 examples"),
        (["--batch-size", "0"], "--batch-size is '0'; expected an int of at least 1, or inf"),
        (["--epochs", "0"], "--epochs"),
        (["--sampler", "best"], "--sampler names 'best'; expected one of"),
        (["--model", "lstm"], "--model lstm takes texts"),
        (["--dropout", "1"], "--dropout is 1.0; expected a number in [0, 1)"),
        (["--warm-start", "-1"], "--warm-start is -1.0"),
        (["--warm-start", "0.0001"], "of 1438 examples is 0; expected at least 1"),
        (["--quantize-bits", "8"], "--quantize-bits needs --clip-norm"),
        (["--clip-norm", "0"], "--clip-norm is 0.0"),
        (["--clip-norm", "1", "--quantize-bits", "40"], "`bits` is 40"),
        (["--data-dir", "/nowhere", "--dataset", "mnist"], "`data_dir` is '/nowhere'; there is no such folder"),
        (["--resume", "nowhere"], "there is no 'nowhere"),
        (["--resume", "a", "--config", "b"], "--resume and --config were both given"),
        (["--accept-changes"], "`accept_changes` is True without `resume`"),
        (["--lost-rounds", "-1"], "--lost-rounds"),
        (["--client-states", "Disk"], '`client_states` is \'Disk\'; expected "device", "host", or a folder'),
        (["--client-states", "host", "--seeds", "2"], "--client-states was given with --sweep or --seeds"),
        (["--resume", "a", "--out", "b"], "--resume and --out were both given"),
        (["--frobnicate"], "No such option"),
    ],
)
def test_errors_are_one_plain_message(arguments, told, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = refused("run", "--devices", "1", *arguments)
    assert told in " ".join(text.split())
    assert not any(path.is_dir() and any(path.iterdir()) for path in tmp_path.glob("runs/*"))


def test_a_folder_that_cannot_be_written_is_refused(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    assert "which cannot be written to" in refused("run", "--out", tmp_path / "file" / "run")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has no [arguments]"),
        ("[arguments]\nspeed = 3\n", "has the argument 'speed'; known are dataset, data_dir"),
        ('[arguments]\nrounds = "many"\n', "has rounds = 'many'; expected int"),
        ('[arguments]\nserver_optimizer = "best"\n', "has server_optimizer = 'best'; expected"),
        ("[arguments\n", "is no TOML"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(text, told, tmp_path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    assert told in " ".join(refused("run", "--config", path).split())


def test_debug_shows_the_traceback() -> None:
    result = CliRunner().invoke(app, ["run", "--partition", "fair", "--debug"])
    assert isinstance(result.exception, ValueError)


def test_bench_calls_the_suite(monkeypatch) -> None:
    from fedjaxlite.benchmarks import suite

    calls = []
    monkeypatch.setattr(suite, "main", lambda *arguments: calls.append(arguments))
    call("bench", "--workload", "w1", "--size", "tiny", "--repeats", "2")
    call("bench")
    assert calls == [(["w1"], "tiny", None, 2), (None, "full", None, 7)]


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("iid", "iid"),
        ("dirichlet:0.5", "dirichlet"),
        ("shards:3", "label_shards"),
        ("classes:2", "k_classes"),
        ("quantity:0.5", "quantity"),
        ("key:writer", "by_key"),
    ],
)
def test_partitions_are_parsed(spec, name) -> None:
    assert parse.partition(spec, num_clients=10, seed=0).name == name
    assert parse.partition("natural", num_clients=10, seed=0) is None


def test_arguments_leave_out_what_is_not_computed() -> None:
    kept = to_arguments(Settings(out=Path("a"), data_dir=Path("b"), debug=True))
    assert kept["data_dir"] == "b"
    assert not {"out", "debug", "resume", "progress"} & set(kept)
