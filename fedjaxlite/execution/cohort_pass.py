"""One pass over a cohort: every client's work, encoded, guarded and summed. Rounds and evaluations are built on it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite.data.client_view import ENCODE, ClientData
from fedjaxlite.data.prepared.drawing import Drawn
from fedjaxlite.execution.bytes_sent import Traffic, beside_the_broadcast, of_cohort
from fedjaxlite.execution.halves.client_half import ClientState as ClientState
from fedjaxlite.execution.halves.client_half import encoded
from fedjaxlite.execution.halves.server_half import counted
from fedjaxlite.execution.lanes.cohort_inputs import Inputs, Part
from fedjaxlite.execution.lanes.schedule import Schedule, balanced, dealt, owned
from fedjaxlite.execution.lanes.waves import run_lanes
from fedjaxlite.execution.layout import Layout, merge
from fedjaxlite.execution.model_axis.placing import like_params
from fedjaxlite.execution.model_axis.shardings import Table
from fedjaxlite.execution.prepared.ties import tied
from fedjaxlite.execution.side_by_side import held_by, room, rows_on_devices
from fedjaxlite.protocol.algorithm import Aggregate, ClientOutput
from fedjaxlite.sampling import Cohort
from fedjaxlite.wire.aggregator import Aggregator, ClientInfo, Message, Stacked, Wire
from fedjaxlite.wire.chain import chain
from fedjaxlite.wire.head import are_scalars, wire_of
from fedjaxlite.wire.packing.forms import num_bytes

PyTree = Any


class PassInfo(NamedTuple):
    """What a pass over a cohort tells beside its sum. Simulation only: a real server would not see `clients`.

    Attributes:
      num_selected: int32, clients that downloaded the model.
      num_reported: int32, those of them that sent something.
      num_nonfinite: int32, reports left out of the sum because they held NaN or infinity.
      num_examples: int32, examples of the clients in the sum.
      overflow: int32, sampled clients that found no slot in the cohort.
      metrics: dict of float32 scalars, the mean of `clients` over the clients in the sum, weighted by their examples;
        of what is one number a client.
      clients: dict of `[K, ...]` arrays in cohort order: "id" (-1 in a spare slot), "num_examples", "in_sum",
        "bytes_up" and "bytes_down" (uint32; a client that dropped out has downloaded, and one that is late has sent for
        nothing), "nonfinite", "left_out" where something stands before a rule (clients of the sum whose messages it did
        not let through), and the algorithm's own `ClientOutput.info`.
      aggregator: dict of scalars that the aggregator's codecs tell of themselves; a real server sees these.
      sampler: dict of scalars that a sampler with a memory tells: "simulated_seconds" (an `fl.sampling.Seconds`),
        "staleness_mean" ...
    """

    num_selected: Any
    num_reported: Any
    num_nonfinite: Any
    num_examples: Any
    overflow: Any
    metrics: Mapping[str, Any]
    clients: Mapping[str, Any]
    aggregator: Mapping[str, Any] = {}
    sampler: Mapping[str, Any] = {}


OfSlot = Callable[[ClientData, PyTree, jax.Array], ClientOutput]
"""`(data, client_state, slot) -> ClientOutput`."""


def client_task(
    client_fn: OfSlot,
    aggregator: Aggregator,
    aggregator_state: Any,
    fold: str,
    seen: Callable[[int, PyTree], None],
    table: Table = (),
    adjust: Callable[[Message, jax.Array], Message] | None = None,
) -> Any:
    """The work of one lane: the client's update, guarded against NaN, encoded, read, and zeroed where no client is.

    `seen` is told the bytes of a message, and the shapes of what is read of it, when the task is traced. `table` says
    how the parameters are sharded. `adjust(element, slot)` is what the server does to one client's part of the sum
    before it adds it.

    A client whose update is not finite keeps its old state; for its message see `encoded`. A lane without a client has
    its element zeroed *after* encoding, since the code of zero need not be zero.
    """

    def task(data: ClientData, state: ClientState, alive: jax.Array, scale: jax.Array, slot: jax.Array) -> Part:
        output = like_params(client_fn(data, state.algorithm, slot), table)
        key = jax.random.fold_in(data.key, ENCODE)
        known = ClientInfo(data.id, scale, key, alive, slot, data.noise)
        message, new_state, finite, client = encoded(output, aggregator, aggregator_state, state.codec, known)
        ok = alive & finite
        element = aggregator.read(aggregator_state, message, client)
        element = element if adjust is None else adjust(element, slot)
        seen(num_bytes(message), jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), element.value))
        element = jax.tree.map(lambda x: jnp.where(alive, x, jnp.zeros_like(x)), element)
        new_state = jax.tree.map(lambda new, old: jnp.where(ok, new, old), new_state, state)
        counts = {
            "in_sum": ok.astype(jnp.int32),
            "nonfinite": (alive & ~finite).astype(jnp.int32),
            "examples": jnp.where(ok, data.num_examples, 0),
        }
        told = {**output.info, **aggregator.tell(aggregator_state, message)}
        own = {name: jnp.asarray(value) for name, value in told.items()}
        rows = {"in_sum": ok, "info": own}
        if fold == "rows":
            held = jax.tree.map(lambda x: jnp.where(ok, x, jnp.zeros_like(x)), element.value)
            return Part(counts, {**rows, "message": element._replace(value=())}, new_state, held)
        if fold == "stack":
            return Part(counts, {**rows, "message": element}, new_state)
        return Part({**counts, "message": element}, rows, new_state)

    return task


class Pass(NamedTuple):
    """The result of `run_pass` on one device, merged over all of them.

    Attributes:
      total: a Message of sums, or Stacked, or Rows.
      num_clients: int32, clients in the sum.
      bank: this device's new client states.
      info: a PassInfo.
    """

    total: Any
    num_clients: jax.Array
    bank: PyTree
    info: PassInfo


def run_pass(
    client_fn: OfSlot,
    *,
    aggregator: Aggregator,
    aggregator_state: Any,
    fold: str,
    drawn: Drawn,
    bank: ClientState,
    key: jax.Array,
    noise: jax.Array,
    device: Any,
    layout: Layout,
    alike: bool = False,
    downloaded: int = 0,
    more: Callable[[PyTree], jax.Array] | None = None,
    adjust: Callable[[Message, jax.Array], Message] | None = None,
    told: int = 0,
) -> Pass:
    """Runs a cohort on this device's share of lanes and sums over devices; inside `over_devices`.

    Args:
      client_fn: `(data, client_state, slot) -> ClientOutput`.
      aggregator: a chain.
      aggregator_state: its state.
      fold: "sum", "stack" or "rows", what the chain needs: `wire.rows.fold_of`.
      drawn: who takes part, and on what data.
      bank: the states of this device's clients; a ClientState of empty trees ties no client to a device.
      key: the round's client key.
      noise: the round's key for noise that clients draw.
      device: int32 scalar, this device's index.
      layout: lanes and devices.
      alike: whether all clients are known to have as many examples and to do all of their work.
      downloaded: bytes of what is broadcast to one client.
      more: `more(state) -> uint32`, what a client with this state downloads beside it.
      adjust: what the server does to a client's part of the sum; see `client_task`.
      told: bytes that each client sends beside its message, to whoever chooses clients.
    """
    seen: list[tuple[int, PyTree]] = []  # known once the task is traced, and for clients that never run it: late ones
    note = lambda *found: seen.append(found)  # noqa: E731
    task = client_task(client_fn, aggregator, aggregator_state, fold, note, layout.table, adjust)
    population, cohort, rows = drawn.population, drawn.cohort, drawn.rows
    active = cohort.selected & cohort.reported
    sizes = population.offsets[rows + 1] - population.offsets[rows] if drawn.sizes is None else drawn.sizes
    examples = sizes.astype(jnp.float32)
    work = examples * cohort.work
    tie = tied(drawn, bank, device, layout)

    def scheduled(queues: bool, device: Any = device) -> Schedule:
        if tie.owner is not None:
            return owned(work, active, tie.owner, device=device)
        split: dict[str, Any] = {"device": device, "num_devices": layout.num_devices}
        # No device may train more clients than it has room for, or more than others that wait for it.
        fair = queues or fold == "rows" or layout.in_step
        return dealt(work, active, **split) if fair else balanced(work, active, lanes=layout.lanes, **split)

    slots = cohort.ids.shape[0]
    held = None
    if fold == "rows":
        held = held_by(scheduled(True), slots, room(slots, tie.clients, layout.num_devices), layout)
    most = None
    if layout.in_step:
        every = jnp.arange(layout.num_devices, dtype=jnp.int32)
        most = jax.vmap(lambda each: scheduled(False, each).size)(every).max()
    inputs = Inputs(population, cohort, rows, tie.rows, key, noise, alike, held, most)
    mine = None if tie.owner is None else tie.owner == device
    own = beside_the_broadcast(more, bank.algorithm, tie.rows, mine)
    summed, stacked, bank, kept = run_lanes(task, inputs, bank, scheduled, layout)
    if own is not None:
        stacked = {**stacked, "more": own}
    summed, stacked = merge((summed, _widen(stacked)), layout)
    size, template = seen[-1]
    if held is not None:
        apart: dict[str, Any] = {"message": stacked.pop("message"), "present": stacked["in_sum"] > 0, "cohort": cohort}
        total = rows_on_devices(kept, held, template=template, device=device, layout=layout, **apart)
    else:
        total = summed.pop("message") if fold == "sum" else Stacked(stacked.pop("message"), stacked["in_sum"] > 0)
    up, down = aggregator.overhead(aggregator_state, slots)
    info = _pass_info(summed, stacked, cohort, active, examples, Traffic(size + up + told, downloaded + down))
    return Pass(total, summed["in_sum"], bank, info)


def _widen(stacked: PyTree) -> PyTree:
    # Booleans do not add up over devices.
    return jax.tree.map(lambda x: x.astype(jnp.int32) if x.dtype == jnp.bool_ else x, stacked)


def _pass_info(
    counts: Any, rows: Any, cohort: Cohort, active: jax.Array, sizes: jax.Array, traffic: Traffic
) -> PassInfo:
    in_sum = rows["in_sum"] > 0
    weight = jnp.where(in_sum, sizes, 0.0)
    total = jnp.maximum(weight.sum(), 1.0)
    metrics = {
        name: (jnp.where(in_sum, values.astype(jnp.float32), 0.0) * weight).sum() / total
        for name, values in rows["info"].items()
        if values.ndim == 1
    }
    clients = {
        **rows["info"],
        "id": jnp.where(cohort.selected, cohort.ids, -1),
        "num_examples": jnp.where(cohort.selected, sizes, 0.0).astype(jnp.int32),
        "in_sum": in_sum,
        "nonfinite": active & ~in_sum,
        **of_cohort(traffic, cohort, rows.get("more")),
    }
    return PassInfo(
        num_selected=jnp.sum(cohort.selected, dtype=jnp.int32),
        num_reported=jnp.sum(active, dtype=jnp.int32),
        num_nonfinite=counts["nonfinite"],
        num_examples=counts["examples"],
        overflow=cohort.overflow,
        metrics=metrics,
        clients=clients,
    )


def with_aggregate(
    result: Pass, aggregate: Aggregate, aggregator: Aggregator, state: Any
) -> tuple[Aggregate, PassInfo]:
    """What server and records are told, once the total was decoded to `aggregate` and the aggregator's new `state`."""
    info = result.info._replace(aggregator=aggregator.metrics(state))
    if aggregate.left_out is not None:
        info = info._replace(clients={**info.clients, "left_out": aggregate.left_out})
    return counted(aggregate, aggregator, result.num_clients), info


def wire_of_output(output: ClientOutput, *, arrays: bool = False, **of_run: Any) -> Wire:
    """The wire at the head of a chain, from the shapes of a client's output and what `wire_of` asks of a run.

    Args:
      output: a ClientOutput of shapes.
      arrays: whether `info` may hold arrays: records of a run do not.
      **of_run: for `wire_of`.
    """
    are_scalars((output.weight, dict(output.scalars), {} if arrays else dict(output.info)))
    return wire_of(output.update, weight=output.weight, scalars=output.scalars, **of_run)


def as_chain(aggregator: Aggregator) -> Aggregator:
    """The aggregator as a chain, so that a mean alone is complete."""
    if not isinstance(aggregator, Aggregator):
        raise TypeError(f"`aggregator` is {aggregator!r}; expected an Aggregator, such as fl.weighted_mean().")
    return aggregator if aggregator.role == "chain" else chain(aggregator)
