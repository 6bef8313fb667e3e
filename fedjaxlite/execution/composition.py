"""Rounds: an algorithm, a sampler, an aggregator and an execution, composed into one XLA program."""

import weakref
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from fedjaxlite import checks
from fedjaxlite.data.population import Population
from fedjaxlite.data.prepared.drawing import apart
from fedjaxlite.data.prepared_cohort import PreparedCohort
from fedjaxlite.execution import going_on
from fedjaxlite.execution.bytes_sent import Traffic, broadcast
from fedjaxlite.execution.cohort_pass import PassInfo, as_chain
from fedjaxlite.execution.layout import Execution, Layout, over_devices, place, placed_shapes, resolve, with_model
from fedjaxlite.execution.ledger import Ledger
from fedjaxlite.execution.one_round import (
    Program,
    client_of,
    first_state,
    run_rounds,
    templates,
    traffic,
)
from fedjaxlite.execution.part_programs import part_programs
from fedjaxlite.execution.prepared import checking, placing
from fedjaxlite.execution.prepared.client_rows import rows_of
from fedjaxlite.execution.round_state import RoundState
from fedjaxlite.protocol.algorithm import Algorithm
from fedjaxlite.sampling import Sampler
from fedjaxlite.wire.aggregator import Aggregator, Wire
from fedjaxlite.wire.rows import fold_of

PyTree = Any


class Rounds(NamedTuple):
    """A composed run; see `rounds`.

    Attributes:
      init: `init(params, population, *, key, noise_key=None, cohort_key=None) -> RoundState`. All that can be refused
        is refused here. `key` is what clients and server draw from, and who takes part where nothing is private.
        `noise_key` is what noise for privacy comes from: None takes the operating system's entropy, one of
        `fl.noise_keys(num_runs)` is as secret, and a plain key makes a run that can be repeated and is not private.
        `cohort_key` fixes who takes part; None draws cohorts from the noise key under a mechanism of privacy, since
        what can be drawn again amplifies nothing, and else from `key`.
      step: `step(state, data) -> (state, PassInfo)`, one round. `data` is a Population, or a PreparedCohort.
      steps: `steps(state, population, num_rounds) -> (state, PassInfo)` in one dispatch; infos stacked `[num_rounds]`.
      go_on: `go_on(state, population, *, noise_key=None, cohort_key=None) -> RoundState`, a state of another
        composition, which this one goes on with: model, client states and round stay, aggregator and noise begin anew.
        The state's ledger then holds both, and accountants that get the state count both.
      check: `check(state, data)`, refuses what `step` would: a state noised by another composition.
      lower: `lower(state, data, num_rounds=None) -> jax.stages.Lowered`, the program of `step` (or of `steps`) without
        running it, for XLA's own analysis of memory and cost.
      params: `params(state)`, the model that is evaluated and exported.
      client_params: `client_params(state, client) -> params`, one client's personalized model.
      traffic: `traffic(params, population) -> Traffic`.
      wire: `wire(params, population) -> Wire`, the facts at the end of the chain, for accountants.
      parts: `parts(state, population, lanes=None) -> {name: programs}`, what clients, server and sampler compute, as
        traced programs; see `execution.part_programs`.
      algorithm, sampler, aggregator, execution: what was composed.
    """

    init: Callable[..., RoundState]
    step: Callable[[RoundState, Any], tuple[RoundState, PassInfo]]
    steps: Callable[[RoundState, Population, int], tuple[RoundState, PassInfo]]
    go_on: Callable[..., RoundState]
    check: Callable[[RoundState, Any], None]
    lower: Callable[..., jax.stages.Lowered]
    params: Callable[[RoundState], PyTree]
    client_params: Callable[[RoundState, int], PyTree]
    traffic: Callable[[PyTree, Population], Traffic]
    wire: Callable[[PyTree, Population], Wire]
    parts: Callable[..., dict[str, tuple[Any, ...]]]
    algorithm: Algorithm
    sampler: Sampler
    aggregator: Aggregator
    execution: Execution


def rounds(
    algorithm: Algorithm,
    *,
    sampler: Sampler,
    aggregator: Aggregator,
    execution: Execution = Execution(),  # noqa: B008  (a NamedTuple, immutable)
) -> Rounds:
    """Composes the four axes of a federated run into pure functions, each one XLA program.

    A round: the sampler draws a cohort; every client downloads what the algorithm broadcasts, trains on its own data
    and encodes its update; the encoded updates are summed as clients finish; the server decodes the sum and updates
    its state. A client's result is a function of the run's key, the round and its id: it depends neither on lanes or
    devices nor on who else was sampled.

    Args:
      algorithm: what clients and server compute.
      sampler: who takes part.
      aggregator: what crosses the wire; a mean, or a chain that begins with one.
      execution: lanes and devices.

    Returns:
      a Rounds of pure functions.

    Raises:
      TypeError, ValueError: for parts that are not what they should be. What depends on the model and the data is
        refused by `init`, before any training.

    Source: McMahan et al. (2017), https://arxiv.org/abs/1602.05629, algorithm 1.

    Example:
      >>> import fedjaxlite as fl, jax.numpy as jnp, optax
      >>> from fedjaxlite import algorithms
      >>> data = fl.Population.from_arrays({"x": np.float32([1, 2, 3, 6])}, client_ids=[0, 0, 1, 1])
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> algorithm = algorithms.fed_avg(loss, client_optimizer=optax.sgd(1.0), batch_size=None, epochs=1)
      >>> run = fl.rounds(algorithm, sampler=fl.sampling.full(2), aggregator=fl.weighted_mean())
      >>> state = run.init(jnp.float32(0), data, key=jax.random.key(0))
      >>> state, info = run.step(state, data)
      >>> float(state.params), int(info.num_reported)
      (3.0, 2)
    """
    program = _composed(algorithm, sampler, aggregator, execution)
    aggregator, layout, fold = program.aggregator, program.layout, fold_of(program.aggregator)
    place_once, going = _placer(layout), going_on.going(program)

    @lru_cache(maxsize=32)
    def compiled(num_rounds: int | None) -> Callable[..., Any]:
        own = program if num_rounds is None else program._replace(client=client_of(algorithm))
        model_of = lambda state: algorithm.params(state.server_state)  # noqa: E731
        return over_devices(lambda *args: run_rounds(own, fold, num_rounds, *args), layout, model_of)

    def check(state: RoundState, data: Any) -> None:
        _check_data(data, state, program)
        checking.check(program, state, data)
        going.check(state, data)

    def run(state: RoundState, data: Any, num_rounds: int | None) -> tuple[RoundState, PassInfo]:
        check(state, data)
        if isinstance(data, Population):
            checking.check_whole(program, state, data)
            _check_clients(data.num_clients, state, program)
            _check_rounds_left(state, num_rounds or 1, sampler, aggregator)
        data = data if checks.is_traced(data) else place_once(data)
        state = state if checks.is_traced(state) else _moved(state, program)
        (rest, info), clients = compiled(num_rounds)(*_arguments(state, data))
        if not checks.is_traced(info):
            _settle(info, program)
        return rest._replace(clients=clients, ledger=state.ledger, elsewhere=state.elsewhere), info

    def init(
        params: PyTree, population: Population, *, key: Any, noise_key: Any = None, cohort_key: Any = None
    ) -> RoundState:
        state = first_state(program, params, population, key, noise_key, cohort_key)
        going.remember(state, population.num_clients)
        # Traced once more as a whole, so that whatever is wrong with the server's half is said now.
        jax.eval_shape(compiled(None), *_arguments(state, checking.shapes(program, population, state.clients)))
        return state

    def steps(state: RoundState, population: Population, num_rounds: int) -> tuple[RoundState, PassInfo]:
        num_rounds = checks.positive_int(num_rounds=num_rounds)
        if isinstance(population, PreparedCohort):
            raise TypeError("`steps` draws its own cohorts and got a PreparedCohort; use `step` for each of them.")
        return run(state, population, int(num_rounds))

    def client_params(state: RoundState, client: int) -> PyTree:
        if execution.states_elsewhere:
            own = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), rows_of(execution, state, [client]).algorithm)
        else:
            _check_client(client, state)
            own = jax.tree.map(lambda leaf: leaf[client], state.clients.algorithm)
        return algorithm.client_params(broadcast(algorithm, state.server_state), own)

    def lower(state: RoundState, data: Any, num_rounds: int | None = None) -> jax.stages.Lowered:
        program_of: Any = compiled(num_rounds)
        program_of = program_of if hasattr(program_of, "lower") else jax.jit(program_of)
        data = checking.shapes(program, data, state.clients) if num_rounds is None else placed_shapes(data, layout)
        return program_of.lower(*_arguments(state, data))

    return Rounds(
        init=init,
        step=lambda state, data: run(state, data, None),
        steps=steps,
        go_on=going.go_on,
        check=check,
        lower=lower,
        params=lambda state: algorithm.params(state.server_state),
        client_params=client_params,
        traffic=lambda params, population: traffic(program, params, population),
        wire=lambda params, population: templates(program, params, population).wire,
        parts=lambda state, population, lanes=None: part_programs(program, state, population, lanes),
        algorithm=algorithm,
        sampler=sampler,
        aggregator=aggregator,
        execution=execution,
    )


def _arguments(state: RoundState, data: Any) -> tuple[Any, ...]:
    """What a program is called with: the state without the clients', the data, the clients' states, pieces of data."""
    data, pieces, clients = apart(data)
    return _bare(state), data, state.clients if clients is None else clients, pieces


def _bare(state: RoundState) -> RoundState:
    """What a program works on: without the clients, which come apart, and whatever was before it."""
    return state._replace(clients=(), ledger=Ledger(), elsewhere=None)


def _composed(algorithm: Any, sampler: Any, aggregator: Any, execution: Any) -> Program:
    if not isinstance(algorithm, Algorithm):
        raise TypeError(f"`algorithm` is {algorithm!r}; expected an Algorithm, such as algorithms.fed_avg(...).")
    if not isinstance(sampler, Sampler):
        raise TypeError(f"`sampler` is {sampler!r}; expected a Sampler, such as fl.sampling.uniform(10).")
    aggregator = as_chain(aggregator)
    return Program(algorithm, sampler, aggregator, resolve(execution, sampler.capacity), client_of(algorithm))


def _check_data(data: Any, state: RoundState, program: Program) -> None:
    population = data.population if isinstance(data, PreparedCohort) else data
    if not isinstance(population, Population):
        raise TypeError(
            f"the data of a step are a {type(population).__name__}; expected the Population that `init` got, or a "
            "PreparedCohort."
        )
    going_on.check_state(state)
    leaves = [leaf for leaf in jax.tree.leaves(state) if isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer)]
    if any(leaf.is_deleted() for leaf in leaves):
        raise ValueError(
            "`state` was given to an earlier step under Execution(donate=True), which took over its memory. Go on from "
            "the state that that step returned, or run without donate."
        )
    banks = jax.tree.leaves(state.clients)
    if banks and banks[0].shape[0] % program.layout.num_devices:
        raise ValueError(
            f"the state keeps {banks[0].shape[0]} client states, which {program.layout.num_devices} devices cannot "
            "share equally: it was made for another number of devices. Make it with this run's `init`."
        )


def _check_clients(num_clients: int, state: RoundState, program: Program) -> None:
    program.sampler.check(num_clients)
    banks, devices = jax.tree.leaves(state.clients), program.layout.num_devices
    if banks and banks[0].shape[0] != -(-num_clients // devices) * devices:
        raise ValueError(
            f"the state keeps {banks[0].shape[0]} client states, and the population has {num_clients} clients: it was "
            "made for another population, or another number of devices. Make it with this run's `init`."
        )


def _check_client(client: Any, state: RoundState) -> None:
    banks = jax.tree.leaves(state.clients.algorithm)
    if banks and not checks.is_traced(client) and not 0 <= client < banks[0].shape[0]:
        raise IndexError(f"client {client} is out of range; expected 0 to {banks[0].shape[0] - 1}.")


def _moved(state: RoundState, program: Program) -> RoundState:
    """The state on this layout's devices: one that was made on others may go on here, with the same numbers."""
    if set(state.round.devices()) == set(program.layout.devices):
        return state
    layout = with_model(program.layout, program.algorithm.params(state.server_state))
    clients = place(state.clients, layout, sharded=True)
    return place(state._replace(clients=()), layout)._replace(clients=clients)


def _check_rounds_left(state: RoundState, more: int, sampler: Sampler, aggregator: Aggregator) -> None:
    if checks.is_traced(state.round):
        return
    began = state.ledger.last.begin if state.ledger.last else 0  # an aggregator that goes on begins anew
    for name, what, most, before in (
        (sampler.name, "has cohorts for", sampler.num_rounds, 0),
        (aggregator.name, "is made for", aggregator.num_rounds, began),
    ):
        done = int(state.round.addressable_data(0)) - before if most is not None else 0
        if most is not None and done + more > most:
            raise ValueError(
                f"{name} {what} {most} rounds; {done} are done and {more} more were asked for. Ask for fewer, or give "
                "it more rounds."
            )


def _settle(info: PassInfo, program: Program) -> None:
    """Errors that only a finished round can tell, and the wait that several CPU devices need."""
    if program.layout.platform == "cpu" and program.layout.num_devices > 1:
        # Rounds enqueued faster than they run can deadlock the collectives of virtual CPU devices.
        jax.block_until_ready(info)
    overflow = int(np.max(info.overflow.addressable_data(0))) if program.sampler.may_overflow else 0
    if overflow > 0:
        raise RuntimeError(
            f"{overflow} sampled clients found no slot in {program.sampler.name}'s capacity of "
            f"{program.sampler.capacity}, so the round is not what its accounting says. Raise `capacity`."
        )


_THERE: weakref.WeakKeyDictionary[Population, weakref.WeakValueDictionary[Any, Population]] = (
    weakref.WeakKeyDictionary()
)
"""Populations as they lie on devices; alive as long as some rounds hold them."""


def _placer(layout: Layout) -> Callable[[Any], Any]:
    """Puts a population on the devices once; a later call with the same object finds it there.

    So does a call of other rounds on the same devices, such as those with fewer lanes.
    """
    placed: weakref.WeakKeyDictionary[Population, Population] = weakref.WeakKeyDictionary()

    def put(data: Any) -> Any:
        if not isinstance(data, Population):
            return placing.placed(data, layout)
        if data not in placed:
            there = _THERE.setdefault(data, weakref.WeakValueDictionary())
            where = (layout.devices, layout.mesh)
            found = there.get(where)
            if found is None:
                with jax.ensure_compile_time_eval():  # inside of a caller's jit too, what is kept must be an array
                    found = there[where] = place(data, layout)
            placed[data] = found
        return placed[data]

    return put
