"""Tables of papers run again: each at a size of seconds, and what they share."""

import contextlib
import json
from collections.abc import Generator

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from typer.testing import CliRunner

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.cli.app import app
from fedjaxlite.reproduce import catalog, figures, ghosh2020, karimireddy2020, seeds, table, to_target
from fedjaxlite.reproduce import reddi2021_tags as tags
from fedjaxlite.reproduce.seeds import Arguments
from fedjaxlite.reproduce.table import Expected, Row, Table

PEOPLE = helpers.regression((4, 9, 1, 6, 2))


@contextlib.contextmanager
def as_in_programs() -> Generator[None]:
    """JAX as it is outside of the tests; Optax's momentum relies on it."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def call(*arguments: object, code: int = 0) -> str:
    """The output of `fedjaxlite reproduce`, on one line, where it ends with `code`."""
    with as_in_programs():
        result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["reproduce", *map(str, arguments)])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result.output


# Every table.


@pytest.mark.parametrize("name", list(catalog.TABLES))
def test_a_table_runs_and_leaves_everything(name, tmp_path) -> None:
    told = call(name, "--smoke", "--seeds", 2, "--out", tmp_path)
    found = json.loads((tmp_path / f"{name}.json").read_text())
    assert found["name"] == name
    assert found["command"] == f"fedjaxlite reproduce {name} --seeds 2 --smoke"
    assert found["seeds"] == [0, 1]
    assert found["source"]
    assert found["rows"]
    text = (tmp_path / f"{name}.md").read_text()
    for row, cells in found["rows"].items():
        assert f"| {row} |" in text
        assert f"| {row} |" in told
        assert {"jax", "fedjaxlite"} <= cells["versions"].keys()
        assert cells["seconds"] > 0
        assert "CPU" in cells["machine"]
        # A row that forgets its cells would be shown as an empty line.
        assert any(cells.get(column) not in (None, "", []) for column in found["columns"])
    for column in found["columns"]:
        assert any(column in cells for cells in found["rows"].values()), f"no row has {column!r}"
    picture = (tmp_path / f"{name}.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000


@pytest.mark.parametrize("name", list(catalog.TABLES))
def test_a_table_at_its_full_size_is_told_before_it_runs(name) -> None:
    """Its rows, the paper's figures in columns that there are, and how long each takes; without its data sets."""
    made = catalog.load(name, Arguments())
    assert made.name == name
    assert made.note
    assert "http" in made.source or "arXiv" in made.source
    assert len({table.slug(row) for row in made.rows}) == len(made.rows)
    for row in made.rows.values():
        assert row.paper.keys() <= set(made.columns)
        assert row.expected.gpu > 0
        assert row.expected.cpu > 0


# Rows: picked, kept, left out.


def fabricated(calls: list[str], *, seconds: float = 60.0, broken: tuple[str, ...] = ()) -> Table:
    """A table of three rows that note their calls; those in `broken` end as a killed run does."""

    def row(name: str, paper: float) -> Row:
        def run(folder: object) -> table.Cells:
            del folder
            calls.append(name)
            if name in broken:
                raise KeyboardInterrupt
            return {"rounds": [10.0, float("nan")] if name == "beta" else [30.0, 50.0], "text": f"of {name}"}

        return Row(run, Expected(seconds if name == "gamma" else 60.0, 1.0), {"rounds": paper})

    rows = {"alpha": row("alpha", 80.0), "beta": row("beta", 5.0), "gamma": row("gamma", 20.0)}
    return Table("made", "made: a table", "nobody (2020), https://example.org", ("rounds", "text"), rows, "A note.")


def run(made: Table, given: Arguments) -> tuple[dict[str, table.Cells], str]:
    lines: list[str] = []
    return table.run(made, given, say=lines.append), "\n".join(lines)


def test_patterns_pick_rows(tmp_path) -> None:
    calls: list[str] = []
    done, _ = run(fabricated(calls), Arguments(2, out=tmp_path, rows=("*ta", "gam*")))
    assert calls == ["beta", "gamma"] == list(done)
    assert list(json.loads((tmp_path / "made.json").read_text())["rows"]) == calls
    with pytest.raises(ValueError, match=r"--rows 'delta' fits no row of made; expected one of: alpha; beta; gamma\."):
        run(fabricated(calls), Arguments(2, rows=("alpha", "delta")))
    assert calls == ["beta", "gamma"]


def test_a_killed_run_goes_on_with_the_rows_that_are_done(tmp_path) -> None:
    calls: list[str] = []
    given = Arguments(2, out=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(fabricated(calls, broken=("gamma",)), given)
    assert calls == ["alpha", "beta", "gamma"]
    calls.clear()
    first, told = run(fabricated(calls), given)
    assert calls == ["gamma"]
    assert "2 rows were done before" in told
    calls.clear()
    again, _ = run(fabricated(calls, broken=("alpha", "beta", "gamma")), given)
    assert calls == []
    assert again["alpha"] == first["alpha"]
    assert again["alpha"]["rounds"] == [30.0, 50.0]
    assert again["beta"]["rounds"][0] == 10.0
    assert np.isnan(again["beta"]["rounds"][1])


def test_rows_of_other_arguments_are_not_taken(tmp_path) -> None:
    calls: list[str] = []
    given = Arguments(2, out=tmp_path, rows=("alpha",))
    for other in (
        given,
        given._replace(num_seeds=3),
        given._replace(smoke=True),
        given._replace(rates=(0.1,)),
        given._replace(again=True, rates=(0.1,)),
    ):
        run(fabricated(calls), other)
        assert calls == ["alpha"], other
        run(fabricated(calls), other._replace(again=False))
        assert calls == ["alpha"], other
        calls.clear()
    renamed = fabricated(calls)._replace(title="made: a table of another size")
    run(renamed, given._replace(rates=(0.1,)))
    assert calls == ["alpha"]


def test_rows_that_take_too_long_are_left_out_and_named() -> None:
    calls: list[str] = []
    made = fabricated(calls, seconds=table.LONG + 1.0)
    done, told = run(made, Arguments(5))
    assert calls == ["alpha", "beta"] == list(done)
    assert "left out: gamma, about 30m" in told
    calls.clear()
    run(made, Arguments(5, rows=("gamma",)))
    assert calls == ["gamma"]
    calls.clear()
    run(made, Arguments(2))  # fewer seeds take less
    assert calls == ["alpha", "beta", "gamma"]


def test_figures_stand_beside_those_of_the_paper() -> None:
    made = fabricated([])
    text = table.markdown(made, {name: row.run(None) for name, row in made.rows.items()})
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines[0].count("paper") == 2
    alpha, beta = (next(line for line in lines if line.startswith(f"| {name} |")) for name in ("alpha", "beta"))
    # (30 + 50) / 2 / 80; the half width is 12.706 (Student's t, one degree of freedom) times 10.
    assert [cell.strip() for cell in alpha.split("|")[2:6]] == ["40 ± 127", "80", "0.50", "of alpha"]
    # One of two seeds never got there: a ratio would be of the lucky one.
    assert [cell.strip() for cell in beta.split("|")[2:6]] == ["10 (1 of 2 seeds)", "5", "", "of beta"]
    assert text.endswith("A note.")


# What is counted.


def test_rounds_to_a_target_are_counted_as_in_the_paper() -> None:
    curve = [0.1, 0.5, 0.4, 0.9]
    # Best so far: .1, .5, .5, .9 after rounds 1 to 4; .7 lies halfway between rounds 3 and 4.
    assert seeds.rounds_to(curve, 0.7, interpolate=True) == pytest.approx(3.5)
    assert seeds.rounds_to(curve, 0.7) == 4
    assert seeds.rounds_to(curve, 0.7, 2, interpolate=True) == pytest.approx(7.0)
    # Three quarters of the way from .1 in round 1 to .5 in round 2.
    assert seeds.rounds_to(curve, 0.4, interpolate=True) == pytest.approx(1.75)
    # What falls again was reached.
    assert seeds.rounds_to([0.2, 0.8, 0.1], 0.8, interpolate=True) == 2
    assert seeds.rounds_to([0.8, 0.1], 0.5, interpolate=True) == 1
    assert np.isnan(seeds.rounds_to(curve, 0.95, interpolate=True))
    assert seeds.rounds_to([0.1, float("nan"), 0.3], 0.2, interpolate=True) == pytest.approx(2.5)


def test_the_best_rate_is_that_with_which_most_seeds_arrive() -> None:
    curves = {0.1: [[0.2, 0.6], [0.6]], 0.3: [[0.7], [0.1, 0.1]], 1.0: [[0.1, 0.1], [0.1, 0.1]]}
    rate, rounds, text = to_target.best_rate(curves, 0.5)
    assert rate == 0.1
    assert rounds == [pytest.approx(1.75), 1.0]
    assert text == "0.1 of 3 (at the edge)"
    rate, rounds, text = to_target.best_rate({0.3: [[0.1]]}, 0.5)
    assert (rate, text) == (0.3, "0.3")
    assert np.isnan(rounds[0])
    found, rounds = karimireddy2020._best({0.1: np.array([[0.95], [0.1]]), 0.3: np.array([[0.1, 0.9], [0.9, 0.1]])})
    assert (found, rounds) == (0.3, [2.0, 1.0])


def test_one_by_one_and_side_by_side_are_the_same_runs() -> None:
    """The two ways in which runs to a target are trained: on a CPU, and on an accelerator."""
    train, test = fl.datasets.load("digits", partition=fl.partition.iid(10, seed=0))
    model = fl.models.logistic(num_classes=10, input_shape=(8, 8, 1))
    evaluate = fl.evaluate(model, test)

    def make(rate: object) -> fl.Rounds:
        algorithm = algorithms.fed_avg(
            fl.losses.cross_entropy(model), client_optimizer=optax.sgd(rate), batch_size=50, epochs=1
        )
        return fl.rounds(algorithm, sampler=fl.sampling.uniform(3), aggregator=fl.weighted_mean(), execution=seeds.ONE)

    with as_in_programs():
        together = to_target._side_by_side(make, model, train, evaluate, (0.01, 0.5), 2, 0.7, 5)
        alone = {
            rate: to_target._one_by_one(make(rate), model, train, evaluate, rate, 2, 0.7, 5, None)
            for rate in (0.01, 0.5)
        }
    assert list(together) == list(alone) == [0.01, 0.5]
    for rate, curves in alone.items():
        assert [len(curve) for curve in together[rate]] == [len(curve) for curve in curves]
        for seed in range(2):
            np.testing.assert_allclose(together[rate][seed], curves[seed], atol=3e-3)  # one image of 359
    assert len(alone[0.5][0]) < 5  # the target ends a run
    assert alone[0.5][0] != alone[0.5][1]


def test_runs_to_a_target_go_on_in_their_folder(tmp_path, monkeypatch) -> None:
    model = fl.models.logistic(num_classes=10, input_shape=(8, 8, 1))
    train, test = fl.datasets.load("digits", partition=fl.partition.iid(10, seed=0))
    algorithm = algorithms.fed_avg(
        fl.losses.cross_entropy(model), client_optimizer=optax.sgd(0.1), batch_size=50, epochs=1
    )
    made = fl.rounds(algorithm, sampler=fl.sampling.uniform(3), aggregator=fl.weighted_mean(), execution=seeds.ONE)
    arguments = (made, model, train, fl.evaluate(model, test), 0.1, 1, 2.0, 2, tmp_path)
    with as_in_programs():
        first = to_target._one_by_one(*arguments)
        monkeypatch.setattr(fl, "train", lambda *_, **__: pytest.fail("trained again"))
        assert to_target._one_by_one(*arguments) == first
    assert len(first[0]) == 2


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


# Data and measures of single tables.


def test_similar_clients_are_dealt_and_the_others_sorted() -> None:
    y = np.random.default_rng(0).integers(0, 10, 1000)
    kinds = lambda owner: [len(np.unique(y[owner == client])) for client in range(20)]  # noqa: E731
    alike = karimireddy2020.similar(20, 1.0)({"y": y})
    unlike = karimireddy2020.similar(20, 0.0)({"y": y})
    assert np.bincount(alike).tolist() == np.bincount(unlike).tolist() == [50] * 20
    assert min(kinds(alike)) >= 8
    assert max(kinds(unlike)) <= 2


def test_purity_is_the_share_among_ones_own_kind() -> None:
    planted = np.array([0, 0, 1, 1, 2, 2])
    assert ghosh2020.purity(np.array([5, 5, 3, 3, 4, 4]), planted) == 1.0
    assert ghosh2020.purity(np.zeros(6, int), planted) == pytest.approx(1 / 3)


def test_invented_questions_tell_of_their_tags() -> None:
    """Words and tags are as unequal as in a language, clients differ, and a question's words point at its tags."""
    sizes = tags.Sizes(num_words=300, num_tags=20, num_clients=60, per_client=20)
    people = tags.questions(sizes, 60, 0)
    x, y = people.features["x"], people.features["y"]
    assert (x.shape, y.shape) == ((1200, 300), (1200, 20))
    assert set(np.unique(x.sum(1))) == {sizes.length}
    assert y.max() == 1
    assert y.sum(1).min() >= 1
    assert y.sum(1).max() <= 3
    words = np.sort(x.astype(int).sum(0))[::-1]
    assert words[:30].sum() > 4 * words[-150:].sum()
    other = tags.questions(sizes, 60, 1)
    assert not np.array_equal(x, other.features["x"])
    # The language is common to both: what words say of tags in one holds in the other.
    x, y = x.astype(float), y.astype(float)
    together, expected = x.T @ y, np.outer(x.sum(0), y.mean(0))
    said = np.log((together + 1) / (expected + 1))
    logits = other.features["x"] @ said + np.log(y.mean(0) + 1e-3)
    truth = jnp.asarray(other.features["y"])
    common = jnp.broadcast_to(jnp.asarray(y.mean(0), jnp.float32), truth.shape)
    assert tags.recall_at_5(jnp.asarray(logits, jnp.float32), truth) > tags.recall_at_5(common, truth) + 0.05


def test_rows_are_drawn_by_their_settings(tmp_path) -> None:
    rows = {"skewed: a": {"x": [1.0, 3.0]}, "skewed: b": {"x": 5.0}, "iid: a": {"x": [2.0, 2.0]}}
    figure = figures.points(figures.by_setting(rows), ("x",), tmp_path / "points.png", xlabel="worth")
    assert [axes.get_title() for axes in figure.axes] == ["skewed", "iid"]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["a", "b"]
    assert figure.axes[0].lines[0].get_xdata().tolist() == [2.0, 5.0]
    assert (tmp_path / "points.png").stat().st_size > 5_000
    runs = {"skewed": {"a": np.array([[0.1, 0.3], [0.3, 0.5]])}, "iid": {"b": np.array([[0.5, 0.5]])}}
    figure = figures.panels(runs, tmp_path / "panels.png", metric="score", every=5)
    assert [axes.get_title() for axes in figure.axes] == ["skewed", "iid"]
    np.testing.assert_allclose(figure.axes[0].lines[0].get_xydata(), [[5, 0.2], [10, 0.4]])


# The command.


def test_the_command_lists_tables_and_rows() -> None:
    told = call()
    for name, entry in catalog.TABLES.items():
        assert f"{name} " in told
        assert entry.about in told
    told = call("li2020-fair", "--list")
    for row in ("q = 0", "q = 1", "q = 5"):
        assert row in told
    assert "paper: mean, % 79.0 ± 1.2" in told
    assert "about" in told
    told = call("mcmahan2017-table2", "--list")
    assert "(only where --rows names it)" in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["li2002"], "there is no table 'li2002'; expected one of mcmahan2017-table1"),
        (["li2002"], "Did you mean 'li2020'?"),
        (["li2020", "--rows", "0 %*"], "--rows '0 %*' fits no row of li2020; expected one of: 0% stragglers: FedAvg"),
        (["li2020", "--rates", "fast"], "--rates is 'fast'; expected 'grid', or positive numbers with commas between"),
        (["li2020", "--rates", "0.1,-1"], "--rates is '0.1,-1'; expected"),
        (["li2020", "--rates", "inf"], "--rates is 'inf'; expected"),
        (["li2020", "--seeds", "0"], "--seeds"),
        (["kairouz2021", "--data-dir", "/nowhere", "--rows", "DP-FTRL, tree"], "there is no such folder"),
    ],
)
def test_the_command_refuses_in_one_plain_message(arguments, told, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = call(*arguments, code=2)
    assert "Traceback" not in text
    assert told in " ".join(text.split())


def test_the_command_reads_rates_and_rows(monkeypatch, tmp_path) -> None:
    asked: list[Arguments] = []
    calls: list[str] = []

    def load(name: str, given: Arguments) -> Table:
        assert name == "made"
        asked.append(given)
        return fabricated(calls)

    monkeypatch.setattr(catalog, "load", load)
    call("made", "--rates", "0.03,0.1,1", "--rows", "alpha", "--rows", "b*", "--seeds", 2, "--out", tmp_path)
    assert asked[0].rates == (0.03, 0.1, 1.0)
    assert calls == ["alpha", "beta"]
    command = json.loads((tmp_path / "made.json").read_text())["command"]
    assert command == "fedjaxlite reproduce made --seeds 2 --rows alpha --rows 'b*' --rates 0.03,0.1,1"
    call("made", "--rates", "grid", "--list")
    assert len(asked[1].rates) > 3
    ratios = np.diff(np.log10(asked[1].rates))
    np.testing.assert_allclose(ratios, 1 / 3, atol=0.01)  # the paper's grid


def test_an_interrupted_command_says_how_to_go_on(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(catalog, "load", lambda name, given: fabricated([], broken=("beta",)))
    told = call("made", "--out", tmp_path / "here", code=130)
    assert "interrupted; the same command with --out" in told
    assert [path.name for path in (tmp_path / "here" / "rows").glob("*.json")] == ["alpha.json"]
