"""What `fedjaxlite reproduce` does."""

import contextlib
import shlex
from pathlib import Path
from typing import NamedTuple

import typer

import fedjaxlite as fl
from fedjaxlite.cli.commands import keep_compiled
from fedjaxlite.exit_codes import INTERRUPTED
from fedjaxlite.observers.progress import duration
from fedjaxlite.reproduce import catalog, running, table, text
from fedjaxlite.reproduce.seeds import Arguments

GRID = tuple(float(f"{10 ** (k / 3):.3g}") for k in range(-6, 1))
"""The grid of McMahan et al. (2017): multiples of 10^(1/3), from 0.01 to 1."""


class Asked(NamedTuple):
    """The options of the command, as they were given."""

    seeds: int
    rows: tuple[str, ...]
    rates: str | None
    smoke: bool
    listed: bool
    out: Path | None
    data_dir: Path | None
    again: bool


def reproduce(name: str | None, asked: Asked) -> None:
    """Runs a table, or says what there is."""
    if name is None:
        width = max(map(len, catalog.TABLES))
        for entry, about in catalog.TABLES.items():
            typer.echo(f"{entry:{width}}  {about.about}")
        return
    keep_compiled()
    with contextlib.suppress(RuntimeError):  # JAX has started already, inside of another program
        fl.use_cpu_cores()
    given = _arguments(name, asked)
    found = catalog.load(name, given)
    if asked.listed:
        _list(found, given)
        return
    try:
        running.run(found, given, say=typer.echo)
    except KeyboardInterrupt:
        again = shlex.join(["--out", str(given.out)])
        typer.echo(f"\ninterrupted; the same command with {again} goes on", err=True)
        raise typer.Exit(INTERRUPTED) from None
    typer.echo(f"\n{given.out}: " + ", ".join(sorted(path.name for path in Path(given.out or ".").iterdir())))


def _arguments(name: str, asked: Asked) -> Arguments:
    out = asked.out or Path("runs") / (f"{name}-smoke" if asked.smoke else name)
    return Arguments(asked.seeds, asked.smoke, out, asked.rows, _rates(asked.rates), asked.again, asked.data_dir)


def _rates(text: str | None) -> tuple[float, ...]:
    if text is None:
        return ()
    if text == "grid":
        return GRID
    try:
        rates = tuple(float(part) for part in text.split(","))
    except ValueError:
        rates = (-1.0,)
    if any(not 0 < rate < float("inf") for rate in rates):
        raise ValueError(
            f"--rates is {text!r}; expected 'grid', or positive numbers with commas between, such as 0.03,0.1."
        )
    return rates


def _list(found: table.Table, given: Arguments) -> None:
    """The rows, with the paper's figures and how long each takes."""
    typer.echo(f"{found.title}\n{found.source}")
    width = max(map(len, found.rows))
    typer.echo(f"{'':{width}}  {'two cores':>9}  {'one H100':>9}")
    for name, row in found.rows.items():
        times = table.expected(row, given)
        paper = ", ".join(f"{column} {text.shown(value)}" for column, value in row.paper.items())
        long = "  (only where --rows names it)" if table.expected_seconds(row, given) > table.LONG else ""
        told = f"{name:{width}}  {duration(times.cpu):>9}  {duration(times.gpu):>9}"
        typer.echo(f"{told}  {f'paper: {paper}' if paper else ''}{long}".rstrip())
