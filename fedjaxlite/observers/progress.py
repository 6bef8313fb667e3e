"""Progress: a bar on a terminal, plain lines at intervals anywhere else."""

import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, TextIO

from fedjaxlite.execution.round_state import RoundState
from fedjaxlite.observers.observer import History, Observer, Start
from fedjaxlite.observers.records import here


def progress(*, interval: float = 10.0, file: TextIO | None = None) -> Observer:
    """Shows round, loss, the evaluated accuracy, rounds per second, and the time left.

    Args:
      interval: seconds between two lines where the output is no terminal; the first round and the last are always
        told.
      file: where to; None is the standard output.

    Returns:
      an Observer.
    """
    file = sys.stdout if file is None else file
    if file is None:  # a process without any output
        return Observer()
    return _bar(file) if file.isatty() else _lines(file, interval)


def size(num_bytes: float) -> str:
    """A number of bytes for people.

    Example:
      >>> size(999), size(1_234_567)
      ('999 B', '1.2 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} B" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def duration(seconds: float) -> str:
    """A time for people.

    Example:
      >>> duration(4.2), duration(75), duration(7322)
      ('4.2s', '1m15s', '2h02m')
    """
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


class _Clock:
    """Rounds per second over the last rounds; the first dispatch, which compiles, is not counted."""

    def __init__(self, now: float) -> None:
        self.start = now
        self.ticks: deque[tuple[int, float]] = deque(maxlen=50)

    def tick(self, number: int, now: float) -> float | None:
        self.ticks.append((number, now))
        (first, then), (last, now) = self.ticks[0], self.ticks[-1]
        return (last - first) / (now - then) if now - then > 1e-3 and last > first else None


def _headline(start: Start) -> str:
    import jax

    leaves = jax.tree.leaves(start.rounds.params(start.state))
    count = sum(leaf.size for leaf in leaves)
    names = (start.rounds.sampler.name, start.rounds.aggregator.name)
    return (
        f"{start.rounds.algorithm.name} on {start.population.num_clients} clients, {names[0]} a round, {names[1]}; "
        f"{count:,} parameters; a client sends {size(start.traffic.up)} and receives "
        f"{size(start.traffic.down)} a round"
    )


def _metrics(record: Mapping[str, Any], shown: dict[str, str]) -> str:
    """Loss, the last evaluated accuracy, and warnings; `shown` remembers what only some rounds have."""
    unseen = dict.fromkeys(record.get("simulation_only", ()), " (simulation only)")
    if isinstance(record.get("loss"), float):
        shown["loss"] = f"loss {record['loss']:.4f}{unseen.get('loss', '')}"
    for name, value in record.items():
        if name.endswith("_accuracy"):
            shown[name] = f"{name.replace('_', ' ')} {value:.2%}{unseen.get(name, '')}"
    if "epsilon" in record:
        shown["epsilon"] = f"epsilon {record['epsilon']:.3g}{_condition(record)}"
    if "epsilon_examples" in record:
        shown["epsilon_examples"] = f"epsilon of examples {record['epsilon_examples']:.3g}"
    parts = list(shown.values())
    if record.get("nonfinite"):
        reports = f"{record['nonfinite']} of {record['reported']} reports not finite"
        parts.append(reports + unseen.get("nonfinite", ""))
    return "  ".join(parts)


def _condition(record: Mapping[str, Any]) -> str:
    """What an epsilon rests on, where cohorts come from a key that was given."""
    if "epsilon_unamplified" not in record:
        return ""
    return f" (if the seed is secret; else {record['epsilon_unamplified']:.3g})"


def _speed(rate: float | None, left: int) -> str:
    if rate is None:
        return ""
    text = f"{rate:.1f} rounds/s" if rate >= 0.1 else f"{duration(1 / rate)} a round"
    return f"{text}, {duration(left / rate)} left" if left else text


def _lines(file: TextIO, interval: float) -> Observer:
    shown: dict[str, str] = {}
    run: dict[str, Any] = {}

    def start(start: Start) -> None:
        now = time.monotonic()
        run.update(last=start.num_rounds, first=int(here(start.state.round)) + 1, told=now, clock=_Clock(now))
        file.write(_headline(start) + "\n")
        file.flush()

    def each(record: Mapping[str, Any], state: RoundState) -> None:
        del state
        now, number = time.monotonic(), record["round"]
        speed = _speed(run["clock"].tick(number, now), run["last"] - number)
        text = _metrics(record, shown)
        run["latest"] = number
        if number in (run["first"], run["last"]) or now - run["told"] >= interval:
            run["told"] = now
            file.write(f"round {number}/{run['last']}  {text}  {speed}".rstrip() + "\n")
            file.flush()

    def end(history: History) -> None:
        if history.stopped and run:
            file.write(f"ended: {history.stopped}\n")
            file.flush()

    return Observer(each, start, end)


def _bar(file: TextIO) -> Observer:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(file=file)
    shown: dict[str, str] = {}
    run: dict[str, Any] = {}

    def start(start: Start) -> None:
        console.print(_headline(start), highlight=False)
        bar = Progress(
            TextColumn("round"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[text]}"),
            console=console,
            expand=True,
        )
        done = int(here(start.state.round))
        task = bar.add_task("round", total=start.num_rounds, completed=done, text="compiling ...")
        run.update(bar=bar, task=task, clock=_Clock(time.monotonic()), last=start.num_rounds)
        bar.start()

    def each(record: Mapping[str, Any], state: RoundState) -> None:
        del state
        number = record["round"]
        speed = _speed(run["clock"].tick(number, time.monotonic()), run["last"] - number)
        text = "  ".join(filter(None, (_metrics(record, shown), speed)))
        run["bar"].update(run["task"], completed=number, text=text)

    def end(history: History) -> None:
        if run:
            run["bar"].stop()
        if history.stopped and run:
            console.print(f"ended: {history.stopped}", highlight=False)

    return Observer(each, start, end)
