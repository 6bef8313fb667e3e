"""A state that goes on: steps by another composition than the one that noised it are refused, unless it is said."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from fedjaxlite import checks
from fedjaxlite.data.population import Population
from fedjaxlite.data.prepared.whole import num_clients_of
from fedjaxlite.data.prepared_cohort import PreparedCohort
from fedjaxlite.execution import remembering
from fedjaxlite.execution.halves.client_half import ClientState
from fedjaxlite.execution.layout import place, with_model
from fedjaxlite.execution.ledger import UNPROTECTED, Segment, difference
from fedjaxlite.execution.one_round import Program, bank, run_keys, segment, templates
from fedjaxlite.execution.round_state import RoundState

PyTree = Any


class GoingOn(NamedTuple):
    """What rounds can say of states that come to them.

    Attributes:
      check: `check(state, data)`, refuses a state whose last rounds had other noise than these rounds have. What was
        found to fit is remembered, so that a step costs one look-up.
      remember: `remember(state, num_clients)`, tells that a state was made here.
      go_on: see `Rounds.go_on`.
    """

    check: Callable[[RoundState, Any], None]
    remember: Callable[[RoundState, int | None], None]
    go_on: Callable[..., RoundState]


def going(program: Program) -> GoingOn:
    """The GoingOn of a program."""
    fits: set[tuple[str, int | None]] = set()

    def remember(state: RoundState, num_clients: int | None) -> None:
        fits.add((_facts(state), num_clients))

    def check(state: RoundState, data: Any) -> None:
        last, prepared = state.ledger.last, isinstance(data, PreparedCohort)
        # A prepared cohort holds its own clients only; how many there are is what the run began with.
        known = num_clients_of(data.population) if prepared else data.num_clients
        num_clients = known if known is not None else last.num_clients if last else None
        if (_facts(state), num_clients) in fits:
            return
        population = data.population if prepared else data
        found = templates(program, program.algorithm.params(state.server_state), population, num_clients)
        own = segment(program, found, 0)
        if own.facts != _facts(state):
            raise ValueError(_other(program, own, last))
        remember(state, num_clients)

    def go_on(state: RoundState, population: Population, *, noise_key: Any = None, cohort_key: Any = None) -> Any:
        check_state(state)
        state = _taken_over(program, state, population, noise_key, cohort_key)
        remember(state, population.num_clients)
        return state

    return GoingOn(check, remember, go_on)


def check_state(state: Any) -> None:
    """Refuses what is no RoundState."""
    if not isinstance(state, RoundState):
        raise TypeError(f"`state` is a {type(state).__name__}; expected the RoundState that `init` or a step returned.")


def _facts(state: RoundState) -> str:
    return UNPROTECTED if state.ledger.last is None else state.ledger.last.facts


def _other(program: Program, own: Segment, last: Segment | None) -> str:
    if last is None:
        return (
            f"`state` does not say what its rounds were made by (its ledger is empty), and {program.aggregator.name} "
            "is to give a guarantee for all of them. Make the state with this run's `init`."
        )
    return (
        "`state` was noised by another composition than this one, which has "
        f"{difference(own, last)}. One epsilon for all of its rounds would be wrong. If this composition is meant to "
        "go on with it, say so: state = rounds.go_on(state, population); then accountants that are given the state "
        "count both."
    )


def _taken_over(
    program: Program, state: RoundState, population: Population, noise_key: Any, cohort_key: Any
) -> RoundState:
    """A state of another composition, with which this one goes on."""
    if not isinstance(population, Population):
        raise TypeError(f"`population` is a {type(population).__name__}; expected the Population of the next rounds.")
    if checks.is_traced(state.round):
        raise ValueError(
            "`go_on` is called inside of jit or vmap, where the number of rounds that are done is not known, and the "
            "ledger of the state has to hold it. Call it outside, on one state at a time."
        )
    algorithm, layout = program.algorithm, program.layout
    if layout.execution.states_elsewhere and jax.tree.leaves(state.clients):
        raise ValueError(
            f"`go_on` takes over what clients keep where devices have all of it, and these rounds keep it elsewhere "
            f"(client_states={layout.execution.client_states!r}). Begin a run of its own: rounds.init(params, ...)."
        )
    params = _params(program, state)
    layout = with_model(layout, params, strict=True)
    program.sampler.check(population.num_clients)
    found = templates(program, params, population)
    old = state.keys
    new = run_keys(program, found, old.sample, noise_key, cohort_key)
    if not found.wire.noised and cohort_key is None:
        new = new._replace(sample=old.sample, secret_cohorts=old.secret_cohorts)
    keys = new._replace(client=old.client, server=old.server)
    if any(earlier.facts for earlier in state.ledger.segments):  # what was known once is known
        keys = keys._replace(secret=new.secret & old.secret, secret_cohorts=new.secret_cohorts & old.secret_cohorts)
    done = int(state.round.addressable_data(0))
    kept = state.clients.algorithm
    checks.same_structure(
        kept,
        jax.eval_shape(lambda: bank(algorithm.init_client(params), population.num_clients, layout)),
        what="the clients' state",
        than=f"what {algorithm.name} keeps at the clients of this population",
        remedy="Begin a run of its own: rounds.init(params, ...).",
    )
    codec = bank(program.aggregator.init_client(found.output.update), population.num_clients, layout)
    ledger = state.ledger.then(segment(program, found, done))
    rest = RoundState(state.round, state.server_state, found.aggregator_state, keys, ClientState((), ()), ledger)
    rest = remembering.begun(program.sampler, algorithm, found.wire, layout, rest, population, params)
    clients = ClientState(place(kept, layout, sharded=True), codec)
    return place(rest, layout)._replace(clients=clients)


def _params(program: Program, state: RoundState) -> PyTree:
    """The model of a state, whose server state has to be one of this program's algorithm."""
    algorithm = program.algorithm
    remedy = "Begin a run of its own: rounds.init(params, ...)."
    try:
        params = algorithm.params(state.server_state)
        expected = jax.eval_shape(algorithm.init, params)
    except (AttributeError, KeyError, IndexError, TypeError) as error:
        raise ValueError(
            f"the server's state is a {type(state.server_state).__name__}, of which {algorithm.name} finds no model "
            f"({error}). {remedy}"
        ) from None
    checks.same_structure(
        state.server_state,
        expected,
        what="the server's state",
        than=f"the `init(params)` of {algorithm.name}",
        remedy=remedy,
    )
    return params
