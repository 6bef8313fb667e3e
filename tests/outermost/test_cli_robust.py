"""The command line's bad clients: rules and attacks by name, runs under attack, and every refusal."""

import inspect
import tomllib
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_cli import SMALL, call, refused

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.cli import build, robust
from fedjaxlite.cli.settings import Settings
from fedjaxlite.observers import records

TIMES = ("seconds", "elapsed")
FEW = fl.Population.from_arrays(
    {"x": np.zeros((16, 4, 4, 1), np.float32), "y": np.arange(16, dtype=np.int32) % 3}, client_ids=np.arange(16) // 2
)
NEEDED = {
    "backdoor": "target=0",
    "dba": "target=0,parts=2",
    "gaussian": "stddev=1",
    "model_replacement": "boost=8",
}
"""What attacks ask for beside who is bad."""


def told_by(out: Path) -> list[dict[str, Any]]:
    """The records of a run, without the time that it took."""
    return [{k: v for k, v in r.items() if k not in TIMES} for r in records.read(out / "records.jsonl")]


def composed(**options: Any) -> tuple[fl.Algorithm, fl.Aggregator]:
    """The algorithm and the chain that options give, without a run."""
    settings = Settings(cohort=8, **options)._replace(aggregator="mean")
    robust.check(settings)
    honest = algorithms.fed_avg(lambda params, batch, key: (params - batch["y"]) ** 2, client_optimizer=optax.sgd(0.1))
    algorithm = robust.on_algorithm(settings, honest, FEW)
    return algorithm, build.rounds_of(settings, honest, FEW).aggregator


# Names


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "mean"),
        ({"robust": "mean"}, "chain(mean, robust_mean)"),
        ({"robust": "trimmed_mean:f=3"}, "chain(mean, trimmed_mean)"),
        ({"robust": "trimmed_mean:3"}, "chain(mean, trimmed_mean)"),
        ({"robust": " Trimmed-Mean : f = 3", "before": "nnm:f=3"}, "chain(mean, nnm, trimmed_mean)"),
        ({"robust": "median", "before": "norm_filter:9+nnm:f=3"}, "chain(mean, norm_filter, nnm, median)"),
        ({"before": "nnm:f=3"}, "chain(mean, nnm, robust_mean)"),
        (
            {"before": "nnm:3+worker_momentum:0.9", "attack": "alie", "bad": "3"},
            "chain(mean, worker_momentum, alie, nnm, robust_mean)",
        ),
        ({"attack": "alie", "bad": "3"}, "chain(mean, alie, robust_mean)"),
        ({"attack": "alie:z=1.5", "bad": "3", "robust": "median"}, "chain(mean, alie, median)"),
        ({"attack": "optimal_ipm", "bad": "3", "robust": "median"}, "chain(mean, optimal_ipm, median)"),
        ({"attack": "sign_flip", "bad": "3", "robust": "median"}, "chain(mean, median)"),
        ({"attack": "label_flip", "bad": "3"}, "mean"),
        ({"compress": "qsgd:7", "robust": "median"}, "chain(mean, qsgd, median)"),
        ({"clip_norm": 1.0, "attack": "alie", "bad": "3"}, "chain(mean, clip_by_global_norm, alie, robust_mean)"),
    ],
)
def test_chains_by_name(options: dict[str, Any], name: str) -> None:
    assert composed(**options)[1].name == name


@pytest.mark.parametrize(
    ("attack", "names"),
    [
        ("alie", []),
        ("sign_flip:scale=4", ["sign_flip"]),
        ("label_flip", ["label_flip"]),
        ("backdoor:target=0,fraction=0.25+model_replacement:boost=8", ["backdoor", "model_replacement"]),
    ],
)
def test_algorithms_under_attack(attack: str, names: list[str]) -> None:
    algorithm, _ = composed(attack=attack, bad="1,3")
    assert (algorithm.name != "fed_avg") == bool(names)
    for name in names:
        assert name in algorithm.name
        assert algorithm.hparams[name]["bad"] == [1, 3]
    if "backdoor" in names:
        assert (algorithm.hparams["backdoor"]["target"], algorithm.hparams["backdoor"]["fraction"]) == (0, 0.25)


def test_every_rule_and_attack_can_be_named() -> None:
    assert {"median", "trimmed_mean", "krum", "bulyan", "geometric_median", "rlr", "mean"} <= robust.rules().keys()
    assert {"nnm", "bucketing", "norm_filter"} <= robust.steps_before().keys()
    assert {"alie", "ipm", "min_max", "mimic", "sign_flip", "label_flip", "backdoor"} <= robust.attacks().keys()
    assert not {"fl_trust", "zeno_pp", "one_of", "nnm"} & robust.rules().keys()
    assert not {"judged", "edge_case", "one_of"} & robust.attacks().keys()
    for option, table in (("robust", robust.rules()), ("before", robust.steps_before())):
        for name, function in table.items():
            parameters = inspect.signature(function).parameters.items()
            needed = ",".join(
                f"{key}={0.5 if key == 'beta' else 1}" for key, one in parameters if one.default is one.empty
            )
            told = {"async_buffer": 2, "staleness": "told"} if name == "stale_weights" else {}
            assert composed(**{option: f"{name}:{needed}"}, **told)[1].name.startswith("chain(mean, ")
    for name in robust.attacks():
        algorithm, chain = composed(attack=f"{name}:{NEEDED.get(name, '')}", bad="2")
        assert name in algorithm.name + chain.name


def test_rules_and_attacks_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("withstands.py").write_text(
        "import jax, fedjaxlite as fl\n"
        "def largest(state, rows, key):\n"
        "    return jax.tree.map(lambda v: v.max(0), rows.values), state\n"
        "def rule(scale=1.0) -> fl.Aggregator:\n"
        "    return fl.rule(largest, name='largest', hparams={'scale': scale})\n"
        "def lazy(algorithm, bad):\n"
        "    return algorithm._replace(name='lazy')\n"
        "def nothing() -> fl.Aggregator:\n"
        "    return 3\n"
        "three = 3\n"
    )
    algorithm, chain = composed(robust="withstands:rule:scale=2", attack="withstands:lazy", bad="1")
    assert (algorithm.name, chain.name) == ("lazy", "chain(mean, largest)")
    assert chain.hparams["largest"] == {"scale": 2}
    for option, text, told in (
        ("robust", "withstands:nothing", "--robust withstands:nothing gave 3; expected an Aggregator."),
        ("robust", "withstands:three", "--robust is 'withstands:three', which is no function but 3."),
        ("robust", "withstands:rul", "has no 'rul'. Did you mean rule?"),
    ):
        with pytest.raises(ValueError) as refusal:
            composed(**{option: text})
        assert told in str(refusal.value)


# Who is bad


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("3", "3 of 8 clients (0, 1, 2)"),
        ("3,7", "2 of 8 clients (3, 7)"),
        ("7,", "1 of 8 clients (7)"),
        (" 0 , 2 ", "2 of 8 clients (0, 2)"),
        ("0.25", "each of 8 clients with a chance of 0.25 in each round"),
        ("1.0", "each of 8 clients with a chance of 1 in each round"),
    ],
)
def test_who_is_bad(text: str, told: str) -> None:
    settings = Settings(attack="alie", bad=text, robust="median")
    assert robust.told(settings, 8) == f"attack: alie by {told}, against median"
    assert composed(attack="alie", bad=text)[1].name == "chain(mean, alie, robust_mean)"


def test_what_is_told() -> None:
    assert robust.told(Settings(), 8) == ""
    assert robust.told(Settings(robust="median"), 8) == ""
    settings = Settings(attack="label_flip", bad="12")
    ids = ", ".join(str(i) for i in range(10))
    assert robust.told(settings, 20) == f"attack: label_flip by 12 of 20 clients ({ids} ...), against the mean"
    settings = Settings(attack="alie", bad="1", robust="trimmed_mean:f=3", before="nnm:f=3")
    assert robust.told(settings, 8).endswith("against nnm:f=3 and trimmed_mean:f=3")


# Refusals


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--robust", ""], "--robust names ''; expected one of "),
        (["--robust", "medan"], "--robust names 'medan'; expected one of "),
        (["--robust", "medan"], "Did you mean median?"),
        (["--robust", "fl_trust"], "--robust names 'fl_trust'; expected one of "),
        (["--robust", "nnm:f=3"], "--robust names 'nnm'; expected one of "),
        (["--robust", "trimmed_mean"], "--robust names trimmed_mean without f; write trimmed_mean:F."),
        (["--robust", "trimmed_mean:f=3,f=4"], "with f twice; once is enough"),
        (["--robust", "trimmed_mean:g=3"], "trimmed_mean takes f"),
        (["--robust", "trimmed_mean:f=-1"], "--robust trimmed_mean:f=-1: `f` is -1; expected"),
        (["--robust", "trimmed_mean:f=x"], "--robust trimmed_mean:f=x: `f` is 'x'"),
        (["--robust", "trimmed_mean:f=3"], "needs at least 7 clients in a round, and there are at most 4"),
        (
            ["--robust", "median", "--aggregator", "weighted"],
            "`median` counts every client as one: it takes no weights",
        ),
        (["--before", "median"], "--before names 'median'; expected one of "),
        (["--before", "nnm:f=1+"], "--before names ''; expected one of "),
        (["--attack", "alie"], "--attack alie needs --bad, which says who is: 3, or 3,7,9, or 0.1."),
        (["--bad", "3"], "--bad 3 says nothing without --attack; give both."),
        (["--attack", "ali", "--bad", "3"], "--attack names 'ali'; expected one of alie, "),
        (["--attack", "ali", "--bad", "3"], "Did you mean alie?"),
        (["--attack", "judged", "--bad", "3"], "--attack names 'judged'"),
        (["--attack", "alie:bad=3", "--bad", "3"], "--attack gives 'alie:bad=3'; alie takes z"),
        (["--attack", "sign_flip:algorithm=3", "--bad", "3"], "sign_flip takes scale"),
        (["--attack", "backdoor", "--bad", "3"], "--attack names backdoor without target; write backdoor:TARGET."),
        (
            ["--attack", "alie", "--bad", "0"],
            "--bad is '0'; expected how many (3 is the first three clients), or which",
        ),
        (["--attack", "alie", "--bad", ""], "--bad is ''; expected how many"),
        (["--attack", "alie", "--bad", "-1"], "--bad is '-1'; expected how many"),
        (["--attack", "alie", "--bad", "1.5"], "--bad is '1.5'; expected how many"),
        (["--attack", "alie", "--bad", "3,3"], "--bad is '3,3'; expected how many"),
        (["--attack", "alie", "--bad", "3,x"], "--bad is '3,x'; expected how many"),
        (["--attack", "alie", "--bad", "true"], "--bad is 'true'; expected how many"),
        (["--attack", "alie", "--bad", "21"], "--bad 21 names client 20, and there are 20, from 0 on."),
        (["--attack", "alie", "--bad", "3,20"], "--bad 3,20 names client 20, and there are 20"),
        (
            ["--robust", "median", "--secure-sum", "--clip-norm", 1],
            "--robust median needs every message apart, and --secure-sum shows the server their sum alone. Leave one "
            "out; what bounds a bad client behind a sum is --clip-norm.",
        ),
        (
            ["--attack", "alie", "--bad", 3, "--noise-multiplier", 1, "--clip-norm", 1],
            "--attack alie needs every message apart, and --noise-multiplier puts its noise on their sum alone",
        ),
        (["--before", "nnm:f=1", "--epsilon", 3, "--clip-norm", 1], "--before nnm:f=1 needs every message apart, and"),
        (["--sweep", "attack=alie,ali", "--bad", 3], "--attack names 'ali'"),
    ],
)
def test_options_that_do_not_go_together(options: list[Any], told: str, tmp_path: Path) -> None:
    assert told in " ".join(refused("run", *SMALL, "--rounds", 1, *options, "--out", tmp_path / "run").split())


# Runs


@pytest.mark.whole
def test_a_run_under_attack_says_so_repeats_and_goes_on(tmp_path: Path) -> None:
    out, again, long = tmp_path / "run", tmp_path / "again", tmp_path / "long"
    options = ["--cohort", 8, "--robust", "trimmed_mean:f=2", "--before", "nnm:f=2", "--attack", "alie:z=1.5"]
    told = call("run", *SMALL, *options, "--bad", "3,7", "--rounds", 2, "--out", out)
    assert "attack: alie:z=1.5 by 2 of 20 clients (3, 7), against nnm:f=2 and trimmed_mean:f=2" in told
    run = tomllib.loads((out / "config.toml").read_text())
    kept = {name: run["arguments"][name] for name in ("robust", "before", "attack", "bad")}
    assert kept == {"robust": "trimmed_mean:f=2", "before": "nnm:f=2", "attack": "alie:z=1.5", "bad": "3,7"}
    assert run["aggregator"]["alie"] == {"bad": [3, 7], "z": 1.5}
    assert run["aggregator"]["trimmed_mean"]["f"] == 2
    call("run", "--config", out / "config.toml", "--out", again, "--no-progress")
    assert told_by(again) == told_by(out)
    call("run", "--resume", out, "--rounds", 3, "--no-progress")
    call("run", "--config", out / "config.toml", "--rounds", 3, "--out", long, "--no-progress")
    assert told_by(long) == told_by(out)
    call("run", "--config", out / "config.toml", "--robust", "mean", "--out", tmp_path / "mean", "--no-progress")
    assert told_by(tmp_path / "mean") != told_by(again)


@pytest.mark.whole
def test_a_backdoor_is_measured(tmp_path: Path) -> None:
    attack = ["--attack", "backdoor:target=0+model_replacement:boost=10", "--bad", "5,", "--cohort", 20]
    told = call("run", *SMALL, *attack, "--rounds", 4, "--client-lr", 0.3, "--out", tmp_path / "run")
    last = told_by(tmp_path / "run")[-1]
    assert f"backdoor: {last['backdoor_accuracy']:.2%} of triggered examples are taken for the target" in told
    assert last["backdoor_accuracy"] > 0.8


@pytest.mark.whole
def test_attacks_and_rules_can_be_swept_and_planned(tmp_path: Path) -> None:
    grid = ["--sweep", "attack=none;sign_flip:scale=4", "--robust", "median", "--bad", 3]
    told = call("run", *SMALL, *grid, "--rounds", 2, "--seeds", 2, "--validation", 0, "--out", tmp_path / "run")
    assert "| sign_flip:scale=4 |" in told
    assert "| None |" in told
    told = call("plan", *SMALL, "--rounds", 2, "--robust", "median", "--attack", "alie", "--bad", 3)
    assert "attack: alie by 3 of 20 clients (0, 1, 2), against median" in told


def test_the_mean_of_all_alike_is_what_a_rule_gets(tmp_path: Path) -> None:
    assert build.filled(Settings(robust="median")).aggregator == "mean"
    assert build.filled(Settings(robust="median", aggregator="weighted")).aggregator == "weighted"
    assert build.filled(Settings(attack="label_flip", bad="3")).aggregator == "weighted"


def test_a_trigger_is_as_bright_as_the_data() -> None:
    settings = Settings(attack="backdoor:target=1", bad="3")
    test = {"x": 7 * np.ones((6, 4, 4, 1), np.float32), "y": np.arange(6, dtype=np.int32) % 3}
    test["x"][0] = 0
    stamped = robust.triggered(settings, test)
    assert stamped is not None
    assert stamped["y"].tolist() == [1, 1, 1, 1]
    assert (stamped["x"][0, 1:, 1:] == 7).all()
    assert (stamped["x"][0, 0] == 0).all()
    assert robust.triggered(Settings(attack="label_flip", bad="3"), test) is None
    assert jnp.ndim(stamped["x"]) == 4
