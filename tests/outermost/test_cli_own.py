"""What is one's own on the command line: methods, models, losses and data of a module, and what is wrong with them."""

import shlex
import sys
import tomllib
from pathlib import Path

import jax
import markdown_pages as markdown
import numpy as np
import optax
import own_things
import pytest
from own_things import PEOPLE
from test_cli import call, refused
from test_cli_compress import told_by

import fedjaxlite as fl
from fedjaxlite.cli import build, methods, named, signatures
from fedjaxlite.cli.methods import start
from fedjaxlite.cli.settings import Settings


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The module of a user's package in the working directory."""
    return own_things.package(tmp_path, monkeypatch)


@pytest.mark.whole
def test_a_run_of_what_is_ones_own_goes_on_and_repeats(mine, tmp_path) -> None:
    out, again = tmp_path / "run", tmp_path / "again"
    options = [
        "--algorithm", f"{mine}:slower", "--set", "factor=0.25", "--model", f"{mine}:wide:width=6",
        "--loss", f"{mine}:weighted:3", "--dataset", f"{mine}:pair", "--partition", "iid", "--clients", 6,
        "--cohort", 2, "--devices", 1, "--client-lr", 0.2, "--no-progress",
    ]  # fmt: skip
    call("run", *options, "--rounds", 1, "--out", out)
    call("run", "--resume", out, "--rounds", 2, "--no-progress")
    call("run", "--config", out / "config.toml", "--rounds", 2, "--out", again, "--no-progress")
    assert told_by(out) == told_by(again)
    config = tomllib.loads((out / "config.toml").read_text())
    assert config["algorithm"]["name"] == "slower"
    assert config["arguments"]["set"] == ["factor=0.25"]
    assert config["model"]["num_params"] == 5 * 6 + 6 + 6 * 3 + 3
    told = refused("run", "--resume", out, "--rounds", 3, "--set", "factor=0.5", "--no-progress")
    assert "numbers in it: -0.1 where there was -0.05" in told


@pytest.mark.whole
def test_each_clients_own_model_is_evaluated_on_its_own_data(mine, tmp_path) -> None:
    """Numbers to be predicted, by clients that a Population brings along; the records have what Python computes."""
    out = tmp_path / "run"
    told = call(
        "run", "--algorithm", "ditto", "--set", "lam=0.1", "--dataset", f"{mine}:people", "--model", "logistic",
        "--loss", "squared_error", "--client-lr", 0.05, "--cohort", 3, "--rounds", 2, "--devices", 1,
        "--personal-eval", "--no-progress", "--out", out,
    )  # fmt: skip
    assert "test loss" in told
    assert "of clients' own models on their own test parts" in told
    last = told_by(out)[-1]
    assert last["personal_loss"] != last["own_loss"], "that of training is recorded beside that of the evaluation"
    settings = Settings(
        algorithm="ditto", set=["lam=0.1"], dataset=f"{mine}:people", model="logistic", loss="squared_error",
        client_lr=0.05, cohort=3, devices=1, personal_eval=True,
    )  # fmt: skip
    job = build.job(settings)
    state = job.rounds.init(job.params, job.population, key=build.keys(settings)["run"])
    state, _ = job.rounds.steps(state, job.population, 2)
    report = job.evaluate_state["own"](state)
    assert last["own_loss"] == pytest.approx(report.summary()["loss"], rel=1e-5)
    assert set(report.num_examples.tolist()) == {2}
    own = [job.rounds.client_params(state, i) for i in range(6)]
    test = build.load(build.filled(settings)).own_test
    by_hand = []
    for i, params in enumerate(own):
        rows = test.client(i)
        guess = rows["x"] @ np.asarray(params["dense_0"]["kernel"]) + np.asarray(params["dense_0"]["bias"])
        by_hand.append(np.mean((guess[:, 0] - rows["y"]) ** 2))
    np.testing.assert_allclose(report.metrics["loss"], by_hand, rtol=1e-4)


def test_cluster_methods_evaluate_every_cluster() -> None:
    settings = Settings(algorithm="ifca", set=["num_clusters=3"], model="mlp:features=4x10", clients=6, cohort=2)
    job = build.job(settings)
    assert list(job.evaluate) == ["cluster0", "cluster1", "cluster2"]
    losses = [float(evaluate(job.params)["loss"]) for evaluate in job.evaluate.values()]
    model = named.model(settings.model, job.population.features)
    whole = fl.evaluate(fl.losses.cross_entropy(model), build.load(build.filled(settings)).test)
    want = [float(whole(jax.tree.map(lambda leaf, j=j: leaf[j], job.params))["loss"]) for j in range(3)]
    assert losses == pytest.approx(want, rel=1e-6)
    assert len(set(want)) == 3


def test_the_loss_of_k_means_is_the_squared_distance() -> None:
    method = methods.find("k_means")
    centers = np.float32([[0.0] * 8, [1.0] * 8])
    loss = start.loss_of(method, {"num_clusters": 2}, None)
    x = PEOPLE.features["x"]
    want = np.min(((x[:, None] - centers[None]) ** 2).sum(2), axis=1)
    np.testing.assert_allclose(loss(jax.numpy.asarray(centers), {"x": jax.numpy.asarray(x)}, None), want, rtol=1e-5)


def test_a_table_is_a_data_set(tmp_path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        f"{'Bern' if i % 3 else 'Basel'},{rng.normal():.3f},{rng.normal():.3f},{'yes' if i % 2 else 'no'}"
        for i in range(60)
    ]
    path = tmp_path / "visits.csv"
    path.write_text("hospital,age,pressure,ill\n" + "\n".join(rows) + "\n")
    data = build.load(build.filled(Settings(dataset=f"{path}:client=hospital,label=ill", personal_eval=True)))
    assert data.train.num_clients == data.own_test.num_clients == 2
    assert len(data.test["y"]) == 12
    assert data.train.features["x"].shape[1:] == (2,)
    split = build.load(
        build.filled(Settings(dataset=f"{path}:client=hospital,label=ill,test=within,test_fraction=0.5"))
    )
    assert len(split.test["y"]) == 30
    for words, told in (
        ("", "expected the column that says whose a row is, as in"),
        (":client=hospital,labl=ill", "Did you mean label?"),
        (":client=hospitl,label=ill", "hospitl"),
    ):
        with pytest.raises(ValueError, match=told):
            build.load(build.filled(Settings(dataset=f"{path}{words}")))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--algorithm", "fed_prox", "--set", "mo=1"], "Did you mean mu?"),
        (["--algorithm", "scaffold", "--personal-eval"], "scaffold does not. Give one that does"),
        (["--algorithm", "scaffold", "--personal-eval"], "--algorithm fine_tuned --set algorithm=scaffold"),
        (["--algorithm", "ifca", "--set", "num_clusters=2", "--per-client-eval"], "--personal-eval evaluates at each"),
        (["--algorithm", "ifca", "--set", "num_clusters=2", "--warm-start", 0.1], "--warm-start trains one model"),
        (["--algorithm", "ifca", "--set", "num_clusters=2", "--model", "logistic"], "the models of ifca all start equal"),
        (["--algorithm", "k_means", "--set", "num_clusters=2", "--set", "feature=z"], "--set feature is 'z'; the data"),
        (["--algorithm", "fed_per", "--set", "personal=head"], "`personal` chooses none of the leaves"),
        (["--algorithm", "MINE:slowr"], "has no 'slowr'. Did you mean slower?"),
        (["--algorithm", "MINE:NUMBER"], "a int; expected a function of the loss"),
        (["--algorithm", "MINE:no_algorithm"], "gave a int; expected an fl.Algorithm"),
        (["--algorithm", "MINE:nothing_of_a_loss"], "which takes client_lr; expected a function of the loss"),
        (["--algorithm", "MINE:slower", "--set", "fctor=1"], "Did you mean factor?"),
        (["--algorithm", "MINE:slower", "--epochs", 2], "--epochs was given, and MINE:slower has no use for it"),
        (["--algorithm", "nowhere.at_all:mine"], "there is no module 'nowhere' in"),
        (["--algorithm", "PACKAGE.nowhere:mine"], "there is no module 'PACKAGE.nowhere'"),
        (["--algorithm", "PACKAGE.broken:mine"], "imports 'nothing_that_is_installed', which is not here"),
        (["--algorithm", "PACKAGE.wrong:mine"], "cannot be imported: SyntaxError"),
        (["--model", "mpl"], "--model names 'mpl'; expected one of 2nn, lstm, logistic, mlp"),
        (["--model", "mpl"], "Did you mean mlp?"),
        (["--model", "mlp:feature=3"], "mlp takes features, input_shape. Did you mean features?"),
        (["--model", "mlp:features=wide"], "expected numbers with x between, such as 64x10"),
        (["--model", "MINE:no_model"], "gave a int; expected an fl.models.Model"),
        (["--model", "MINE:wide:depth=2"], "wide takes input_shape, num_classes, width"),
        (["--loss", "cross"], "--loss names 'cross'; expected one of"),
        (["--loss", "cross_entropy:smoothing=1"], "label_smoothing, class_weights. Did you mean label_smoothing?"),
        (["--loss", "cross_entropy:label_smoothing=2"], "`label_smoothing` is 2"),
        (["--loss", "MINE:NUMBER"], "a int; expected a function (params, batch, key)"),
        (["--dataset", "MINE:no_data"], "gave dict, int, int; expected (train, test)"),
        (["--dataset", "MINE:pair", "--partition", "natural"], "has no clients of its own"),
        (["--dataset", "MINE:people", "--clients", 3], "has clients of its own; leave it out"),
        (["--dataset", "MINE:people", "--data-dir", "."], "finds its data itself; leave it out"),
        (["--dataset", "MINE:people", "--cohort", 2], "On the command line: --loss"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_plain_message(options, told, mine, tmp_path) -> None:
    package = mine.partition(".")[0]
    fill = lambda text: str(text).replace("MINE", mine).replace("PACKAGE", package)  # noqa: E731
    few = [] if "--dataset" in options else ["--clients", 6]
    cohort = [] if "--cohort" in options else ["--cohort", 2]
    text = refused("run", "--devices", 1, *few, *cohort, *map(fill, options), "--out", tmp_path / "run")
    assert fill(told) in " ".join(text.split())


def test_what_a_population_or_a_model_of_ones_own_may_be(mine) -> None:
    people, none = named.dataset(f"{mine}:people")
    assert none is None
    assert people.num_clients == 6
    features = {"x": np.zeros((4, 5), np.float32), "y": np.zeros(4, np.float32)}
    assert named.model("logistic", features).apply is not None
    assert callable(named.loss(f"{mine}:squared", None, features))
    assert isinstance(signatures.imported("--a", f"{mine}:adam")(), optax.GradientTransformation)


@pytest.mark.whole
def test_the_functions_of_the_page_run_as_its_commands_say(tmp_path, monkeypatch) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "how_to" / "any_method.md"
    program = next(block.text for block in markdown.blocks(page) if block.language == "python")
    (tmp_path / "mine.py").write_text(program)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    lines = [line for block in markdown.blocks(page) if block.language == "sh" for line in block.text.splitlines()]
    mine = [shlex.split(line)[1:] for line in lines if "mine:" in line]
    assert [line[0] for line in mine] == ["run", "run", "methods"]
    few = ["--rounds", 1, "--cohort", 2, "--devices", 1, "--no-progress"]
    for i, line in enumerate(mine):
        call(*line, *([*few, "--out", tmp_path / f"run{i}"] if line[0] == "run" else []))
    assert told_by(tmp_path / "run1")[0]["test_accuracy"] > 0.3
    sys.modules.pop("mine", None)
