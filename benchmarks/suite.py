"""The suite: one command that measures, checks, prints and writes."""

import contextlib
import gc
import json
import sys
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import jax

import fedjaxlite as fl
from fedjaxlite import checks
from fedjaxlite.benchmarks import contenders, machine, memory, report, timing
from fedjaxlite.benchmarks import peers as libraries
from fedjaxlite.benchmarks.contenders import Contender
from fedjaxlite.benchmarks.problem import Problem, Workload
from fedjaxlite.benchmarks.workloads import WORKLOADS

SIZES = ("full", "small", "tiny")
Say = Callable[[str], None]


def main(
    workloads: list[str] | None = None,
    size: str = "full",
    out: Path | None = None,
    repeats: int = 7,
    peers: list[str] | None = None,
) -> dict[str, Any]:
    """Runs workloads, prints a table, and writes figures where asked to.

    Best called before JAX has started, since a CPU is given one JAX device a core first. If JAX has started already,
    it says so and uses the devices that are there.

    Args:
      workloads: names of `WORKLOADS`; None is all of them.
      size: "full"; "small" for a look within minutes; "tiny" for tests, whose times mean nothing.
      out: a folder for bench.json and bench.png, made where it is missing; None writes nothing.
      repeats: turns in which every program is timed once.
      peers: names of `peers.PEERS`, other libraries that run the workloads of `peers.WORKLOADS` too; None is none.

    Returns:
      what bench.json holds: "machine", "size", "repeats", and "workloads", one dict each.

    Raises:
      ValueError, TypeError: for names, sizes or repeats that are not understood, before anything runs.
      FileNotFoundError: if a Python for another library is named and is not there.
      RuntimeError: if ours and a limit would not do the same number of steps; if another library cannot be installed;
        or, after everything else was measured and written, if it failed or did other work.
    """
    chosen = _chosen(workloads)
    checks.one_of(SIZES, size=size)
    checks.positive_int(repeats=repeats)
    _use_all_cores(_say)
    pythons = {} if peers is None else libraries.prepare(peers, [workload.name for workload in chosen], _say)
    with no_compilation_cache():
        start = machine.describe()
        _warn_if_busy(start)
        results: list[dict[str, Any]] = []
        found: dict[str, Any] = {"size": size, "repeats": repeats, "machine": start, "workloads": results}
        for workload in chosen:
            results.append(measure(workload, size, repeats, _say, pythons))
            found["machine"] = {**start, "load_average_at_the_end": machine.load_average()}
            if out is not None:  # after every workload, so that a run that is stopped keeps what it measured
                _write(found, Path(out))
    if out is not None:
        report.plot(found, Path(out) / "bench.png")
        _say(f"wrote {Path(out) / 'bench.json'} and {Path(out) / 'bench.png'}")
    report.table(found)
    _raise_failures(results)
    return found


def _write(found: Mapping[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def measure(
    workload: Workload,
    size: str,
    repeats: int,
    say: Say = lambda line: None,
    pythons: Mapping[str, Path] | None = None,
) -> dict[str, Any]:
    """One workload: finds good settings, checks that all do the same work, and times them in turns.

    Args:
      workload: of `WORKLOADS`.
      size: of `SIZES`.
      repeats: the number of turns.
      say: gets a line for each part, while it runs.
      pythons: of `peers.prepare`, the other libraries to run.

    Returns:
      a dict that JSON can hold; times in seconds, memory in bytes.
    """
    say(f"{workload.name}: {workload.title}, {size}")
    before = memory.resident()
    problem = workload.build(size)
    lanes = contenders.lanes_on(jax.default_backend(), problem.lanes, problem.sampler.capacity)
    candidates = contenders.settings(lanes, jax.device_count(), size == "tiny")
    ours = contenders.find_ours(problem, candidates)
    info, peak = _peak(ours, before)
    steps = contenders.check_steps(info, problem, workload.name)
    say(f"  ours: lanes x devices {ours.setting}, compiled in {ours.compile_seconds:.1f} s; {steps} steps a round")
    everyone = contenders.everyone(problem, candidates, ours)
    say(f"  fastest limit: lanes x devices {everyone['fastest'].setting}")
    times = timing.take_turns({name: contender.run for name, contender in everyone.items()}, repeats)
    result = _result(workload, problem, everyone, times, int(info.num_reported))
    result["settings_tried"] = [setting._asdict() for setting in candidates]
    result["memory"] = peak._asdict()
    result["companions"] = list(problem.companions)
    result["written_over_plain"] = {
        name: timing.ratios(times[name], times["plain"])._asdict() for name in problem.written
    }
    for name, values in result["ours_over"].items():
        ratio = timing.Spread(**values)
        say(f"  ours / {name}: {ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})")
    for name, values in result["written_over_plain"].items():
        ratio = timing.Spread(**values)
        say(f"  ours on {name} / plain: {ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})")
    result["peers"] = {}
    if pythons and workload.name in libraries.WORKLOADS:
        result["peers"] = libraries.compare(workload.name, problem, ours, times["ours"], pythons, say)
    return result


def _result(
    workload: Workload, problem: Problem, everyone: dict[str, Contender], times: dict[str, list[float]], clients: int
) -> dict[str, Any]:
    mine = timing.spread(times["ours"])
    steps = dict.fromkeys(everyone, problem.num_steps)
    steps["fastest"] = contenders.steps_of_fastest(problem, everyone["fastest"].setting)
    over = [name for name in everyone if name != "ours" and name not in problem.written]
    return {
        "name": workload.name,
        "title": workload.title,
        "num_clients": problem.population.num_clients,
        "clients_a_round": clients,
        "batch_size": problem.batch_size,
        "steps_a_round": problem.num_steps,
        "rounds_per_second": 1 / mine.median,
        "client_steps_per_second": problem.num_steps / mine.median,
        "clients_per_second": clients / mine.median,
        "compile_seconds": everyone["ours"].compile_seconds,
        "programs": {
            name: {
                **contender.setting._asdict(),
                "steps": steps[name],
                "compile_seconds": contender.compile_seconds,
                "seconds": timing.spread(times[name])._asdict(),
                "all_seconds": times[name],
            }
            for name, contender in everyone.items()
        },
        "ours_over": {name: timing.ratios(times["ours"], times[name])._asdict() for name in over},
    }


def _peak(ours: Contender, before: int | None) -> tuple[fl.PassInfo, memory.Memory]:
    """Runs one round, and looks what memory it takes."""
    gc.collect()
    cleared = memory.forget_peak()
    info = jax.block_until_ready(ours.run())
    peak = memory.Memory(before, memory.resident_peak(), cleared, memory.device_peak())
    return info, peak


@contextlib.contextmanager
def no_compilation_cache() -> Generator[None]:
    """Programs are compiled anew, so that the time this takes is told."""
    from jax.experimental.compilation_cache import compilation_cache

    enabled = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # it asks whether it is enabled once a process
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()


def _chosen(names: list[str] | None) -> list[Workload]:
    if names is None:
        return list(WORKLOADS.values())
    unknown = [name for name in names if name not in WORKLOADS]
    if unknown or not names:
        raise ValueError(f"`workloads` is {names}; expected names of {', '.join(WORKLOADS)}, or None for all of them.")
    return [WORKLOADS[name] for name in dict.fromkeys(names)]


def _raise_failures(results: list[dict[str, Any]]) -> None:
    """After the table, so that one library that fails costs no measurement."""
    errors = [peer["error"] for result in results for peer in result["peers"].values() if "error" in peer]
    if errors:
        raise RuntimeError("\n".join(errors))


def _use_all_cores(say: Say) -> None:
    try:
        fl.use_cpu_cores()
    except RuntimeError:
        say(
            f"warning: JAX has started already, with {jax.device_count()} {jax.default_backend()} devices, and keeps "
            f"them; {machine.cores()} cores are there. Run the suite in a process of its own to use them all."
        )


def _warn_if_busy(found: dict[str, Any]) -> None:
    load = found["load_average"]
    if load is not None and load[0] > 0.5 + 0.1 * found["cores"]:
        _say(
            f"warning: the load average is {load[0]:.1f} on {found['cores']} cores, so other programs run too. Ratios "
            "are taken turn by turn and suffer less; times and settings may be off."
        )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
