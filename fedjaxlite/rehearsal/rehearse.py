"""A rehearsal: the very program of a round, compiled for an accelerator that is not at hand."""

import contextlib
import re
import time
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjaxlite import checks
from fedjaxlite.data.population import Population
from fedjaxlite.execution.composition import Rounds, rounds
from fedjaxlite.execution.lanes.equations import change_cost, has_one_loop
from fedjaxlite.execution.layout import Layout, resolve, with_lanes
from fedjaxlite.execution.round_state import RoundState
from fedjaxlite.observers.progress import size
from fedjaxlite.rehearsal import hlo
from fedjaxlite.rehearsal.absent import devices_of
from fedjaxlite.rehearsal.flops import Flops, RoundWork, work_of
from fedjaxlite.rehearsal.loops import Collective, collectives_of, step_loop
from fedjaxlite.rehearsal.programs import Memory, compiled_for, first_shapes, lowered, memory_of
from fedjaxlite.rehearsal.roofline import Roofline, assumptions, count_of, roofline, time_of
from fedjaxlite.rehearsal.steps import Length, length_of
from fedjaxlite.rehearsal.targets import Target, target_named
from fedjaxlite.rehearsal.traffic import Traffic, traffic_of_round, traffic_of_step

PyTree = Any
_MOST_TRIES = 8


class Trial(NamedTuple):
    """A round with one number of lanes, compiled for a target.

    Attributes:
      lanes: L.
      memory: XLA's own account for each device; None where its compiler gave up.
      refused: what the compiler said where it gave up for want of memory; else empty.
      compile_seconds: tracing and compiling.
      kernels: what one local step of all lanes starts, a recurrent model's own loops included.
      trips: how often the loop of local steps runs at a time; None where XLA does not know, so that a GPU's host looks
        at its condition at every step.
      collectives: sums and exchanges over the devices, by kind.
      length: steps one after another; None where the algorithm does not tell its local steps.
      flops: of a round's products on the busiest device, idle lanes included; counted in the traced program. Devices
        that train a client together have even shares of it.
      traffic: kernels and bytes of a round on the busiest device; counted in the compiled text.
      roofline: the least time of a round; None where the number of steps is not known, and where devices train a client
        together.
      xla_flops: what XLA's own analysis counts, each loop once; None where it has none (GPUs).
    """

    lanes: int
    memory: Memory | None
    refused: str
    compile_seconds: float
    kernels: int = 0
    trips: int | None = None
    collectives: tuple[Collective, ...] = ()
    length: Length | None = None
    flops: Flops = Flops()
    traffic: Traffic = Traffic()
    roofline: Roofline | None = None
    xla_flops: float | None = None

    def over(self, target: Target) -> int | None:
        """Bytes by which a device is too small; 0 where it is not, None where only the compiler knows."""
        return None if self.memory is None else max(0, self.memory.total - target.chip.usable)


class Rehearsal(NamedTuple):
    """Rounds compiled for a target.

    Attributes:
      target: what they were compiled for.
      trials: one for each number of lanes, in order.
      lanes: of those that fit, the one with the least bound on a round, the most lanes where none is known; 0 where
        none fits.
      num_devices: of the target, how many the run takes.
      state_bytes: what a run carries from round to round, all client states included.
    """

    target: Target
    trials: tuple[Trial, ...]
    lanes: int
    num_devices: int
    state_bytes: int

    @property
    def fitting(self) -> tuple[Trial, ...]:
        """The trials that fit into the target's memory."""
        return tuple(trial for trial in self.trials if trial.over(self.target) == 0)

    def __str__(self) -> str:
        """A table, a line for each number of lanes; what binds the best of them; and what does not fit."""
        heads = ("lanes", "memory a device", "kernels/step", "steps in turn", "FLOP a round", "at least", "bound by")
        rows = [heads, *(_row(trial, self.target) for trial in self.trials)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([*lines, "", *_remarks(self)])


def rehearse(
    run: Rounds,
    params: PyTree,
    population: Population,
    *,
    target: str,
    lanes_options: Sequence[int] | None = None,
) -> Rehearsal:
    """Compiles a run's round for accelerators that are not at hand; `fl.plan(..., target=...)` tells the result.

    Args:
      run: the composed run. Its devices are all of the target's, or the first n under `Execution(devices=n)`.
      params: the model, or its shapes.
      population: the data, or their shapes.
      target: of `target_named`.
      lanes_options: numbers of lanes to compile; None takes what the run would choose there and, where that does not
        fit, looks for the largest number that does.

    Returns:
      a Rehearsal.

    Raises:
      ModuleNotFoundError: the environment lacks the target's compiler.
      TypeError, ValueError: for arguments out of range, and whatever `run.init` refuses.
    """
    known = target_named(target)
    devices = _asked(run, known, devices_of(known))
    there = _There(run, known, devices)
    state = first_shapes(there.run(1), params, population)
    work = _round_work(there.run(1), state, population)
    tried: dict[int, Trial] = {}

    def trial(lanes: int) -> Trial:
        if lanes not in tried:
            tried[lanes] = _trial(there, lanes, state, population, work)
        return tried[lanes]

    if lanes_options is not None:
        for lanes in lanes_asked(lanes_options):
            trial(min(lanes, run.sampler.capacity))
    else:
        model = jax.eval_shape(run.algorithm.params, state.server_state)
        layout = resolve(there.execution(run.execution.lanes), run.sampler.capacity)
        chosen = with_lanes(layout, model, population, run.sampler.capacity, memory=known.chip.usable).lanes
        _largest(trial, chosen, known)
    state_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    found = Rehearsal(known, tuple(tried[lanes] for lanes in sorted(tried)), 0, len(devices), state_bytes)
    return found._replace(lanes=_best(found))


def lanes_asked(lanes_options: Sequence[int]) -> list[int]:
    """Numbers of lanes to try, checked and in order."""
    if not len(lanes_options):
        raise ValueError("`lanes_options` is empty; give at least one number of lanes, or None.")
    for lanes in lanes_options:
        checks.positive_int(lanes_options=lanes)
    return sorted({int(lanes) for lanes in lanes_options})


class _There(NamedTuple):
    """A run, and where it is rehearsed."""

    asked: Rounds
    target: Target
    devices: tuple[Any, ...]

    def execution(self, lanes: int | None) -> Any:
        """The run's own execution on the target's devices."""
        own = self.asked.execution._replace(lanes=lanes, jit=True)
        if own.mesh is None:
            return own._replace(devices=list(self.devices))
        devices = np.asarray(self.devices).reshape(own.mesh.devices.shape)
        return own._replace(mesh=jax.sharding.Mesh(devices, own.mesh.axis_names))

    def run(self, lanes: int) -> Rounds:
        """The run, composed for the target's devices."""
        asked = self.asked
        return rounds(
            asked.algorithm, sampler=asked.sampler, aggregator=asked.aggregator, execution=self.execution(lanes)
        )


def _asked(run: Rounds, target: Target, devices: tuple[Any, ...]) -> tuple[Any, ...]:
    asked, mesh = run.execution.devices, run.execution.mesh
    if run.execution.mapping != "shard_map":
        raise ValueError(
            f"`Execution(mapping={run.execution.mapping!r})` cannot be compiled for devices that are not here; "
            'rehearse with mapping="shard_map".'
        )
    if mesh is not None:
        there = tuple(mesh.devices.flat)
        if mesh.size > len(devices):
            raise ValueError(
                f"`Execution(mesh=...)` has {mesh.size} devices, and {target.name} has {len(devices)}. Take a larger "
                "target, or a smaller mesh."
            )
        return there if set(there) <= set(devices) else devices[: mesh.size]
    if asked is None:
        return devices
    if isinstance(asked, Sequence) and set(asked) <= set(devices):
        return tuple(asked)
    if not isinstance(asked, (int, np.integer)):
        raise ValueError(
            f"`Execution(devices=...)` names {len(asked)} devices of this machine, and the target is {target.name}; "
            "expected None for all of the target's, how many, or some of them."
        )
    if asked > len(devices):
        raise ValueError(f"`Execution(devices={asked})` is more than the {len(devices)} devices of {target.name}.")
    return devices[: int(asked)]


def _largest(trial: Any, chosen: int, target: Target) -> None:
    """Tries the chosen number of lanes and, where it does not fit, fewer: until the largest that fits is known."""
    if trial(chosen).over(target) == 0 or chosen == 1:
        return
    fits, fails = 1, chosen
    if trial(1).over(target) != 0:
        return
    for _ in range(_MOST_TRIES):
        if fails - fits <= 1:
            return
        between = _guess(trial(fits), trial(fails), target) or (fits + fails) // 2
        middle = min(max(between, fits + 1), fails - 1)
        fits, fails = (middle, fails) if trial(middle).over(target) == 0 else (fits, middle)


def _guess(fits: Trial, fails: Trial, target: Target) -> int | None:
    """The most lanes that fit, if memory grew evenly with them."""
    if fits.memory is None or fails.memory is None or fails.memory.total <= fits.memory.total:
        return None
    a_lane = (fails.memory.total - fits.memory.total) / (fails.lanes - fits.lanes)
    return fits.lanes + int((target.chip.usable - fits.memory.total) / a_lane)


def _best(found: Rehearsal) -> int:
    fitting = found.fitting
    timed = [(trial.roofline.seconds, trial.lanes) for trial in fitting if trial.roofline]
    return min(timed)[1] if timed else max((trial.lanes for trial in fitting), default=0)


def _trial(there: _There, lanes: int, state: RoundState, population: Population, work: RoundWork) -> Trial:
    run = there.run(lanes)
    layout = resolve(run.execution, run.sampler.capacity)
    begin = time.perf_counter()
    try:
        with _not_kept():
            compiled = compiled_for(lowered(run, state, population, layout), there.target.chip.platform)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Trial(lanes, None, _told(str(error)), time.perf_counter() - begin)
    seconds = time.perf_counter() - begin
    tied = bool(jax.tree.leaves(state.clients))
    known: dict[str, Any] = {"tied": tied, "change_cost": work.change_cost}
    length = length_of(run.algorithm.hparams, run.sampler, population, layout, **known)
    return _read(compiled, there.target, layout, length, work)._replace(lanes=lanes, compile_seconds=seconds)


def _read(compiled: Any, target: Target, layout: Layout, length: Length | None, work: RoundWork) -> Trial:
    text = hlo.read(compiled.as_text())
    loop, a_step, exchanged = step_loop(text), traffic_of_step(text), collectives_of(text)
    steps, waves = (length.steps, length.turns) if length else (None, None)
    whole = traffic_of_round(text, steps, waves)
    flops = work.on_device(steps or 1.0, waves or 1.0, layout.lanes).times(1 / layout.num_shards)
    # What devices that train a client together exchange in every step is in no bound here.
    bound = length is not None and layout.num_shards == 1
    num_bytes = float(sum(each.num_bytes for each in exchanged))
    told = compiled.cost_analysis() or {}
    return Trial(
        lanes=layout.lanes,
        memory=memory_of(compiled),
        refused="",
        compile_seconds=0.0,
        kernels=round(a_step.kernels),
        trips=loop.trips if loop else None,
        collectives=exchanged,
        length=length,
        flops=flops,
        traffic=whole,
        roofline=roofline(target.chip, flops, whole, a_step, num_bytes, layout.num_devices) if bound else None,
        xla_flops=told.get("flops"),
    )


def _round_work(run: Rounds, state: RoundState, population: Population) -> RoundWork:
    programs = run.parts(state, population)
    client, server = (work_of(programs[name][0].jaxpr) for name in ("client", "server"))
    program = programs["client"][0].jaxpr
    return RoundWork(client, server, change_cost(program) if has_one_loop(program) else None)


def _told(error: str) -> str:
    """The compiler's own sentence on memory."""
    found = re.search(r"RESOURCE_EXHAUSTED: ([^\n]*)", error)
    return (found[1] if found else error).strip()


@contextlib.contextmanager
def _not_kept() -> Generator[None]:
    """Keeps what is compiled for absent devices out of JAX's cache on disk, from which it could not be read again."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before: Any = jax.config.values[name]
    jax.config.update(name, 1e9)
    try:
        yield
    finally:
        jax.config.update(name, before)


def _row(trial: Trial, target: Target) -> tuple[str, ...]:
    over = trial.over(target)
    if trial.memory is None:
        return (str(trial.lanes), "does not fit", "-", "-", "-", "-", "-")
    memory = size(trial.memory.total) + (" too much" if over else "")
    length, line = trial.length, trial.roofline
    told = ("unknown",) * 4
    if length and line:
        told = (_number(length.steps), count_of(trial.flops.total), time_of(line.seconds), line.bound)
    return (str(trial.lanes), memory, str(trial.kernels), *told)


def _remarks(found: Rehearsal) -> list[str]:
    lines = _on_fit(found)
    best = next((trial for trial in found.trials if trial.lanes == found.lanes), None)
    if best is None or best.memory is None:
        return lines
    lines.append(f"with {_lanes(best.lanes)}, on each device:")
    names = ("arguments", "temporaries", "output", "of it in place of arguments")
    parts = ", ".join(f"{size(part)} {name}" for name, part in zip(names, best.memory, strict=True))
    lines.append(f"  memory       {parts}; by XLA's own account")
    exchanged = ", ".join(f"{each.number} {each.kind} of {size(each.num_bytes)}" for each in best.collectives)
    lines.append(f"  exchange     {exchanged or 'none'}")
    known = "not known to the compiler" if best.trips is None else f"known, {best.trips} at a time"
    lines.append(f"  local steps  {best.kernels} kernels each; length of their loop {known}")
    if best.length and best.roofline:
        lines += _on_time(found, best, best.length, best.roofline)
    else:
        why = "the algorithm does not tell its local steps (batch_size with epochs or steps)"
        shared = "what devices that train a client together exchange in a step is not estimated"
        lines.append(f"  time         unknown: {shared if best.length else why}")
    return lines


def _on_time(found: Rehearsal, best: Trial, length: Length, line: Roofline) -> list[str]:
    of_sizes = "" if length.exact else "; sizes are not known: every client has the mean size"
    drawn = "" if length.cohorts == 1 else f", the mean of {length.cohorts} cohorts"
    once = "" if best.xla_flops is None else f"; XLA's analysis, each loop once: {count_of(best.xla_flops)}"
    parts = {name: getattr(line, name) for name in ("products", "memory", "launches", "exchange")}
    told = ", ".join(f"{name} {time_of(seconds)}" for name, seconds in parts.items())
    cached = " (what a step touches fits into the cache: memory does not bind)" if line.cached else ""
    return [
        f"  schedule     {_number(length.steps, 'step')} one after another in {_number(length.turns, 'turn')}, an even "
        f"split is {_number(length.even)}{drawn}{of_sizes}",
        f"  FLOP         {count_of(best.flops.total)} a round in matrix products and convolutions, counted in the "
        f"traced program{once}",
        f"  bytes        {size(best.traffic.num_bytes)} a round read and written, {best.traffic.kernels:,.0f} kernels, "
        "counted in the compiled text",
        f"  at least     {told}{cached}",
        f"A lower bound, as if all of these overlapped, at the data sheet's {assumptions(found.target.chip)}.",
    ]


def _on_fit(found: Rehearsal) -> list[str]:
    """What does not fit, and the number that would."""
    target, chip = found.target, found.target.chip
    failed = [trial for trial in found.trials if trial.over(target) != 0]
    if not failed:
        return []
    most = max((trial.lanes for trial in found.fitting), default=0)
    room = f"{size(chip.usable)} of a {chip.title}"
    if chip.gpu:
        room += f" (JAX takes three quarters of {size(chip.memory)}; XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 takes more)"
    needs = "; ".join(f"{_lanes(trial.lanes)} {_need(trial, target)}" for trial in failed)
    lines = [f"does not fit into {room}: {needs}."]
    if most:
        fits = "fits" if most == 1 else "fit"
        return [*lines, f"{_lanes(most)} {fits}: fl.Execution(lanes={most})."]
    return [*lines, f"No number of lanes that was tried fits. {_remedy(found, failed[0])}"]


def _number(mean: float, of: str = "") -> str:
    number = f"{mean:,.0f}" if mean >= 10 else f"{mean:.2g}"
    return f"{number} {of}{'' if mean == 1 else 's'}" if of else number


def _lanes(number: int) -> str:
    return f"{number} lane" if number == 1 else f"{number} lanes"


def _need(trial: Trial, target: Target) -> str:
    if trial.memory is None:
        return f"would need more, as the compiler says ({trial.refused.rstrip('.')})"
    return f"would need {size(trial.memory.total)}, {size(trial.over(target) or 0)} too much"


def _remedy(found: Rehearsal, trial: Trial) -> str:
    usable = found.target.chip.usable
    state = found.state_bytes
    if 3 * state > usable:
        return (
            f"The state alone is {size(state)}, and a round holds it, the next one and a copy of the model a lane: "
            "take a larger device, train a part of the model (low-rank adapters), or spread client states over more "
            "devices."
        )
    if trial.memory is not None and 2 * trial.memory.arguments > usable:
        return (
            f"Most of it is the data, {size(trial.memory.arguments - state)}, of which every device holds a copy: hand "
            "a cohort's data alone (fl.prepare_cohort)."
        )
    return (
        "Where the algorithm takes them, remat=True keeps no activations, micro_batch_size= takes a few rows at a time "
        "and compute_dtype=jnp.bfloat16 halves what a step keeps; so does a smaller batch_size."
    )
