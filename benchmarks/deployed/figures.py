"""Figures of a run as a table for people, or as JSON."""

import json
from collections.abc import Mapping
from typing import Any


def shown(figures: Mapping[str, Any], *, as_json: bool) -> str:
    """The figures as text.

    Args:
      figures: numbers and words by name, perhaps in groups.
      as_json: as JSON, else as a table of Markdown.

    Example:
      >>> print(shown({"clients": 200, "server": {"cpu_seconds": 1.5}}, as_json=False))
      | figure | value |
      | --- | --- |
      | clients | 200 |
      | server: cpu seconds | 1.5 |
    """
    if as_json:
        return json.dumps(figures, indent=1)
    rows = ["| figure | value |", "| --- | --- |"]
    for name, value in figures.items():
        parts = (
            {f"{name}: {part}": each for part, each in value.items()} if isinstance(value, Mapping) else {name: value}
        )
        rows += [f"| {part.replace('_', ' ')} | {f'{v:,}' if type(v) is int else v} |" for part, v in parts.items()]
    return "\n".join(rows)
