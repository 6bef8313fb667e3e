"""From options and --set to the arguments of a method: where they go, how they are read, and what is refused."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np
import own_things
import pytest
from own_things import LOSS, MODEL, PEOPLE

import fedjaxlite as fl
from fedjaxlite.cli import build, methods, signatures
from fedjaxlite.cli import settings as options
from fedjaxlite.cli.methods import values
from fedjaxlite.cli.settings import Settings


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The module of a user's package in the working directory."""
    return own_things.package(tmp_path, monkeypatch)


def given(algorithm: str, *words: str, **options) -> dict:
    """The arguments that a method gets."""
    settings = Settings(algorithm=algorithm, set=list(words), **options)
    return methods.arguments_of(methods.find(algorithm), settings, methods.Facts(PEOPLE, MODEL, 0.1, 5))


def step_of(optimizer) -> float:
    """How far an optimizer goes along a gradient of 1."""
    with jax.numpy_dtype_promotion("standard"):
        one = jax.numpy.float32(1)
        return -float(optimizer.update(one, optimizer.init(one), one)[0])


def test_options_go_where_a_method_has_something_of_their_meaning() -> None:
    found = given("scaffold", client_lr=0.3, server_lr=0.5, epochs=2, batch_size="inf")
    assert found == {"client_lr": 0.3, "server_lr": 0.5, "epochs": 2, "batch_size": None, "num_clients": 4}
    assert given("scaffold") == {"client_lr": 0.1, "epochs": 5, "num_clients": 4}
    found = given("fed_prox", "mu=0.1", client_lr=0.3, server_optimizer="sgd", server_lr=0.5)
    assert step_of(found["client_optimizer"]) == pytest.approx(0.3)
    assert step_of(found["server_optimizer"]) == pytest.approx(0.5)
    assert step_of(given("mime", client_lr=0.3)["base_optimizer"]) == pytest.approx(0.3)
    words = ("lam=1", "eta=0.1", "inner_steps=2")
    assert step_of(given("p_fed_me", *words, client_lr=0.3)["personal_optimizer"]) == pytest.approx(0.3)
    assert step_of(given("ditto", "lam=1", client_lr=0.3)["client_optimizer"]) == pytest.approx(0.3)
    assert "personal_optimizer" not in given("ditto", "lam=1", client_lr=0.3)
    assert step_of(given("fed_sgd", server_lr=0.2)["server_optimizer"]) == pytest.approx(0.2)
    assert given("afl", "lambda_lr=0.1")["groups"].tolist() == [0, 1, 2, 3]
    assert "epochs" not in given("fed_avg", "steps=7")
    assert given("ifca", "num_clusters=2", "averaging=gradient", server_lr=0.1).keys() == {
        "num_clusters", "averaging", "server_optimizer",
    }  # fmt: skip


def test_values_are_read_as_signatures_say() -> None:
    found = given(
        "fed_rep", "head=last_layer", "head_steps=3", "shuffle=false", "lower=auto", "batch-size=none",
        "head_optimizer=adam:0.01,b1=0.5", "server_optimizer=none",
    )  # fmt: skip
    assert found["head"](("dense_1", "bias"), None)
    assert not found["head"](("dense_0", "bias"), None)
    assert (found["head_steps"], found["shuffle"], found["lower"], found["batch_size"]) == (3, False, "auto", None)
    assert found["server_optimizer"] is None
    assert step_of(found["head_optimizer"]) == pytest.approx(0.01, rel=1e-3)
    assert given("scaffold", "option=1")["option"] == 1
    assert given("afl", "lambda_lr=0.1", "groups=[0,0,1,1]")["groups"] == [0, 0, 1, 1]


def test_a_rate_may_be_a_schedule_of_ones_own(mine) -> None:
    assert given("scaffold", f"server_lr={mine}:falling")["server_lr"](3) == 0.25
    settings = Settings(algorithm="scaffold", set=[f"server_lr={mine}:falling"])
    assert build.algorithm_of(settings, LOSS, PEOPLE, model=MODEL).name == "scaffold"


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("none", str | None, None),
        ("batch", str | None, "batch"),
        ("64x10", tuple[int, ...], (64, 10)),
        ("(64, 10)", tuple[int, ...], (64, 10)),
        ("7", tuple[int, ...], (7,)),
        ("0.1x0.5", Sequence[float], (0.1, 0.5)),
        ("1", float, 1),
        ("1e-3", float | None, 0.001),
        ("true", bool, True),
        ("[1,2,3]", Any, [1, 2, 3]),
        ("fo", Literal["fo", "hf"], "fo"),
        ("0.5", signatures.EMPTY, 0.5),
    ],
)
def test_a_text_is_what_its_annotation_says(text, annotation, value) -> None:
    found = signatures.typed("--set a", text, annotation)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "annotation", "told"),
    [
        ("1.5", int, "--set a is '1.5'; expected an int."),
        ("true", float, "--set a is 'true'; expected a number."),
        ("none", int, "expected an int."),
        ("", tuple[int, ...], "expected numbers with x between, such as 64x10."),
        ("3", Literal["fo", "hf"], "expected fo or hf."),
        ("much", Callable[..., Any], "expected a function, package.module:name."),
    ],
)
def test_a_text_that_is_nothing_of_its_annotation_is_refused(text, annotation, told) -> None:
    with pytest.raises(ValueError) as refusal:
        signatures.typed("--set a", text, annotation)
    assert told in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("last_layer", ["dense_1"]),
        ("dense_0", ["dense_0"]),
        ("dense_0+last-layer", ["dense_0", "dense_1"]),
        ("not:last_layer", ["dense_0", "norm_0"]),
        ("not:dense_0+norm_layers", ["dense_1"]),
        ("norm_layers", ["norm_0"]),
    ],
)
def test_leaves_by_name(text, chosen) -> None:
    where = values.leaves("--set head", text, MODEL, PEOPLE.features)
    assert [name for name in ("dense_0", "dense_1", "norm_0") if where((name, "bias"), None)] == chosen


def test_optimizers_stand_in_a_row_and_may_be_ones_own(mine) -> None:
    assert step_of(values.optimizer("--set a", "clip_by_global_norm:0.5+sgd:0.1")) == pytest.approx(0.05)
    assert step_of(values.optimizer("--set a", f"{mine}:adam")) == pytest.approx(0.01, rel=1e-3)
    assert {"sgd", "adam", "adamw", "rmsprop", "lion"} <= values.optimizers().keys()


def test_a_method_inside_of_another_is_set_by_a_dot() -> None:
    settings = Settings(algorithm="fine_tuned", set=["algorithm=fed_prox", "algorithm.mu=0.5", "epochs=2"], epochs=3)
    made = build.algorithm_of(settings, LOSS, PEOPLE, model=MODEL)
    assert made.name == "fine_tuned(fed_prox)"
    assert (made.hparams["mu"], made.hparams["epochs"], made.hparams["fine_tuning_epochs"]) == (0.5, 3, 2)
    settings = Settings(algorithm="lora", set=["rank=2", "alpha=4", "make=scaffold", "make.server_lr=0.5"])
    made = build.algorithm_of(settings, LOSS, PEOPLE, model=MODEL)
    assert (made.name, made.hparams["server_lr"], made.hparams["num_clients"]) == ("lora(scaffold)", 0.5, 4)


def test_overrides_win_and_may_be_traced() -> None:
    settings = Settings(algorithm="fed_prox", set=["mu=0.1"], client_lr=0.3)
    made = build.algorithm_of(settings, LOSS, PEOPLE, model=MODEL, mu=0.7, epochs=2)
    assert (made.hparams["mu"], made.hparams["epochs"]) == (0.7, 2)

    def far(client_lr: jax.Array, server_lr: jax.Array, mu: jax.Array) -> jax.Array:
        traced = build.algorithm_of(
            settings, LOSS, PEOPLE, model=MODEL, client_lr=client_lr, server_lr=server_lr, mu=mu
        )
        run = fl.rounds(traced, sampler=fl.sampling.full(4), aggregator=fl.weighted_mean())
        params = MODEL.init(jax.random.key(0))
        state = traced.init(params)
        assert run is not None
        delta = jax.tree.map(jax.numpy.ones_like, params)
        moved = traced.server_update(state, fl.Aggregate(delta, 1.0, jax.numpy.int32(1), {}), jax.random.key(1))
        return jax.tree.leaves(params)[0][0] - jax.tree.leaves(moved.params)[0][0]

    rates = jax.numpy.float32([0.5, 2.0])
    np.testing.assert_allclose(jax.vmap(far)(rates, rates, rates), rates, rtol=1e-5)


def test_options_of_the_file_give_way_one_by_one(tmp_path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[arguments]\nalgorithm = "ditto"\nset = ["lam=0.1", "steps=3"]\n')
    assert options.from_file(path, {}).set == ["lam=0.1", "steps=3"]
    assert options.from_file(path, {"set": ["lam=0.2"]}).set == ["steps=3", "lam=0.2"]
    assert options.from_file(path, {"algorithm": "fed_prox", "set": ["mu=1"]}).set == ["mu=1"]
    assert options.from_file(path, {"algorithm": "fed_avg"}).set is None


# Refusals


@pytest.mark.parametrize(
    ("algorithm", "words", "options", "told"),
    [
        ("scafold", (), {}, "expected one of afl, apfl, di_lo_co, ditto"),
        ("scafold", (), {}, "Did you mean scaffold?"),
        ("scaffold:1", (), {}, "give hyperparameters by --set NAME=VALUE"),
        ("analytics", (), {}, "which sums over clients and trains no model"),
        ("fed_avg_of", (), {}, "which takes a local training of your own"),
        ("scheduled", (), {}, "which takes functions of the round"),
        ("fed_prox", ("mo=0.1",), {}, "--set gives mo; fed_prox takes mu, client_optimizer"),
        ("fed_prox", ("mo=0.1",), {}, "Did you mean mu?"),
        ("fed_adam", ("serverlr=0.1",), {}, "Did you mean server_lr?"),
        ("fed_avg", ("server_lr=1",), {}, "It is an option of its own: --server-lr."),
        ("fed_prox", ("mu",), {}, "--set is 'mu'; expected NAME=VALUE, such as mu=0.1"),
        ("fed_prox", ("mu=1", "mu=2"), {}, "--set gives mu twice"),
        ("fed_prox", (), {}, "fed_prox needs mu; give --set mu=MU."),
        ("fed_rep", (), {}, "fed_rep needs head; give --set head=last_layer."),
        ("fed_adam", (), {}, "fed_adam needs server_lr"),
        ("fed_prox", ("mu=much",), {}, "--algorithm fed_prox: `mu` is 'much'"),
        ("fed_prox", ("mu=-1",), {}, "--algorithm fed_prox: `mu` is -1"),
        ("fed_prox", ("mu=1", "steps=few"), {}, "--set steps is 'few'; expected an int or none"),
        ("fed_prox", ("mu=1", "shuffle=maybe"), {}, "--set shuffle is 'maybe'; expected true or false"),
        ("scaffold", ("option=3",), {}, "--set option is '3'; expected 1 or 2"),
        ("fed_prox", ("mu=1", "lower=never"), {}, "expected true or false or auto"),
        ("ditto", ("lam=1", "personal_optimizer=adm:0.1"), {}, "Did you mean adam?"),
        ("ditto", ("lam=1", "personal_optimizer=adam"), {}, "names adam without learning_rate; write adam:LEARNING_RATE"),
        ("ditto", ("lam=1", "personal_optimizer=adam:fast"), {}, "has learning_rate='fast'; expected a number"),
        ("ditto", ("lam=1", "personal_optimizer=sgd:-1"), {}, "has the rate -1; expected a finite number above 0"),
        ("ditto", ("lam=1", "personal_optimizer=sgd:0.1,moment=1"), {}, "Did you mean momentum?"),
        ("fed_rep", ("head=",), {}, "--set head is ''; expected last_layer, norm_layers or names of layers"),
        ("fed_sgd", (), {"client_lr": 0.1}, "--client-lr was given, and fed_sgd has no use for it"),
        ("fed_sgd", (), {"epochs": 2}, "--epochs was given, and fed_sgd has no use for it"),
        ("q_fed_avg", ("q=1",), {"server_lr": 0.1}, "--server-lr was given, and q_fed_avg has no use for it"),
        ("scaffold", (), {"server_optimizer": "adam"}, "--server-optimizer was given, and scaffold has no use for it"),
        ("scaffold", ("client_lr=0.1",), {"client_lr": 0.2}, "--client-lr and --set client_lr were both given"),
        ("fed_avg", ("client_optimizer=sgd:1",), {"client_lr": 0.2}, "--client-lr and --set client_optimizer were both"),
        ("fed_avg", ("server_optimizer=sgd:1",), {"server_lr": 0.2}, "--server-lr and --set server_optimizer were both"),
        ("fed_avg", ("epochs=1",), {"epochs": 2}, "--epochs and --set epochs were both given"),
        ("fed_avg", ("steps=1",), {"epochs": 2}, "--epochs is 2 and --set steps=1; give one of them"),
        ("fine_tuned", ("algorithm=ifca",), {}, "--set algorithm is 'ifca', which fine_tuned cannot have inside"),
        ("fine_tuned", ("algorithm=fed_prx",), {}, "--set algorithm is 'fed_prx'; expected one of"),
        ("fine_tuned", ("algorithm.mu=1",), {}, "--set gives algorithm.mu; fed_avg takes"),
        ("fine_tuned", ("algorithm=fed_prox",), {}, "fed_prox needs mu; give --set algorithm.mu=MU"),
        ("ifca", ("num_clusters=2", "averaging=gradient"), {"epochs": 2}, "--epochs was given, and ifca has no use"),
    ],
)  # fmt: skip
def test_what_does_not_fit_a_method_is_refused(algorithm, words, options, told) -> None:
    settings = Settings(algorithm=algorithm, set=list(words), **options)
    with pytest.raises(ValueError) as refusal:
        build.algorithm_of(settings, LOSS, PEOPLE, model=MODEL)
    assert told in str(refusal.value)
