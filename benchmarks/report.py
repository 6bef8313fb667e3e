"""What was measured, as a table and as a plot."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from fedjaxlite.benchmarks.timing import Spread

_COLUMNS = (
    "workload", "clients", "steps", "rounds/s", "client steps/s", "compile", "peak memory", "lanes x devices",
    "time / plain JAX", "time / fastest JAX", "users' model / plain JAX",
)  # fmt: skip


def table(found: dict[str, Any], file: TextIO | None = None) -> None:
    """Prints a table of results; with lines and colors on a terminal.

    Args:
      found: what `suite.main` returns.
      file: where to; None is the standard output.
    """
    to: Any = file or sys.stdout
    peers = _peers(found)
    columns = (*_COLUMNS, *(f"time / {title}" for title in peers.values()))
    rows = [(*_row(result), *_peer_cells(result, peers)) for result in found["workloads"]]
    notes = [*_notes(found), *_companions(found), *_peer_notes(found)]
    if not to.isatty():
        to.write(_plain([columns, *rows]) + "\n" + "\n".join(notes) + "\n")
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(file=to)
    drawn = Table()
    for index, name in enumerate(columns):
        drawn.add_column(name, justify="right" if index else "left")
    for row in rows:
        drawn.add_row(*row)
    console.print(drawn)
    for note in notes:
        console.print(note, highlight=False)


def _row(result: dict[str, Any]) -> tuple[str, ...]:
    ours = result["programs"]["ours"]
    memory = result["memory"]
    peak = memory["resident_peak"] if memory["device_peak"] is None else memory["device_peak"]
    return (
        f"{result['name']} {result['title']}",
        f"{result['clients_a_round']:,} of {result['num_clients']:,}",
        f"{result['steps_a_round']:,} x {result['batch_size']}",
        f"{result['rounds_per_second']:.3g}",
        f"{result['client_steps_per_second']:,.0f}",
        f"{result['compile_seconds']:.1f} s",
        f"{peak / 1e6:,.0f} MB",
        f"{ours['lanes']} x {ours['devices']}",
        _spread(result["ours_over"]["plain"]),
        _spread(result["ours_over"]["fastest"]),
        ", ".join(f"{name} {_spread(values)}" for name, values in result.get("written_over_plain", {}).items()) or "-",
    )


def _spread(values: dict[str, float]) -> str:
    found = Spread(**values)
    return f"{found.median:.2f} ({found.low:.2f}-{found.high:.2f})"


def _companions(found: dict[str, Any]) -> list[str]:
    return [
        f"{result['name']}: time / the same round on a {name}: {_spread(result['ours_over'][name])}"
        for result in found["workloads"]
        for name in result["companions"]
    ]


def _peers(found: dict[str, Any]) -> dict[str, str]:
    """Titles by name of the other libraries that a workload was run in."""
    return {name: peer["title"] for result in found["workloads"] for name, peer in result.get("peers", {}).items()}


def _peer_cells(result: dict[str, Any], peers: dict[str, str]) -> list[str]:
    runs = [result.get("peers", {}).get(name, {}) for name in peers]
    return ["failed" if "error" in run else _digits(run["ours_over"]) if run else "-" for run in runs]


def _digits(values: dict[str, float]) -> str:
    found = Spread(**values)
    return f"{found.median:.3g} ({found.low:.3g}-{found.high:.3g})"


def _peer_notes(found: dict[str, Any]) -> list[str]:
    notes = []
    for result in found["workloads"]:
        for peer in result.get("peers", {}).values():
            if "error" in peer:
                notes.append(f"{result['name']}: {peer['title']} failed")
                continue
            versions = ", ".join(f"{name} {version}" for name, version in peer["packages"].items())
            notes.append(
                f"{result['name']}: {peer['title']} ({peer['variant']}) {peer['seconds']['median']:.3g} s a round, "
                f"{peer['steps']:,} local steps; Python {peer['python']}, {versions}"
            )
    if notes:
        notes.insert(0, "other libraries: in processes of their own, ours timed before and after each (docs/peers.md)")
    return notes


def _notes(found: dict[str, Any]) -> list[str]:
    on = found["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in on["packages"].items() if version)
    commit = (on["commit"] or "")[:12] + ("-dirty" if (on["commit"] or "").endswith("-dirty") else "")
    return [
        f"median (smallest-largest) of {found['repeats']} turns, size {found['size']}; below 1 ours is faster",
        "plain JAX: one scan over the same SGD steps on batches of the same shapes, nothing federated; fastest "
        "JAX: the same written for speed",
        "users' model: our time for the same model without the library's layers, written as its name says",
        f"{on['cpu']}, {on['cores']} cores, {len(on['devices'])} {on['backend']} devices; Python {on['python']}, "
        f"{versions}; {on['date']}" + (f"; commit {commit}" if commit else ""),
        f"load average {on['load_average']} before, {on['load_average_at_the_end']} after; random data",
    ]


def _plain(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        cells[0] = row[0].ljust(widths[0])
        lines.append("  ".join(cells).rstrip())
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def plot(found: dict[str, Any], path: Path) -> None:
    """Draws our time over that of both limits, with the smallest and largest ratio, into a PNG file.

    Args:
      found: what `suite.main` returns.
      path: the file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    results = found["workloads"]
    figure = Figure(figsize=(8, 1.6 + 0.7 * len(results)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for shift, (limit, color) in zip((-0.2, 0.2), (("plain", "tab:blue"), ("fastest", "tab:orange")), strict=True):
        ratios = [Spread(**result["ours_over"][limit]) for result in results]
        middle = [r.median for r in ratios]
        errors = [[r.median - r.low for r in ratios], [r.high - r.median for r in ratios]]
        places = [i + shift for i in range(len(results))]
        axes.barh(places, middle, 0.36, xerr=errors, color=color, label=f"{limit} JAX", capsize=2)
        for place, ratio in zip(places, ratios, strict=True):
            axes.text(ratio.high, place, f" {ratio.median:.2f}", va="center", fontsize=8)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(results)), [f"{result['name']} {result['title']}" for result in results])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("our time / time of the same SGD steps in raw JAX (1 is no overhead)")
    on = found["machine"]
    axes.set_title(f"{on['cpu']}, {on['cores']} cores, jax {on['packages']['jax']}, {on['date'][:10]}", fontsize=9)
    axes.legend(loc="best", fontsize=8)
    figure.savefig(path, dpi=150)
