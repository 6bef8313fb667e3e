"""What a table leaves in its folder: a file for each row as it is done, and the whole as JSON, Markdown and figure."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedjaxlite.plots import style
from fedjaxlite.reproduce import figures, text
from fedjaxlite.reproduce.seeds import Arguments, Interval
from fedjaxlite.reproduce.table import SMOKE, Cells, Table


def slug(name: str) -> str:
    """A row's name as the name of a file."""
    return "".join(c if c.isalnum() or c in ".-" else "_" for c in name)


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


def kept(table: Table, name: str, given: Arguments) -> Cells | None:
    """A row that is in the folder already, from the same arguments."""
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


def keep(table: Table, name: str, given: Arguments, cells: Cells) -> None:
    """Writes a row."""
    if given.out is None:
        return
    folder = Path(given.out) / "rows"
    folder.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"asked": _asked(table, name, given), "cells": _plain(cells)}) + "\n"
    partial = folder / f"{slug(name)}.json.partial"
    partial.write_text(line, encoding="utf-8")
    partial.replace(folder / f"{slug(name)}.json")  # all or nothing: a run may be killed at any moment


def write(table: Table, given: Arguments, done: Mapping[str, Cells]) -> None:
    """Writes the table as JSON and as Markdown, and its figure."""
    out = Path(given.out or ".")
    out.mkdir(parents=True, exist_ok=True)
    found = {
        "name": table.name,
        "title": table.title,
        "source": table.source,
        "command": text.command(table, given),
        **({"smoke": SMOKE} if given.smoke else {}),
        "seeds": list(range(given.num_seeds)),
        "columns": list(table.columns),
        "rows": {name: {"paper": dict(table.rows[name].paper), **_plain(cells)} for name, cells in done.items()},
    }
    (out / f"{table.name}.json").write_text(_json(found), encoding="utf-8")
    page = f"{text.markdown(table, done)}\n\n`{found['command']}`\n"
    (out / f"{table.name}.md").write_text(page, encoding="utf-8")
    if table.draw is not None:
        figure = table.draw(done)
        if given.smoke:
            figures.stamp(figure, SMOKE)
        style.finish(figure, out / f"{table.name}.png")


def _json(found: Mapping[str, Any]) -> str:
    """JSON with one line a row: curves are long."""
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in found["rows"].items())
    rest = json.dumps({name: value for name, value in found.items() if name != "rows"})
    return f'{rest[:-1]},\n "rows": {{\n{rows}\n }}\n}}\n'


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
