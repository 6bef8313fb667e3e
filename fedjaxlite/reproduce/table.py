"""A table of a paper, run again: row by row, each kept as it is done, and shown beside what the paper says."""

import fnmatch
import json
import math
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from fedjaxlite.observers.progress import duration
from fedjaxlite.reproduce.seeds import Arguments, Interval, interval, number
from fedjaxlite.training import run_config

Cells = Mapping[str, Any]
LONG = 30 * 60.0
"""Seconds from which on a row has to be asked for."""


class Expected(NamedTuple):
    """Seconds that a row takes with five seeds, compiling included.

    Attributes:
      cpu: on two cores.
      gpu: on one H100.
    """

    cpu: float
    gpu: float


class Row(NamedTuple):
    """One row.

    Attributes:
      run: `run(folder) -> cells`, by column: a list of one number a seed (NaN: not reached), one number, or text.
        Other names are kept in the row's file and not shown. What is half done may be kept in `folder`, which is there
        for it, or None.
      expected: how long it takes.
      paper: by column, what the paper has: a number, or text.
    """

    run: Callable[[Path | None], Cells]
    expected: Expected
    paper: Mapping[str, float | str] = {}


class Table(NamedTuple):
    """A table to run.

    Attributes:
      name: as on the command line.
      title: what is shown, with the sizes of this run.
      source: the paper, with a link.
      columns: names of the cells shown.
      rows: by name, in the order in which they are run and shown.
      note: what to know when comparing with the paper.
      draw: `draw(cells by row, path)` writes the figure, where there is one.
      takes_rates: whether `Arguments.rates` mean something to it.
    """

    name: str
    title: str
    source: str
    columns: Sequence[str]
    rows: Mapping[str, Row]
    note: str = ""
    draw: Callable[[Mapping[str, Cells], Path], None] | None = None
    takes_rates: bool = False


def run(table: Table, given: Arguments, say: Callable[[str], None] = print) -> dict[str, Cells]:
    """Runs the rows asked for, keeps each as it is done, prints the table and writes it.

    Args:
      table: what to run.
      given: the arguments; `out` gets `rows/*.json`, one a row, and NAME.json, NAME.md and NAME.png. A row that is
        there already, from the same arguments, is not run again.
      say: takes lines of text.

    Returns:
      cells by row, of the rows that there are.

    Raises:
      ValueError: where `given.rows` names no row, or rates are given to a table without a grid of them.
    """
    if given.rates and not table.takes_rates:
        raise ValueError(f"--rates was given, and {table.name} has no grid of client rates: leave it out.")
    chosen, left_out = choose(table, given)
    say(f"{table.title}\n{table.source}")
    for name in left_out:
        say(f"left out: {name}, about {duration(expected_seconds(table.rows[name], given))} here; ask by --rows")
    done: dict[str, Cells] = {}
    for name in chosen:
        done[name] = _kept(table, name, given) or {}
    todo = [name for name in chosen if not done[name]]
    if len(chosen) > len(todo):
        say(f"{len(chosen) - len(todo)} rows were done before")
    if todo and not given.smoke:
        total = sum(expected_seconds(table.rows[name], given) for name in todo)
        say(f"{len(todo)} rows, {given.num_seeds} seeds: about {duration(total)} on this machine ({_machine()})")
    for place, name in enumerate(todo, 1):
        about = "" if given.smoke else f", about {duration(expected_seconds(table.rows[name], given))}"
        say(f"[{place}/{len(todo)}] {name}{about}")
        began = time.perf_counter()
        folder = None if given.out is None else Path(given.out) / "rows" / slug(name)
        if given.again and folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        cells = dict(table.rows[name].run(folder))
        seconds = time.perf_counter() - began
        say(f"    {_line(table, cells)} ({duration(seconds)})")
        done[name] = {**cells, "seconds": seconds, "machine": _machine(), "versions": run_config.versions()}
        _keep(table, name, given, done[name])
    if given.out is not None:
        _write(table, given, done)
    say("\n" + markdown(table, done))
    return done


def choose(table: Table, given: Arguments) -> tuple[list[str], list[str]]:
    """The rows to run, and those left out since they take too long here and were not asked for.

    Raises:
      ValueError: where a pattern of `given.rows` fits no row.
    """
    if given.rows:
        names = "; ".join([*list(table.rows)[:6], *(["... (--list shows all)"] if len(table.rows) > 6 else [])])
        for pattern in given.rows:
            if not any(fnmatch.fnmatchcase(name, pattern) for name in table.rows):
                raise ValueError(f"--rows {pattern!r} fits no row of {table.name}; expected one of: {names}.")
        fits = lambda name: any(fnmatch.fnmatchcase(name, pattern) for pattern in given.rows)  # noqa: E731
        return [name for name in table.rows if fits(name)], []
    if given.smoke:
        return list(table.rows), []
    slow = [name for name, row in table.rows.items() if expected_seconds(row, given) > LONG]
    return [name for name in table.rows if name not in slow], slow


def expected_seconds(row: Row, given: Arguments) -> float:
    """How long a row takes on this machine, as far as is known."""
    times = expected(row, given)
    return times.cpu if jax.default_backend() == "cpu" else times.gpu


def expected(row: Row, given: Arguments) -> Expected:
    """How long a row takes with the seeds and rates asked for, in proportion to both."""
    times = given.num_seeds / 5 * max(1, len(given.rates))
    return Expected(times * row.expected.cpu, times * row.expected.gpu)


def markdown(table: Table, done: Mapping[str, Cells]) -> str:
    """The table, with the paper's figures and the ratios of ours to them where there are any."""
    papers = {c: [table.rows[name].paper[c] for name in done if c in table.rows[name].paper] for c in table.columns}
    # A paper's figure for another task is text, and there is nothing to divide by.
    beside = {c: ["paper", "ours / paper"][: 1 + any(isinstance(p, float) for p in papers[c])] for c in papers}
    head = [part for c in table.columns for part in (c, *(beside[c] if papers[c] else ()))]
    lines = ["| | " + " | ".join(head) + " |", "| --- |" + " --- |" * len(head)]
    for name, cells in done.items():
        texts = []
        for column in table.columns:
            texts.append(shown(cells.get(column, "")))
            if papers[column]:
                paper = table.rows[name].paper.get(column, "")
                texts += [shown(paper), ratio(cells.get(column), paper)][: len(beside[column])]
        lines.append(f"| {name} | " + " | ".join(texts) + " |")
    heading = f"### {table.title}\n\n" + "\n".join(lines)
    return heading + (f"\n\n{table.note}" if table.note else "")


def shown(cell: Any) -> str:
    """A cell as text: a mean with its interval, and how many seeds reached it where not all did.

    Example:
      >>> shown([1.0, 2.0, 3.0]), shown([4.0, float("nan")]), shown(0.12345), shown("no")
      ('2 ± 2.5', '4 (1 of 2 seeds)', '0.123', 'no')
    """
    if isinstance(cell, (list, tuple)):
        finite = [float(v) for v in cell if math.isfinite(v)]
        if not finite:
            return f"none of {len(cell)} seeds"
        text = str(interval(finite)) if len(finite) > 1 else number(finite[0])
        return text if len(finite) == len(cell) else f"{text} ({len(finite)} of {len(cell)} seeds)"
    return number(cell) if isinstance(cell, float) else str(cell)


def ratio(cell: Any, paper: Any) -> str:
    """Ours over the paper's, where both are numbers and all seeds have one.

    Example:
      >>> ratio([10.0, 20.0], 30), ratio([1.0, float("nan")], 2)
      ('0.50', '')
    """
    values = cell if isinstance(cell, (list, tuple)) else [cell]
    numbers = [v for v in (*values, paper) if isinstance(v, (int, float)) and math.isfinite(v)]
    if len(numbers) != len(values) + 1 or not paper:
        return ""
    return f"{sum(values) / len(values) / paper:.2f}"


def slug(name: str) -> str:
    """A row's name as the name of a file."""
    return "".join(c if c.isalnum() or c in ".-" else "_" for c in name)


def _line(table: Table, cells: Cells) -> str:
    return ", ".join(f"{column}: {shown(cells[column])}" for column in table.columns if column in cells)


def _machine() -> str:
    devices = jax.devices()
    return f"CPU, {len(devices)} devices" if jax.default_backend() == "cpu" else devices[0].device_kind


def _asked(table: Table, name: str, given: Arguments) -> dict[str, Any]:
    """What a kept row must have been run with."""
    return {
        "table": table.name,
        "title": table.title,
        "row": name,
        "seeds": given.num_seeds,
        "smoke": given.smoke,
        "rates": list(given.rates),
    }


def _kept(table: Table, name: str, given: Arguments) -> Cells | None:
    if given.out is None or given.again:
        return None
    path = Path(given.out) / "rows" / f"{slug(name)}.json"
    if not path.exists():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    return _with_nan(found["cells"]) if found.get("asked") == _asked(table, name, given) else None


def _with_nan(value: Any) -> Any:
    """What `_plain` made of it, back again."""
    if isinstance(value, dict):
        return {name: _with_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_nan(item) for item in value]
    return float("nan") if value is None else value


def _keep(table: Table, name: str, given: Arguments, cells: Cells) -> None:
    if given.out is None:
        return
    folder = Path(given.out) / "rows"
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"asked": _asked(table, name, given), "cells": _plain(cells)}) + "\n"
    partial = folder / f"{slug(name)}.json.partial"
    partial.write_text(text, encoding="utf-8")
    partial.replace(folder / f"{slug(name)}.json")  # all or nothing: a run may be killed at any moment


def _write(table: Table, given: Arguments, done: Mapping[str, Cells]) -> None:
    out = Path(given.out or ".")
    out.mkdir(parents=True, exist_ok=True)
    found = {
        "name": table.name,
        "title": table.title,
        "source": table.source,
        "command": command(table, given),
        "seeds": list(range(given.num_seeds)),
        "columns": list(table.columns),
        "rows": {name: {"paper": dict(table.rows[name].paper), **_plain(cells)} for name, cells in done.items()},
    }
    (out / f"{table.name}.json").write_text(_json(found), encoding="utf-8")
    (out / f"{table.name}.md").write_text(f"{markdown(table, done)}\n\n`{found['command']}`\n", encoding="utf-8")
    if table.draw is not None:
        table.draw(done, out / f"{table.name}.png")


def _json(found: Mapping[str, Any]) -> str:
    """JSON with one line a row: curves are long."""
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in found["rows"].items())
    rest = json.dumps({name: value for name, value in found.items() if name != "rows"})
    return f'{rest[:-1]},\n "rows": {{\n{rows}\n }}\n}}\n'


def command(table: Table, given: Arguments) -> str:
    """The command line that makes this table again."""
    words = ["fedjaxlite", "reproduce", table.name, "--seeds", str(given.num_seeds)]
    words += ["--smoke"] if given.smoke else []
    for pattern in given.rows:
        words += ["--rows", pattern]
    if given.rates:
        words += ["--rates", ",".join(f"{rate:g}" for rate in given.rates)]
    return shlex.join(words)


def _plain(cells: Cells) -> dict[str, Any]:
    """Cells as JSON holds them: NaN becomes null."""

    def plain(value: Any) -> Any:
        if isinstance(value, Interval):
            return value._asdict()
        if isinstance(value, Mapping):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        if hasattr(value, "tolist"):
            return plain(value.tolist())
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {name: plain(value) for name, value in cells.items()}


def tell(text: str) -> None:
    """A line while a row runs, on the error output, so that tables can be piped."""
    sys.stderr.write(f"    {text}\n")
    sys.stderr.flush()
