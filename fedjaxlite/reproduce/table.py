"""A table of a paper: rows that each run by themselves, how long they take, and what the paper says."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from fedjaxlite.reproduce.seeds import Arguments

Cells = Mapping[str, Any]
LONG = 30 * 60.0
"""Seconds from which on a row has to be asked for."""
SMOKE = "smoke test: the figures mean nothing"


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
      draw: `draw(cells by row) -> Figure`, where there is one.
      takes_rates: whether `Arguments.rates` mean something to it.
    """

    name: str
    title: str
    source: str
    columns: Sequence[str]
    rows: Mapping[str, Row]
    note: str = ""
    draw: Callable[[Mapping[str, Cells]], Any] | None = None
    takes_rates: bool = False


def expected_seconds(row: Row, given: Arguments) -> float:
    """How long a row takes on this machine, as far as is known."""
    times = expected(row, given)
    return times.cpu if jax.default_backend() == "cpu" else times.gpu


def expected(row: Row, given: Arguments) -> Expected:
    """How long a row takes with the seeds and rates asked for, in proportion to both."""
    times = given.num_seeds / 5 * max(1, len(given.rates))
    return Expected(times * row.expected.cpu, times * row.expected.gpu)


def tell(text: str) -> None:
    """A line while a row runs, on the error output, so that tables can be piped."""
    sys.stderr.write(f"    {text}\n")
    sys.stderr.flush()
