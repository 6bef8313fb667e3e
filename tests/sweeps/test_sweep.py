"""Sweeps: the runs are those that one makes one by one, and what is said of them follows from their values."""

import contextlib
import functools
import time
from collections.abc import Iterator
from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import fedjaxlite as fl
from fedjaxlite import algorithms, privacy
from fedjaxlite.sweeps.grid import may_be_traced

PEOPLE = helpers.regression((4, 9, 1, 6, 2, 8))
LOSS = fl.evaluate(helpers.linear_loss, PEOPLE)


def init(key: jax.Array) -> Any:
    return {"w": jax.random.normal(key, (3,)), "b": jnp.float32(0)}


def make(client_lr: Any = 0.02, batch_size: int = 4, momentum: Any = 0.0) -> fl.Rounds:
    algorithm = algorithms.fed_avg(
        helpers.linear_loss, client_optimizer=optax.sgd(client_lr, momentum), batch_size=batch_size
    )
    return fl.rounds(algorithm, sampler=fl.sampling.uniform(3, dropout=0.2), aggregator=fl.weighted_mean())


def sent(client_lr: Any = 0.02) -> fl.Rounds:
    """Where nothing is asked about training."""
    return fl.rounds(
        helpers.sends(client_lr), sampler=fl.sampling.uniform(3, dropout=0.2), aggregator=fl.weighted_mean()
    )


def private(noise_multiplier: Any = 0.5, client_lr: Any = 0.02) -> fl.Rounds:
    algorithm = algorithms.fed_avg(helpers.linear_loss, client_optimizer=optax.sgd(client_lr), batch_size=4)
    chain = fl.chain(fl.mean(over=3), privacy.gaussian(clip_norm=1.0, noise_multiplier=noise_multiplier))
    return fl.rounds(algorithm, sampler=fl.sampling.poisson(0.5, 6), aggregator=chain)


def swept(grid: Any, maker: Any = make, **options: Any) -> fl.Sweep:
    options = {
        "init": init,
        "population": PEOPLE,
        "num_rounds": 4,
        "seeds": 2,
        "progress": False,
        "devices": 1,
        **options,
    }
    return fl.sweep(maker, grid, **options)


def alone(rounds: fl.Rounds, seed: int, num_rounds: int = 4, noise_key: Any = None) -> list[dict[str, float]]:
    """One run by `fl.train` on one device, begun as the docstring of `fl.sweep` says."""
    rounds = fl.rounds(rounds.algorithm, sampler=rounds.sampler, aggregator=rounds.aggregator, execution=helpers.ONE)
    first, own, _ = jax.random.split(jax.random.key(seed), 3)
    state = rounds.init(init(first), PEOPLE, key=own, noise_key=noise_key)
    return fl.train(rounds, state, PEOPLE, num_rounds=num_rounds, evaluate=LOSS, progress=False).records


GRID = {"client_lr": [0.01, 0.05], "batch_size": [2, 4], "momentum": [0.0, 0.5]}


@functools.cache
def points() -> fl.Sweep:
    return swept(GRID, evaluate=LOSS, evaluate_every=2, select="test_loss")


# The runs


def test_every_run_of_a_sweep_is_the_run_that_one_makes_by_itself() -> None:
    assert points().rounds.tolist() == [2, 4]
    the_runs_of_a_point_are_those_by_themselves(7)


@pytest.mark.slow
def test_runs_of_the_first_point_are_those_by_themselves_too() -> None:
    the_runs_of_a_point_are_those_by_themselves(0)


def the_runs_of_a_point_are_those_by_themselves(place: int) -> None:
    found = points()
    rounds = make(**found.points[place])
    for index, seed in enumerate(found.seeds):
        records = alone(rounds, seed)
        for name in ("test_loss", "loss"):
            np.testing.assert_allclose(
                found.curves[name][place, index], [r[name] for r in records[1::2]], rtol=1e-6, atol=1e-6
            )


def test_numbers_share_a_program_and_what_decides_about_shapes_has_its_own() -> None:
    found = points()
    assert found.points[1] == {"client_lr": 0.01, "batch_size": 2, "momentum": 0.5}
    assert [group.traced for group in found.groups] == [("client_lr", "momentum")] * 2
    assert [group.points for group in found.groups] == [(0, 1, 4, 5), (2, 3, 6, 7)]
    assert found.programs == 2
    assert found.not_traced == {}


@pytest.mark.parametrize(
    "how",
    [
        {"side_by_side": True, "together": 6, "devices": helpers.available(3)},
        pytest.param({"devices": helpers.available(2)}, marks=pytest.mark.slow),
    ],
    ids=str,
)
@pytest.mark.whole
def test_how_runs_are_laid_out_changes_nothing(how: dict[str, Any]) -> None:
    """Vmapped or not, on several devices, in parts of which the last is filled up."""
    plain, other = points(), swept(GRID, evaluate=LOSS, evaluate_every=2, select="test_loss", **how)
    assert list(plain.curves) == list(other.curves)
    for name in plain.curves:
        np.testing.assert_allclose(plain.curves[name], other.curves[name], rtol=1e-6, atol=1e-6)
    for one, two in zip(jax.tree.leaves(plain.kept), jax.tree.leaves(other.kept), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.whole
def test_what_needs_a_plain_number_has_a_program_for_each_and_says_so() -> None:
    def needs_a_number(client_lr: Any, decay: float) -> fl.Rounds:
        return make(client_lr * float(decay))

    found = swept({"client_lr": [0.01, 0.05], "decay": [0.5, 1.0]}, needs_a_number, evaluate=LOSS, seeds=1)
    assert [group.traced for group in found.groups] == [("client_lr",)] * 2
    assert list(found.not_traced) == ["decay"]
    assert "ConcretizationTypeError" in found.not_traced["decay"]
    assert found.final("test_loss")[0, 0] == pytest.approx(alone(make(0.005), 0)[-1]["test_loss"], rel=1e-6)


@pytest.mark.whole
def test_nothing_is_traced_where_it_is_not_wanted_and_ints_are_where_they_are() -> None:
    def steps(epochs: Any) -> fl.Rounds:
        algorithm = algorithms.fed_avg(
            helpers.linear_loss, client_optimizer=optax.sgd(0.05), batch_size=4, epochs=epochs
        )
        return fl.rounds(algorithm, sampler=fl.sampling.full(6), aggregator=fl.weighted_mean())

    apart, one = (
        swept({"epochs": [1, 3]}, steps, evaluate=LOSS, traced=traced, seeds=1) for traced in (None, ["epochs"])
    )
    assert (apart.programs, one.programs) == (2, 1)
    np.testing.assert_allclose(apart.final("test_loss"), one.final("test_loss"), rtol=1e-6)
    assert may_be_traced(({"lr": 0.1}, {"lr": 0.2}), ()) == ()
    assert may_be_traced(({"lr": 0.1}, {"lr": 0.1}), None) == ()  # one value: a number
    assert may_be_traced(({"lr": 0}, {"lr": 0.5}), None) == ("lr",)
    assert may_be_traced(({"lr": None}, {"lr": 0.5}), None) == ()


def test_a_traced_number_promotes_as_the_number_would() -> None:
    """A strong float32 would make the bfloat16 parameters float32, which the engine refuses."""
    seen = []

    def half(scale: Any) -> fl.Rounds:
        seen.append((scale * jnp.ones(2, jnp.bfloat16)).dtype)
        return sent(0.01)

    assert swept({"scale": [0.5, 1.0]}, half).programs == 1
    assert set(seen) == {jnp.dtype(jnp.bfloat16)}


# Evaluations


@pytest.mark.whole
def test_reports_and_states_are_measured_on_the_host() -> None:
    own = lambda rounds: fl.evaluate_clients(helpers.linear_loss, PEOPLE, rounds=rounds)  # noqa: E731
    maker = lambda rate: fl.rounds(  # noqa: E731
        helpers.local_momentum(rate), sampler=fl.sampling.full(6), aggregator=fl.weighted_mean()
    )
    found = swept(
        {"rate": [0.01, 0.05]},
        maker,
        evaluate={"test": LOSS, "report": fl.evaluate_clients(helpers.linear_loss, PEOPLE)},
        evaluate_state={"own": own},
        select="own_loss_worst10",
        keep="states",
    )
    np.testing.assert_allclose(found.final("report_loss"), found.final("test_loss"), rtol=1e-5)
    for place, point in enumerate(found.points):
        for index in range(2):
            report = own(maker(**point))(found.kept[place][index])
            assert found.final("own_loss_worst10")[place, index] == pytest.approx(report.summary()["loss_worst10"])
    assert found.better == "lower"


@pytest.mark.whole
def test_the_best_is_chosen_on_clients_that_nobody_trained_on() -> None:
    found = swept(
        {"client_lr": [1e-4, 0.05, 0.02]}, evaluate=LOSS, validation=0.34, validation_seed=3, loss=helpers.linear_loss
    )
    trained, held = fl.partition.holdout_clients(PEOPLE, fraction=0.34, seed=3)
    direct = swept(
        {"client_lr": [1e-4, 0.05, 0.02]}, population=trained, evaluate=fl.evaluate(helpers.linear_loss, held)
    )
    np.testing.assert_array_equal(found.final("validation_loss"), direct.final("test_loss"))  # trained on the same
    assert (found.select, found.better) == ("validation_loss", "lower")
    assert found.best == int(np.argmin(found.final("validation_loss").mean(1)))
    assert found.best_point == found.points[found.best]
    assert direct.best is None
    assert "No best: there is nothing to choose by." in direct.table()


def test_a_point_with_a_seed_that_is_lost_is_never_the_best() -> None:
    found = points()._replace(curves={"test_loss": np.array([[[1.0], [np.nan]], [[3.0], [3.0]], [[2.0], [np.inf]]])})
    assert found._replace(better="lower").best == 1
    down = found._replace(curves={"test_loss": np.array([[[1.0], [-np.inf]], [[3.0], [3.0]]])}, better="lower")
    assert down.best == 1
    assert found._replace(better="higher").best == 1
    assert found._replace(curves={"test_loss": np.full((8, 2, 1), np.nan)}).best is None


# What is said of them


def test_intervals_are_students_over_seeds() -> None:
    values = np.array([[[1.0], [2.0], [4.0]], [[2.0], [2.0], [2.0]]])
    found = points()._replace(points=({"a": 1}, {"a": 2}), seeds=(0, 1, 2), curves={"m": values}, select=None)
    half = stats.t.ppf(0.975, 2) * np.std([1, 2, 4], ddof=1) / np.sqrt(3)
    assert found.intervals("m")[0] == pytest.approx((7 / 3, half))
    assert found.intervals("m")[1] == (2.0, 0.0)


def test_the_table_shows_every_point_and_marks_the_best() -> None:
    found = points()
    lines = found.table().splitlines()
    assert lines[0] == "| client_lr | batch_size | momentum | test_loss |"
    assert len(lines) == 2 + 8 + 2
    bold = [place for place, line in enumerate(lines[2:10]) if line.startswith("| **")]
    assert bold == [found.best]
    mean, half = found.intervals("test_loss")[0]
    assert lines[2] == f"| 0.01 | 2 | 0 | {mean:.3g} ± {half:.2g} |"
    assert "16 runs in 2 programs" in lines[-1]
    assert f"Best by the lowest test_loss: client_lr={found.best_point['client_lr']:g}" in lines[-1]
    assert str(found) == found.table()
    lost = found._replace(
        curves={"test_loss": np.where(np.arange(2)[None, :, None] == 0, np.nan, 1.0) * np.ones((8, 2, 2))}
    )
    assert "| 1 (1 of 2 seeds finite) |" in lost.table()


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_frame_has_a_row_for_every_point_seed_and_round(library: str) -> None:
    found = points()
    frame = found.to_frame(library)
    assert frame.shape == (8 * 2 * 2, 3 + 2 + len(found.curves))
    rows = frame.to_dict("records") if library == "pandas" else frame.to_dicts()
    for row in rows:
        place = found.points.index({name: row[name] for name in ("client_lr", "batch_size", "momentum")})
        time = found.rounds.tolist().index(row["round"])
        assert row["test_loss"] == found.curves["test_loss"][place, row["seed"], time]


def test_the_picture_has_a_line_for_every_point(tmp_path) -> None:
    figure = points().plot(path=tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").stat().st_size > 1000
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert sum("(best)" in label for label in labels) == 1
    last = points()._replace(rounds=np.array([4]), curves={"test_loss": points().curves["test_loss"][..., -1:]})
    assert next(label.get_text() for label in last.plot().axes[0].get_xticklabels()).startswith("client_lr=0.01")


# Privacy


@pytest.mark.whole
def test_private_runs_have_a_secret_each_and_other_noise() -> None:
    found = swept({"client_lr": [1e-6, 1e-7]}, private, seeds=[3, 4], keep="states")
    states = [state for row in found.kept for state in row]
    assert all(bool(state.keys.secret) and bool(state.keys.secret_cohorts) for state in states)
    biases = [float(state.params["b"]) for state in states]
    assert len(set(biases)) == 4  # with next to no training, what differs is the noise


@pytest.mark.whole
def test_noise_of_a_key_can_be_repeated_and_is_that_of_single_runs() -> None:
    grid, key = {"noise_multiplier": [0.1, 0.5]}, jax.random.key(7)
    found = swept(grid, private, noise_key=key, evaluate=LOSS, keep="states")
    assert found.groups[0].traced == ("noise_multiplier",)
    for place, point in enumerate(found.points[1:], 1):
        for seed in (0, 1):
            records = alone(private(**point), seed, noise_key=jax.random.fold_in(key, seed))
            assert found.final("test_loss")[place, seed] == pytest.approx(records[-1]["test_loss"], rel=1e-6)
    state = found.kept[1][0]
    assert not state.keys.secret
    # The ledger knows the point's own noise, though the program took it as a tracer.
    assert not state.ledger.last.traced
    assert '"0.5"' in state.ledger.last.facts


def test_keys_of_noise_that_are_given_are_one_a_run() -> None:
    with pytest.raises(
        ValueError, match=r"NoiseKeys of 3 runs, and there are 2 points with 2 seeds; expected fl.noise_keys\(4\)"
    ):
        swept({"client_lr": [0.01, 0.02]}, private, noise_key=fl.noise_keys(3))


def test_a_cohort_that_overflows_is_an_error() -> None:
    def maker(client_lr: Any) -> fl.Rounds:
        return fl.rounds(
            helpers.sends(client_lr),
            sampler=fl.sampling.poisson(0.9, 1, max_overflow=1.0),
            aggregator=fl.weighted_mean(),
        )

    with pytest.raises(RuntimeError, match="found no slot in poisson.* capacity of 1"):
        swept({"client_lr": [0.01, 0.05]}, maker)


# What is refused


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"grid": {"clientlr": [0.1]}},
            "names 'clientlr', and `make` takes client_lr, batch_size, momentum. Did you mean 'client_lr'?",
        ),
        ({"grid": {"client_lr": 0.1}}, "`grid\\['client_lr'\\]` is 0.1; expected a list of values"),
        ({"grid": {"client_lr": "0.1"}}, "expected a list of values"),
        ({"grid": {"client_lr": []}}, "is empty; expected at least one value"),
        ({"grid": {"client_lr": [0.1, 0.1]}}, "the point client_lr=0.1 twice"),
        ({"grid": 3}, "`grid` is 3; expected a dict"),
        ({"grid": [{"client_lr": 0.1}, {"momentum": 0.1}]}, "`grid\\[1\\]` has momentum, and `grid\\[0\\]` client_lr"),
        ({"seeds": []}, "expected at least one seed"),
        ({"seeds": [1, 1]}, "none of them twice"),
        ({"seeds": 0}, "`seeds` is 0; expected an int of at least 1"),
        ({"init": 3}, "`init` is 3; expected a function of \\(key\\). Parameters that are there"),
        ({"validation": 0.5}, "`loss` is .*expected a function of .*give loss=model"),
        ({"loss": helpers.linear_loss}, "`loss` says what `validation` measures, and no clients are held out"),
        (
            {"evaluate_state": lambda rounds: None},
            "what `evaluate_state` made for 'clients'` is None; expected a function",
        ),
        ({"validation": 1.5, "loss": helpers.linear_loss}, "`validation` is 1.5"),
        (
            {"make": sent, "evaluate": LOSS, "select": "test_los"},
            "`select` is 'test_los', and measured are local_steps, loss, test_loss. Did you mean 'test_loss'?",
        ),
        ({"make": sent, "select": "f1"}, "measured are local_steps, loss. Name one"),
        ({"traced": ["rate"]}, "`traced` names 'rate'; `grid` has client_lr"),
        ({"traced": "client_lr"}, "expected names"),
        ({"keep": "all"}, "`keep` is 'all'; expected one of 'params', 'states', 'nothing'"),
        ({"devices": 99}, "`devices` is 99, and this process has"),
        ({"together": 0}, "`together` is 0"),
        ({"evaluate": lambda params: 3}, "the evaluation 'test' returned a int; expected a dict of scalars"),
        ({"evaluate": 3}, "`evaluate` is 3; expected a function"),
        ({"population": 3}, "`population` is 3; expected a Population"),
        ({"make": lambda client_lr: 3}, "returned a int; expected what fl.rounds"),
        ({"make": lambda client_lr, mu: 3}, "gives it client_lr: missing a required argument: 'mu'"),
        ({"num_rounds": 0}, "`num_rounds` is 0"),
    ],
)
def test_what_is_wrong_is_said_before_any_training(options: dict[str, Any], text: str) -> None:
    options = {
        "make": make,
        "grid": {"client_lr": [0.01, 0.02]},
        "init": init,
        "population": PEOPLE,
        "num_rounds": 2,
        **options,
    }
    maker, grid = options.pop("make"), options.pop("grid")
    with pytest.raises((ValueError, TypeError), match=text):
        fl.sweep(maker, grid, **{"seeds": 2, "progress": False, **options})


def test_an_error_of_the_user_is_not_taken_for_a_number_that_cannot_be_traced() -> None:
    def wrong(client_lr: Any) -> fl.Rounds:
        algorithm = algorithms.fed_avg(
            lambda params, batch, key: batch["nothing"], client_optimizer=optax.sgd(client_lr)
        )
        return fl.rounds(algorithm, sampler=fl.sampling.full(6), aggregator=fl.weighted_mean())

    with pytest.raises((ValueError, KeyError), match="nothing"):
        swept({"client_lr": [0.01, 0.05]}, wrong)


def test_metrics_of_which_nobody_knows_the_better_way_are_asked_for() -> None:
    mine = lambda params: {"size": jnp.sum(params["w"] ** 2)}  # noqa: E731
    with pytest.raises(ValueError, match="`select` is 'test_size', and nobody says which way it is better"):
        swept({"client_lr": [0.01, 0.05]}, sent, evaluate=mine, select="test_size")
    found = swept({"client_lr": [0.01, 0.05]}, sent, evaluate=mine, select="test_size", better={"size": "lower"})
    assert found.better == "lower"


def test_progress_says_what_runs_and_how_far_it_is_now_and_then(capsys) -> None:
    swept({"client_lr": [0.01, 0.05]}, sent, progress=True, evaluate_every=2)
    assert capsys.readouterr().out.splitlines() == [
        "sweep: 2 points, 2 seeds: compiling",
        "sweep: round 4/4",
    ]


@pytest.mark.slow
def test_fifteen_runs_take_less_time_than_three_by_themselves() -> None:
    """Three rates and five seeds on the digits, compiling included, against three runs by `fl.train`; and are the same."""
    train, test = fl.datasets.load("digits", partition=fl.partition.dirichlet(num_clients=50, alpha=0.3, seed=0))
    model = fl.models.logistic()
    loss_fn = fl.losses.cross_entropy(model)

    def rounds_of(client_lr: Any) -> fl.Rounds:
        algorithm = algorithms.fed_avg(loss_fn, client_optimizer=optax.sgd(client_lr), batch_size=10, epochs=2)
        sampler = fl.sampling.uniform(10)
        return fl.rounds(algorithm, sampler=sampler, aggregator=fl.weighted_mean(), execution=helpers.ONE)

    evaluate = fl.evaluate(model, test)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), uncached():
        began = time.process_time()
        found = swept(
            {"client_lr": [0.01, 0.03, 0.1]},
            rounds_of,
            init=model,
            population=train,
            num_rounds=20,
            seeds=5,
            evaluate=evaluate,
        )
        took = [time.process_time() - began]
        for place, point in enumerate(found.points):
            began = time.process_time()
            rounds = rounds_of(**point)
            first, own, _ = jax.random.split(jax.random.key(place), 3)
            state = rounds.init(model.init(first), train, key=own)
            last = fl.train(
                rounds, state, train, num_rounds=20, evaluate=evaluate, evaluate_every=20, progress=False
            ).records[-1]
            took.append(time.process_time() - began)
            for name in ("test_accuracy", "test_loss"):
                assert found.final(name)[place, place] == pytest.approx(last[name], rel=1e-6, abs=1e-6)
    assert took[0] < sum(took[1:]), took


@contextlib.contextmanager
def uncached() -> Iterator[None]:
    """Compiles anew: what the cache on the disk holds of either would decide."""
    before = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    yield
    jax.config.update("jax_enable_compilation_cache", before)
