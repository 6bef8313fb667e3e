"""The program behind `rounds`: its first state, one round of it on one device, and what it sends."""

import logging
import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite import checks, processes
from fedjaxlite.data.population import Population
from fedjaxlite.data.prepared.drawing import all_alike, draw
from fedjaxlite.data.prepared.whole import traceable
from fedjaxlite.execution import remembering
from fedjaxlite.execution.bytes_sent import Traffic, broadcast, downloaded, traffic_on
from fedjaxlite.execution.cohort_pass import (
    ClientState,
    PassInfo,
    run_pass,
    wire_of_output,
    with_aggregate,
)
from fedjaxlite.execution.first_keys import first_keys
from fedjaxlite.execution.halves import server_half
from fedjaxlite.execution.lanes.traced_client import ClientFn, draws_noise, output_template, traced_once
from fedjaxlite.execution.layout import (
    Layout,
    made_in_place,
    memory_of,
    place,
    spans_processes,
    with_lanes,
    with_model,
)
from fedjaxlite.execution.ledger import Composition, Ledger, Segment, segment_of
from fedjaxlite.execution.round_state import Keys, RoundState
from fedjaxlite.execution.side_by_side import kept_messages
from fedjaxlite.keys import NoiseKeys, as_key, is_tracing
from fedjaxlite.protocol.algorithm import Algorithm
from fedjaxlite.sampling import Sampler
from fedjaxlite.wire.aggregator import Aggregator, Wire

PyTree = Any
LOG = logging.getLogger("fedjaxlite.execution")


class Program(NamedTuple):
    """The four axes, checked.

    Attributes:
      algorithm: what clients and server compute.
      sampler: who takes part.
      aggregator: what crosses the wire, as a chain.
      layout: lanes and devices.
      client: `client(data, (shared, client_state)) -> ClientOutput`, the algorithm's `client_update`; see `client_of`.
    """

    algorithm: Algorithm
    sampler: Sampler
    aggregator: Aggregator
    layout: Layout
    client: ClientFn


_POPULATION = "a Population, such as fl.Population.from_arrays(arrays, client_ids=...) makes, or fl.datasets.load"


def client_of(algorithm: Algorithm) -> ClientFn:
    """The client's half of an algorithm, traced once by all that use this function."""
    return traced_once(lambda data, both: algorithm.client_update(both[0], both[1], data, data.key))


class Templates(NamedTuple):
    """What follows from the model and the data before anything runs.

    Attributes:
      output: the shapes of a client's ClientOutput.
      aggregator_state: the aggregator's first state.
      wire: the facts at the end of the chain.
      client_noise: whether the client's function draws from the noise key itself.
    """

    output: Any
    aggregator_state: Any
    wire: Wire
    client_noise: bool


def templates(program: Program, params: PyTree, population: Population, num_clients: int | None = None) -> Templates:
    """The shapes of a client's output, the aggregator's state, and the facts of the chain.

    Args:
      program: the four axes.
      params: the model, or its shapes.
      population: the data, or their shapes.
      num_clients: N, where the population is that of a single cohort.
    """
    checks.one_instance(Population, _POPULATION, population=population)
    _check_params(params)
    algorithm = program.algorithm
    server_state = jax.eval_shape(algorithm.init, params)
    shared = jax.eval_shape(lambda s: broadcast(algorithm, s), server_state)
    client_state = jax.eval_shape(algorithm.init_client, params)
    model = jax.eval_shape(algorithm.params, server_state)
    layout = with_lanes(program.layout, model, population, program.sampler.capacity)
    population = traceable(population)
    output = output_template(program.client, population, (shared, client_state), layout)
    checks.same_structure(
        output.client_state,
        client_state,
        what="the client_state that `client_update` returned",
        than="`init_client(params)`",
        remedy="Return a state of the same structure, shapes and dtypes, so that it can be kept.",
    )
    wire = wire_of_output(
        output,
        capacity=program.sampler.capacity,
        scaled=program.sampler.scaled,
        scalar_bounds=algorithm.scalar_bounds,
        num_clients=population.num_clients if num_clients is None else num_clients,
        participation=program.sampler.accounting,
    )
    state, told = program.aggregator.init(wire)
    beside = remembering.bytes_told(program.sampler)
    if is_tracing():  # facts that are numbers have to stay numbers
        with jax.ensure_compile_time_eval():
            told = program.aggregator.init(wire)[1]
    told = told._replace(overhead=(told.overhead[0] + beside, told.overhead[1]))
    return Templates(output, state, told, draws_noise(program.client, population, (shared, client_state), layout))


def segment(program: Program, found: Templates, begin: int) -> Segment:
    """What a ledger says of the rounds of a program."""
    composition = Composition(program.algorithm, program.sampler, program.aggregator, found.wire)
    return segment_of(composition, begin, client_noise=found.client_noise)


def run_keys(program: Program, found: Templates, key: Any, noise_key: Any, cohort_key: Any) -> Keys:
    """The keys of a run that begins with this program."""
    secret = found.wire.noised or found.wire.masked or found.client_noise
    who = program.algorithm.name if found.client_noise else program.aggregator.name
    return first_keys(
        *(key, noise_key, cohort_key), private=found.wire.noised, secret=secret, who=who, layout=program.layout
    )


def first_state(
    program: Program, params: PyTree, population: Population, key: Any, noise_key: Any, cohort_key: Any
) -> RoundState:
    """The state before round 0, on the devices of the layout; all checks of model against data come first."""
    checks.one_instance(Population, _POPULATION, population=population)
    _check_params(params)
    program.sampler.check(population.num_clients)
    _check_num_clients(program.algorithm, population)
    as_key(key, "key")
    algorithm, layout = program.algorithm, with_model(program.layout, params, strict=True)
    _check_processes(program, params, population, {"key": key, "noise_key": noise_key, "cohort_key": cohort_key})
    found = templates(program, params, population)
    keys = run_keys(program, found, key, noise_key, cohort_key)
    server_state, clients = _begin(program, params, found, population.num_clients, layout)
    ledger = Ledger((segment(program, found, 0),))
    state = RoundState(jnp.int32(0), server_state, found.aggregator_state, keys, ClientState((), ()), ledger)
    state = remembering.begun(program.sampler, algorithm, found.wire, layout, state, population, params)
    if checks.is_traced(state):
        return state._replace(clients=clients)
    sizes = {"num_clients": population.num_clients, "num_devices": layout.num_devices}
    kept = kept_messages(algorithm, program.aggregator, found.wire, params, **sizes)
    if kept is not None:
        LOG.info("%s", kept)
    rest = place(_owned_copy(state._replace(server_state=())), layout)
    server_state = server_state if layout.table else place(_owned_copy(server_state), layout)
    return rest._replace(server_state=server_state, clients=clients)


def _begin(
    program: Program, params: PyTree, found: Templates, num_clients: int, layout: Layout
) -> tuple[PyTree, ClientState]:
    """The server's first state, and what clients keep; of a sharded model no device holds the whole."""
    algorithm = program.algorithm

    def of_server(params: PyTree) -> PyTree:
        return jax.tree.map(jnp.asarray, algorithm.init(params))

    def of_clients(params: PyTree) -> ClientState:
        return ClientState(algorithm.init_client(params), program.aggregator.init_client(found.output.update))

    if not layout.table or checks.is_traced(params):
        params = jax.tree.map(jnp.asarray, params)
        return of_server(params), first_clients(of_clients(params), num_clients, program)
    everyone = made_in_place(lambda p: _for_everyone(of_clients(p), num_clients, layout), params, layout, sharded=True)
    return made_in_place(lambda p: jax.tree.map(jnp.copy, of_server(p)), params, layout), everyone


def first_clients(one: PyTree, num_clients: int, program: Program) -> PyTree:
    """What a state holds of the clients: all of them, or the rows of a cohort where they are kept elsewhere."""
    layout = program.layout
    elsewhere = layout.execution.states_elsewhere
    return bank(one, program.sampler.capacity * layout.num_devices if elsewhere else num_clients, layout)


def _check_processes(program: Program, params: PyTree, population: Population, keys: dict[str, Any]) -> None:
    """Refuses to begin where several processes are about to begin unlike runs."""
    if not spans_processes(program.layout) or checks.is_traced((params, population, keys)):
        return
    taking_part = {device.process_index for device in program.layout.devices}
    if len(taking_part) != processes.count():
        raise ValueError(
            f"`devices` are those of {processes.listed(sorted(taking_part))}, and there are {processes.count()} "
            "processes, all of which call these rounds. Take devices of every process, or leave `devices` out."
        )
    algorithm, sampler, aggregator = program.algorithm, program.sampler, program.aggregator
    told = program.layout.execution._replace(devices=program.layout.num_devices)
    data = {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in population.features.items()}
    keys = {name: value.key if isinstance(value, NoiseKeys) else value for name, value in keys.items()}
    values = {"params": params, **keys, "clients of the population": population.num_clients}
    values |= {"features of the population": data, "clients' numbers of examples": population.offsets}
    values |= {"algorithm": [algorithm.name, algorithm.hparams], "sampler": [sampler.name, sampler.capacity]}
    values |= {"aggregator": [aggregator.name, aggregator.hparams], "execution": told._asdict()}
    processes.same(values)


def bank(one: PyTree, num_clients: int, layout: Layout) -> PyTree:
    """One client's first state for all clients, on the devices that own them.

    Raises:
      ValueError: they are larger than the devices' memory. RuntimeError: than what is left of it.
    """
    # Every device owns as many clients as the others, so the last one may own some that do not exist.
    size = -(-num_clients // layout.num_devices) * layout.num_devices
    room = None if is_tracing() else memory_of(layout)
    bytes_of_all = size * sum(math.prod(jnp.shape(a)) * jnp.result_type(a).itemsize for a in jax.tree.leaves(one))
    if room is not None and bytes_of_all > room:
        raise ValueError(_too_large(num_clients, bytes_of_all, f", and the devices have {room / 1e9:.3g}"))
    try:
        clients = _for_everyone(one, num_clients, layout)
        return clients if checks.is_traced(clients) else place(clients, layout, sharded=True)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise RuntimeError(_too_large(num_clients, bytes_of_all, ", more than the devices have left")) from error


def _too_large(num_clients: int, bytes_of_all: int, more: str) -> str:
    return (
        f"what {num_clients} clients keep between their rounds takes {bytes_of_all / 1e9:.3g} GB{more}. Keep it in "
        'host memory, Execution(client_states="host"), or on a disk, Execution(client_states="a/folder").'
    )


def _for_everyone(one: PyTree, num_clients: int, layout: Layout) -> PyTree:
    # Every device owns as many clients as the others, so the last one may own some that do not exist.
    size = -(-num_clients // layout.num_devices) * layout.num_devices
    return jax.tree.map(lambda leaf: jnp.broadcast_to(jnp.asarray(leaf), (size, *jnp.shape(leaf))), one)


def _owned_copy(state: PyTree) -> PyTree:
    # Donation must never delete arrays that the caller still holds, such as the initial parameters.
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), state)


def _check_num_clients(algorithm: Algorithm, population: Population) -> None:
    told = algorithm.hparams.get("num_clients")
    if told is not None and not checks.is_traced(told) and told != population.num_clients:
        raise ValueError(
            f"{algorithm.name} was made with num_clients={told}, and the population has {population.num_clients} "
            "clients. Make it with num_clients=population.num_clients."
        )


def _check_params(params: PyTree) -> None:
    remedy = "Keep functions and settings outside of the parameters."
    checks.numeric_leaves("params", params, remedy=remedy, keys=True, structs=True)
    if not jax.tree.leaves(params):
        raise ValueError("`params` holds no arrays; expected the model, such as model.init(jax.random.key(0)).")


def run_rounds(
    program: Program,
    fold: str,
    num_rounds: int | None,
    device: Any,
    state: RoundState,
    data: Any,
    clients: ClientState,
    pieces: Any,
) -> tuple[Any, ClientState]:
    """One round, or `num_rounds` of them in a scan, on one device; inside `over_devices`."""
    one = partial(_one_round, program, fold, device, data=data, pieces=pieces)
    if num_rounds is None:
        state, clients, info = one(state, clients)
        return (state, info), clients

    def body(carry: Any, _: None) -> tuple[Any, PassInfo]:
        state, clients, info = one(carry[0], carry[1])
        return (state, clients), info

    (state, clients), infos = jax.lax.scan(body, (state, clients), None, length=num_rounds)
    return (state, infos), clients


def _one_round(
    program: Program, fold: str, device: Any, state: RoundState, clients: ClientState, data: Any, pieces: Any
) -> tuple[RoundState, ClientState, PassInfo]:
    algorithm, aggregator = program.algorithm, program.aggregator
    drawn = draw(program.sampler, state.keys.sample, state.round, data, device, pieces, state.sampler)
    population, cohort = drawn.population, drawn.cohort
    shared = broadcast(algorithm, state.server_state)
    layout = with_lanes(program.layout, algorithm.params(state.server_state), population, program.sampler.capacity)
    begun = server_half.begun(aggregator, state, cohort)
    began_from = remembering.of_slot(state.versions, cohort, shared)
    result = run_pass(
        lambda data, client_state, slot: program.client(data, (began_from(slot), client_state)),
        aggregator=aggregator,
        aggregator_state=begun.aggregator_state,
        fold=fold,
        drawn=drawn,
        bank=clients,
        key=begun.client_key,
        noise=begun.client_noise,
        device=device,
        layout=layout,
        alike=all_alike(program.sampler, data),
        downloaded=downloaded(algorithm, shared),
        more=None if algorithm.download is None else partial(algorithm.download, shared),
        adjust=remembering.adjusting(program.sampler, cohort, began_from, shared),
        told=remembering.bytes_told(program.sampler),
    )
    aggregate, aggregator_state = server_half.decoded(aggregator, state, begun, result.total)
    aggregate, info = with_aggregate(result, aggregate, aggregator, aggregator_state)
    remembered, info = remembering.learned(program.sampler, drawn.remembered, cohort, info)
    server_state = server_half.stepped(algorithm, state, aggregate)
    versions = remembering.with_newest(program.sampler, state.versions, remembered, broadcast(algorithm, server_state))
    new = state._replace(round=state.round + 1, server_state=server_state, aggregator_state=aggregator_state)
    return new._replace(sampler=remembered, versions=versions), result.bank, info


def traffic(program: Program, params: PyTree, population: Population) -> Traffic:
    """Bytes up and down of one client in one round, from shapes."""
    return traffic_on(templates(program, params, population).wire, program.algorithm, params)
