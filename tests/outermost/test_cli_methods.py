"""Every method from the command line: runs on the digits that go on and repeat, and what is told of each."""

import tomllib
from typing import Any

import jax
import numpy as np
import pytest
from helpers import some_often
from test_cli import call, refused
from test_cli_compress import told_by

from fedjaxlite import algorithms
from fedjaxlite.cli import build, methods
from fedjaxlite.cli.methods import cost_table, counting, known, listing, start
from fedjaxlite.cli.settings import Settings

FEW = ["--model", "mlp:features=4x10", "--clients", 6, "--cohort", 2, "--devices", 1, "--no-progress"]
"""Few clients, and a model of two layers, so that one of them can be personal."""
NO_EPOCHS = ("fed_sgd", "q_fed_sgd", "k_means", "streaming_di_lo_co")
SHORT = {"p_fed_me": ("inner_steps=5",), "fed_kseed": ("num_seeds=16",)}
METHODS = tuple(known.known())


def words_of(name: str) -> list[str]:
    return [
        *cost_table.COSTS[name].set,
        *(word for word in SHORT.get(name, ()) if word not in cost_table.COSTS[name].set),
    ]


def options_of(name: str) -> list[object]:
    """The options with which a method runs in seconds."""
    epochs = [] if name in NO_EPOCHS else ["--epochs", 1]
    return ["--algorithm", name, *FEW, *epochs, *(part for word in words_of(name) for part in ("--set", word))]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if i % 6 == 0 else [pytest.mark.slow]) for i, name in enumerate(METHODS)]
)
@pytest.mark.whole
def test_every_method_runs_goes_on_and_repeats(name, tmp_path) -> None:
    out, again = tmp_path / "run", tmp_path / "again"
    call("run", *options_of(name), "--rounds", 1, "--out", out)
    call("run", "--resume", out, "--rounds", 2, "--no-progress")
    config = tomllib.loads((out / "config.toml").read_text())
    assert config["arguments"]["algorithm"] == name
    assert config["arguments"].get("set", []) == words_of(name)
    call("run", "--config", out / "config.toml", "--rounds", 2, "--out", again, "--no-progress")
    found = told_by(out)
    assert [record["round"] for record in found] == [1, 2]
    assert told_by(again) == found
    measured = [value for key, value in found[-1].items() if key.endswith("_loss")]
    assert measured
    assert np.isfinite(measured).all()


@pytest.fixture(scope="module")
def digits() -> tuple[Any, Any, Any]:
    """Six clients' digits, a model with a start that compiles nothing, and its loss."""
    settings = build.filled(Settings(model="mlp:features=4x10", clients=6))
    people = build.load(settings).train
    model = build.model_of(settings, people)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    draw = lambda key: jax.tree.map(lambda leaf: jax.random.normal(key, leaf.shape), shapes)  # noqa: E731
    return people, model._replace(init=draw), build.loss_of(settings, model, people)


@pytest.mark.parametrize("name", some_often(METHODS, 4))
def test_every_method_is_built_from_the_options_of_its_example(name, digits) -> None:
    """And its rounds are traced, for every client of a population."""
    people, model, loss_fn = digits
    settings = build.filled(Settings(algorithm=name, set=words_of(name), clients=6, cohort=2, devices=1))
    algorithm = build.algorithm_of(settings, loss_fn, people, model=model)
    arguments = methods.arguments_of(methods.find(name), settings, methods.Facts(people, model, 0.1, 5))
    params = methods.first_params(methods.find(name), arguments, model.init, people, jax.random.key(0))
    build.rounds_of(settings, algorithm, people).init(params, people, key=jax.random.key(1))
    inner = {"fine_tuned": "fine_tuned(fed_avg)", "lora": "lora(fed_avg)"}
    assert algorithm.name == inner.get(name, name)
    assert start.keeps_models(algorithm, params) == cost_table.COSTS[name].personal


def test_the_list_has_every_method_that_trains_and_says_why_others_are_not_there() -> None:
    assert set(cost_table.COSTS) == set(METHODS), (
        "fedjaxlite/cli/methods/cost_table.py says what a method costs, and how to try it"
    )
    told = call("methods")
    assert max(map(len, told.splitlines())) <= listing.WIDTH
    for name in METHODS:
        assert f"\n{name} " in told
    makes = {n for n in algorithms.__all__ if known._is_method(getattr(algorithms, n))}
    assert makes == {*METHODS, *known.REFUSED} - {"lora", "analytics"}
    for name in known.REFUSED:
        assert f"algorithms.{name}" in told
    assert "--set" in told


@pytest.mark.parametrize("name", METHODS)
def test_a_method_in_full(name) -> None:
    told = call("methods", name)
    assert max(map(len, told.splitlines())) <= 120
    method = known.find(name)
    assert listing.source(method)
    for parameter in method.parameters:
        assert f"\n  {parameter}" in told
        assert listing._arguments(method)[parameter]
    assert listing.command(method) in told


def test_a_list_of_one_names_the_nearest() -> None:
    assert "Did you mean ditto?" in refused("methods", "dito")


@pytest.mark.parametrize("name", some_often(METHODS, 2, first=1))
def test_the_costs_that_are_told_are_those_of_the_wire(name) -> None:
    found, told = counting.traffic_of(known.find(name), [*cost_table.COSTS[name].set]), cost_table.COSTS[name]
    assert tuple(float(f"{value:.2g}") for value in found) == (told.up, told.down, told.kept)


COUNTED = [name for name in METHODS if name != "k_means"]


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n == "ditto" else pytest.mark.slow) for n in COUNTED])
def test_the_gradients_that_are_told_are_those_that_are_computed(name) -> None:
    assert counting.passes_of(known.find(name), [*cost_table.COSTS[name].set]).told() == cost_table.COSTS[name].passes
