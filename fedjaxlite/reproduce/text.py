"""A table as text, beside what the paper says."""

import math
import shlex
from collections.abc import Mapping
from typing import Any

from fedjaxlite.reproduce.seeds import Arguments, interval, number
from fedjaxlite.reproduce.table import Cells, Table


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


def line(table: Table, cells: Cells) -> str:
    """One row."""
    return ", ".join(f"{column}: {shown(cells[column])}" for column in table.columns if column in cells)


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


def command(table: Table, given: Arguments) -> str:
    """The command line that makes this table again."""
    words = ["fedjaxlite", "reproduce", table.name, "--seeds", str(given.num_seeds)]
    words += ["--smoke"] if given.smoke else []
    for pattern in given.rows:
        words += ["--rows", pattern]
    if given.rates:
        words += ["--rates", ",".join(f"{rate:g}" for rate in given.rates)]
    return shlex.join(words)
