"""Tables of papers run again: each at a size of seconds, and what they share."""

import contextlib
import json
from collections.abc import Generator
from typing import Any

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner

from fedjaxlite.cli.app import app
from fedjaxlite.reproduce import catalog, kept, running, table, text
from fedjaxlite.reproduce.seeds import Arguments
from fedjaxlite.reproduce.table import Expected, Row, Table


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


SLOW = ("robust", "mcmahan2017-table2", "leak-digits")
"""Long ones; the last two are made by files of which other tables come too."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in catalog.TABLES]
)
@pytest.mark.whole
def test_a_table_runs_and_leaves_everything(name, tmp_path) -> None:
    told = call(name, "--smoke", "--seeds", 2, "--out", tmp_path)
    found = json.loads((tmp_path / f"{name}.json").read_text())
    assert found["name"] == name
    assert found["command"] == f"fedjaxlite reproduce {name} --seeds 2 --smoke"
    assert found["seeds"] == [0, 1]
    assert found["source"]
    assert found["rows"]
    assert found["smoke"] == table.SMOKE
    page = (tmp_path / f"{name}.md").read_text()
    for words in (told.splitlines()[0], page.splitlines()[0], found["title"]):
        assert words.endswith(f"({table.SMOKE})")
    for row, cells in found["rows"].items():
        assert f"| {row} |" in page
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
    assert len({kept.slug(row) for row in made.rows}) == len(made.rows)
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
    made = Table("made", "made: a table", "nobody (2020), https://example.org", ("rounds", "text"), rows, "A note.")
    return made._replace(takes_rates=True)


def run(made: Table, given: Arguments) -> tuple[dict[str, table.Cells], str]:
    lines: list[str] = []
    return running.run(made, given, say=lines.append), "\n".join(lines)


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


@pytest.mark.parametrize("smoke", [True, False])
def test_only_a_smoke_test_says_that_its_figures_mean_nothing(tmp_path, smoke) -> None:
    figures: list[Any] = []

    def draw(done: object) -> Any:
        del done
        figures.append(Figure())
        return figures[-1]

    _, told = run(fabricated([])._replace(draw=draw), Arguments(2, smoke=smoke, out=tmp_path))
    page, found = (tmp_path / "made.md").read_text(), json.loads((tmp_path / "made.json").read_text())
    across = [text.get_text() for text in figures[0].texts]
    says = [table.SMOKE in words for words in (told, page, found["title"], found.get("smoke", ""), "".join(across))]
    assert says == [smoke] * 5
    assert (tmp_path / "made.png").read_bytes().startswith(b"\x89PNG")


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
    page = text.markdown(made, {name: row.run(None) for name, row in made.rows.items()})
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert lines[0].count("paper") == 2
    alpha, beta = (next(line for line in lines if line.startswith(f"| {name} |")) for name in ("alpha", "beta"))
    # (30 + 50) / 2 / 80; the half width is 12.706 (Student's t, one degree of freedom) times 10.
    assert [cell.strip() for cell in alpha.split("|")[2:6]] == ["40 ± 127", "80", "0.50", "of alpha"]
    # One of two seeds never got there: a ratio would be of the lucky one.
    assert [cell.strip() for cell in beta.split("|")[2:6]] == ["10 (1 of 2 seeds)", "5", "", "of beta"]
    assert page.endswith("A note.")


def test_rates_for_a_table_without_a_grid_are_refused() -> None:
    calls: list[str] = []
    with pytest.raises(ValueError, match="--rates was given, and made has no grid of client rates: leave it out"):
        run(fabricated(calls)._replace(takes_rates=False), Arguments(2, rates=(0.1,)))
    assert not calls


def test_a_figure_of_another_task_has_no_ratio() -> None:
    made = fabricated([])
    rows = {name: row._replace(paper={made.columns[0]: "30.0, other data"}) for name, row in made.rows.items()}
    page = text.markdown(made._replace(rows=rows), {name: row.run(None) for name, row in rows.items()})
    assert "| paper |" in page
    assert "30.0, other data" in page
    assert "ours / paper" not in page


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
    assert "two cores" in told
    assert "one H100" in told
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
