"""Runs a table row by row, keeps each as it is done, and shows the whole."""

import fnmatch
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import jax

from fedjaxlite.observers.progress import duration
from fedjaxlite.reproduce import kept, text
from fedjaxlite.reproduce.seeds import Arguments
from fedjaxlite.reproduce.table import LONG, SMOKE, Cells, Table, expected_seconds
from fedjaxlite.training import run_config


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
    if given.smoke:
        table = table._replace(title=f"{table.title} ({SMOKE})")
    chosen, left_out = choose(table, given)
    say(f"{table.title}\n{table.source}")
    for name in left_out:
        say(f"left out: {name}, about {duration(expected_seconds(table.rows[name], given))} here; ask by --rows")
    done: dict[str, Cells] = {}
    for name in chosen:
        done[name] = kept.kept(table, name, given) or {}
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
        folder = None if given.out is None else Path(given.out) / "rows" / kept.slug(name)
        if given.again and folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        cells = dict(table.rows[name].run(folder))
        seconds = time.perf_counter() - began
        say(f"    {text.line(table, cells)} ({duration(seconds)})")
        done[name] = {**cells, "seconds": seconds, "machine": _machine(), "versions": run_config.versions()}
        kept.keep(table, name, given, done[name])
    if given.out is not None:
        kept.write(table, given, done)
    say("\n" + text.markdown(table, done))
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


def _machine() -> str:
    devices = jax.devices()
    return f"CPU, {len(devices)} devices" if jax.default_backend() == "cpu" else devices[0].device_kind
