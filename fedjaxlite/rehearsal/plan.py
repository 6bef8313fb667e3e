"""Plan: what a run will cost, before it starts."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjaxlite import checks, processes
from fedjaxlite.data.population import Population
from fedjaxlite.data.prepared.gathering import most_examples
from fedjaxlite.data.prepared_cohort import prepare_cohort
from fedjaxlite.execution.bytes_sent import broadcast
from fedjaxlite.execution.composition import Rounds, rounds
from fedjaxlite.execution.layout import Layout, resolve, spans_processes
from fedjaxlite.execution.prepared.checking import streams
from fedjaxlite.execution.prepared.placing import placed
from fedjaxlite.execution.round_state import RoundState
from fedjaxlite.execution.side_by_side import Kept, kept_messages
from fedjaxlite.observers.progress import duration, size
from fedjaxlite.rehearsal.rehearse import Rehearsal, lanes_asked, rehearse
from fedjaxlite.rehearsal.roofline import time_of
from fedjaxlite.rehearsal.steps import client_steps, sizes_of
from fedjaxlite.wire.entropy import entropy_of_normal
from fedjaxlite.wire.packing.forms import num_bytes

PyTree = Any


class Probe(NamedTuple):
    """What one number of lanes costs.

    Attributes:
      lanes: L.
      compile_seconds: tracing and compiling one round; short where JAX's compilation cache knows it.
      seconds_per_round: the fastest of a few rounds.
      temp_bytes: temporary memory of the compiled round on each device, or None where the backend does not tell.
    """

    lanes: int
    compile_seconds: float
    seconds_per_round: float
    temp_bytes: int | None


class Plan(NamedTuple):
    """What a run will cost; printing it gives a table.

    Attributes:
      num_params: numbers in the model.
      num_clients: N.
      expected_cohort: clients in a round, on average and before dropouts.
      num_rounds: rounds that totals are for, or None.
      bytes_up: of one client in one round: the packed message.
      entropy_up: bytes that an ideal code of that message would take, where the update is normal; None where nothing is
        packed, behind a mask, and under a target.
      bytes_down: likewise.
      local_steps: all clients' local steps in a round, on average; None where the algorithm's hyperparameters do not
        say (it has no "batch_size" with "epochs" or "steps").
      state_bytes: what a run carries from round to round, all client states included: the size of a checkpoint.
      data_bytes: the packed population; every device holds a copy. Of one on a disk, a cohort of its largest clients.
      devices: D, and of what kind.
      probes: one for each number of lanes that was tried; none under a target.
      lanes: the fastest of them, for `fl.Execution(lanes=...)`; under a target `Rehearsal.lanes`.
      probe_seconds: what the plan itself took.
      kept: the messages that a rule needs side by side; None for a sum. `temp_bytes` holds them and what it adds.
      versions: how many models an asynchronous server keeps for clients at work, and the bytes of all of them on each
        device; None for a server that keeps the newest alone. `state_bytes` holds them.
      rehearsal: the round compiled for a target, a `rehearsal.rehearse.Rehearsal`; None without one.
    """

    num_params: int
    num_clients: int
    expected_cohort: float
    num_rounds: int | None
    bytes_up: int
    bytes_down: int
    local_steps: float | None
    state_bytes: int
    data_bytes: int
    devices: str
    probes: tuple[Probe, ...]
    lanes: int
    probe_seconds: float
    rehearsal: Rehearsal | None = None
    entropy_up: float | None = None
    kept: Kept | None = None
    versions: tuple[int, int] | None = None

    def __str__(self) -> str:
        """A table of what a client sends, what a round costs, and what each number of lanes measured."""
        rows = [
            ("model", f"{self.num_params:,} parameters"),
            ("clients", f"{self.num_clients:,}, {self.expected_cohort:g} a round"),
            ("a client sends", f"{size(self.bytes_up)} a round{_ideal(self)}"),
            ("a client receives", f"{size(self.bytes_down)} a round"),
            ("local steps", "unknown" if self.local_steps is None else f"{self.local_steps:,.0f} a round, all clients"),
            ("state, checkpoint", size(self.state_bytes)),
            ("data", f"{size(self.data_bytes)} on every device"),
            ("devices", self.devices),
        ]
        rows += [] if self.kept is None else [("messages kept", str(self.kept))]
        if self.versions is not None:
            number, total = self.versions
            rows += [("models kept", f"{number:,} versions for clients at work, {size(total)} on every device")]
        lines = [f"{name:<18} {value}" for name, value in rows]
        lines += ["", *(_table(self) if self.rehearsal is None else str(self.rehearsal).splitlines())]
        seconds = _seconds(self)
        if self.num_rounds is not None:
            up, down = (b * self.expected_cohort * self.num_rounds for b in (self.bytes_up, self.bytes_down))
            lines += ["", f"{self.num_rounds:,} rounds: {seconds}{size(up)} up, {size(down)} down"]
        return "\n".join(lines)


def plan(
    run: Rounds,
    params: PyTree,
    population: Population,
    *,
    num_rounds: int | None = None,
    lanes_options: Sequence[int] | None = None,
    budget_seconds: float = 20.0,
    target: str | None = None,
) -> Plan:
    """Tells what a run will cost: traffic, work and memory by arithmetic, time and lanes by a short probe.

    Numbers of lanes are tried from few to many, until one is clearly slower than the best before it or the budget is
    spent; at least one is always tried. Nothing of the probe goes into the run.

    With a target nothing is run: the very program of a round is compiled for accelerators that need not be here, and
    the plan tells whether it fits into their memory, what it does in a round, and the least time that this can take.

    Args:
      run: the composed run, from `fl.rounds`.
      params: the model, or anything of its structure, shapes and dtypes.
      population: what it will train on.
      num_rounds: rounds to give totals for.
      lanes_options: numbers of lanes to try; None tries 1, 2, 4, 8 on a CPU and 1, 4, 16, 64, 256 elsewhere, up to
        the clients of a device. With a target they are compiled, all of them; None takes the number that the run
        would choose there and, where that does not fit, looks for the largest that does.
      budget_seconds: no further number of lanes is probed after so many seconds.
      target: accelerators to compile for, such as "h100", "8xh100", "tpu-v5e-8" or "v5e:2x4"; the error on a name that
        is not known lists all. Needs the compiler alone: `fedjaxlite[rehearse-gpu]` or `fedjaxlite[rehearse-tpu]`.
        params and population may then be shapes, of sizes that this machine could not hold.

    Returns:
      a Plan; `print` it.

    Raises:
      TypeError, ValueError: for arguments out of range, and whatever `run.init` refuses.
      ModuleNotFoundError: for a target whose compiler is not installed.

    Example:
      >>> import fedjaxlite as fl, jax.numpy as jnp, optax
      >>> from fedjaxlite import algorithms
      >>> data = fl.Population.from_arrays({"x": np.float32([1, 2, 3, 6])}, client_ids=[0, 0, 1, 1])
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2
      >>> algorithm = algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.2), batch_size=1, epochs=3)
      >>> run = fl.rounds(algorithm, sampler=fl.sampling.full(2), aggregator=fl.weighted_mean())
      >>> costs = plan(run, jnp.float32(0), data, lanes_options=[1])
      >>> costs.num_params, costs.bytes_down, costs.local_steps, costs.lanes
      (1, 4, 12.0, 1)
    """
    begin = time.perf_counter()
    if not isinstance(run, Rounds):
        raise TypeError(f"`run` is a {type(run).__name__}; expected what fl.rounds(...) returns.")
    if num_rounds is not None:
        checks.positive_int(num_rounds=num_rounds)
    checks.positive(budget_seconds=budget_seconds)
    if target is not None:
        rehearsal = rehearse(run, params, population, target=target, lanes_options=lanes_options)
        where = f"{rehearsal.num_devices} x {rehearsal.target.chip.title}, compiled for and not run on"
        devices = (rehearsal.num_devices // resolve(run.execution, run.sampler.capacity).num_shards, where)
        return _plan(run, params, population, num_rounds, rehearsal.state_bytes, devices, rehearsal.lanes)._replace(
            probe_seconds=time.perf_counter() - begin,
            rehearsal=rehearsal,
        )
    layout = resolve(run.execution, run.sampler.capacity)
    # Processes that probe together have clocks of their own, and have to decide alike.
    agreed = _of_the_first if spans_processes(layout) else float
    probes: list[Probe] = []
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype) if _abstract(leaf) else leaf, params)
    state = run.init(params, population, key=jax.random.key(0), noise_key=jax.random.key(0))
    for lanes in _options(lanes_options, layout, run.sampler.capacity):
        if probes and agreed(time.perf_counter() - begin) > budget_seconds:
            break
        try:
            probes.append(_probe(run, lanes, state, population, agreed))
        except jax.errors.JaxRuntimeError:
            if not probes:
                raise
            break  # so many lanes do not fit into memory
        if probes[-1].seconds_per_round > 1.2 * min(p.seconds_per_round for p in probes):
            break
    where = f"{len(layout.devices)} x {layout.devices[0].device_kind}"
    fastest = min(probes, key=lambda probe: probe.seconds_per_round).lanes
    devices = (layout.num_devices, where)
    return _plan(run, params, population, num_rounds, num_bytes(state), devices, fastest)._replace(
        probes=tuple(probes),
        probe_seconds=time.perf_counter() - begin,
        entropy_up=_entropy(run, state, population),
    )


def _entropy(run: Rounds, state: RoundState, population: Population) -> float | None:
    wire, key = run.wire(run.params(state), population), jax.random.key(0)
    cohort = run.sampler.sample(key, 0, population)
    return entropy_of_normal(run.aggregator, wire, run.aggregator.begin(state.aggregator_state, cohort, key), key)


def _plan(
    run: Rounds,
    params: PyTree,
    population: Population,
    num_rounds: int | None,
    state_bytes: int,
    devices: tuple[int, str],
    lanes: int,
) -> Plan:
    """What follows by arithmetic, wherever the run goes."""
    traffic, wire = run.traffic(params, population), run.wire(params, population)
    sizes = {"num_clients": population.num_clients, "num_devices": devices[0]}
    return Plan(
        num_params=sum(int(np.size(leaf)) for leaf in jax.tree.leaves(params)),
        num_clients=population.num_clients,
        expected_cohort=run.sampler.accounting.expected_size(population.num_clients),
        num_rounds=num_rounds,
        bytes_up=traffic.up,
        bytes_down=traffic.down,
        local_steps=_local_steps(run, population),
        state_bytes=state_bytes,
        data_bytes=_data_bytes(run, population),
        devices=devices[1],
        probes=(),
        lanes=lanes,
        probe_seconds=0.0,
        kept=kept_messages(run.algorithm, run.aggregator, wire, params, **sizes),
        versions=_versions(run, params),
    )


def _versions(run: Rounds, params: PyTree) -> tuple[int, int] | None:
    memory, algorithm = run.sampler.memory, run.algorithm
    if memory is None or memory.versions == 1:
        return None
    shared = jax.eval_shape(lambda p: broadcast(algorithm, algorithm.init(p)), params)
    return memory.versions, memory.versions * num_bytes(shared)


def _ideal(costs: Plan) -> str:
    return "" if costs.entropy_up is None else f"; an ideal code of a normal update takes {size(costs.entropy_up)}"


def _table(costs: Plan) -> list[str]:
    lines = [f"{'lanes':>5}  {'s a round':>10}  {'rounds/s':>9}  {'compile':>8}  {'temporary memory':>16}"]
    for probe in costs.probes:
        memory = "unknown" if probe.temp_bytes is None else size(probe.temp_bytes)
        mark = "  fastest" if probe.lanes == costs.lanes else ""
        rate = 1 / max(probe.seconds_per_round, 1e-9)
        lines.append(
            f"{probe.lanes:>5}  {probe.seconds_per_round:>10.4f}  {rate:>9.1f}  "
            f"{duration(probe.compile_seconds):>8}  {memory:>16}{mark}"
        )
    return lines


def _seconds(costs: Plan) -> str:
    """What all rounds take together, in words."""
    number = costs.num_rounds or 0
    if costs.rehearsal is None:
        best = next(probe for probe in costs.probes if probe.lanes == costs.lanes)
        return f"about {duration(best.compile_seconds + best.seconds_per_round * number)}, without evaluation; "
    fitting = [trial for trial in costs.rehearsal.fitting if trial.lanes == costs.lanes and trial.roofline]
    return f"at least {time_of(fitting[0].roofline.seconds * number)}; " if fitting and fitting[0].roofline else ""


def _options(asked: Sequence[int] | None, layout: Layout, capacity: int) -> list[int]:
    if asked is not None:
        return lanes_asked(asked)
    usual = (1, 2, 4, 8) if layout.platform == "cpu" else (1, 4, 16, 64, 256)
    return [lanes for lanes in usual if lanes <= max(1, -(-capacity // layout.num_devices))]


def _of_the_first(seconds: float) -> float:
    """What the first of several processes measured."""
    return float(processes.agreed(seconds))


def _probe(
    run: Rounds, lanes: int, state: RoundState, population: Population, agreed: Callable[[float], float]
) -> Probe:
    """Compiles one round and times a few, on the state as it is: every round is the first one."""
    execution = run.execution._replace(lanes=lanes, donate=False, jit=True)
    trial = rounds(run.algorithm, sampler=run.sampler, aggregator=run.aggregator, execution=execution)
    layout = resolve(execution, run.sampler.capacity)
    data = placed(_first_cohort(run, state, population, layout.num_devices), layout)
    before = time.perf_counter()
    compiled = jax.jit(trial.step).lower(state, data).compile()
    compile_seconds = agreed(time.perf_counter() - before)
    jax.block_until_ready(compiled(state, data))
    times: list[float] = []
    while len(times) < 5 and sum(times) < 1.0:
        before = time.perf_counter()
        jax.block_until_ready(compiled(state, data))
        times.append(agreed(time.perf_counter() - before))
    memory = compiled.memory_analysis()
    return Probe(lanes, compile_seconds, min(times), getattr(memory, "temp_size_in_bytes", None))


def _first_cohort(run: Rounds, state: RoundState, population: Population, devices: int) -> Any:
    """What a step gets: all of a population, or a cohort with its data and its clients' states, where these stream."""
    if not streams(run.execution, population):
        return population
    cohort = run.sampler.sample(state.keys.sample, 0, population)
    if not run.execution.states_elsewhere:
        return prepare_cohort(population, cohort)
    # All clients keep the same before the first round, so that no store has to be asked.
    clients = jax.tree.map(lambda leaf: leaf[: run.sampler.capacity], state.clients)
    return prepare_cohort(population, cohort, num_devices=devices, clients=clients)


def _data_bytes(run: Rounds, population: Population) -> int:
    if not population.on_disk:
        return num_bytes(population)
    row_bytes = sum(array.nbytes for array in population.features.values()) / max(1, int(population.offsets[-1]))
    return round(row_bytes * most_examples(population, run.sampler.capacity))


def _local_steps(run: Rounds, population: Population) -> float | None:
    """The expected number of local steps of a cohort, from the clients' sizes."""
    steps = client_steps(run.algorithm.hparams, sizes_of(population)[0])
    if steps is None:
        return None
    return float(steps.mean() * run.sampler.accounting.expected_size(population.num_clients))


def _abstract(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)
