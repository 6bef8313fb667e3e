"""Records that a run goes on from, whatever happened to their file since: without a hole that nobody is told of."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from fedjaxlite.observers.records import Record, of_line, to_line
from fedjaxlite.storage import replace_text

LOG = logging.getLogger("fedjaxlite.observers")


def recover(path: str | os.PathLike[str], began: int, last_round: int) -> list[Record]:
    """The records that a run goes on from: one for each round, whatever happened to their file.

    What lies behind `last_round` is dropped; a round that is there twice is taken once; a round that is not there,
    since its line was lost or is no record, gets `{"round": r, "missing": True}` in its place. A file with lines that
    are no records is kept beside the new one, with the suffix ".damaged".

    Args:
      path: a `records.jsonl`, or where one should be. It is replaced, all or nothing, where anything changes.
      began: the round after which the records of the file begin.
      last_round: the round of the state that the run goes on from.

    Returns:
      the records of the rounds from `began + 1` to `last_round`; what is missing is told in a warning.
    """
    path = Path(path)
    content = path.read_bytes() if path.exists() else b""
    found, broken = {}, 0
    lines = content.split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            record = of_line(line)
            found.setdefault(record["round"], record)
        except ValueError:  # the last line has no newline behind it: it was cut while it was written
            broken += bool(line.strip()) and number < len(lines)
    rounds = range(began + 1, last_round + 1)
    records: list[Record] = [found.get(number) or {"round": number, "missing": True} for number in rounds]
    missing = [record["round"] for record in records if record.get("missing")]
    if broken:
        place = _free(path.with_name(path.name + ".damaged"))
        path.rename(place)
        LOG.warning("%d lines of %s are no records; the file was moved to %s", broken, path, place)
    if missing:
        LOG.warning(
            'the records of %s are missing in %s; each has a line with "missing" in its place', spans(missing), path
        )
    text = "".join(map(to_line, records))
    if text.encode() != content:
        replace_text(path, text)
    return records


def _free(path: Path) -> Path:
    place, more = path, 2
    while place.exists():
        place, more = path.with_name(f"{path.name}-{more}"), more + 1
    return place


def spans(rounds: Sequence[int]) -> str:
    """Rounds for people.

    Example:
      >>> spans([3]), spans([1, 2, 3, 7])
      ('round 3', 'rounds 1 to 3, 7')
    """
    parts: list[list[int]] = []
    for number in sorted(set(rounds)):
        if parts and parts[-1][-1] == number - 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    text = ", ".join(" to ".join(map(str, part)) for part in parts)
    return f"round{'s' if len(rounds) > 1 else ''} {text}"
