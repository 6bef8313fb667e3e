"""A method in an execution, and the laws that it is held to.

Laws compare single rounds that start from the same state wherever they can, so that a difference is told in the round
where it arises, and each needs nothing but the compiled programs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fedjaxlite as fl
from fedjaxlite import testing
from methods import participation
from methods.covering import AGGREGATORS, LAYOUTS, Cell
from methods.method import Method
from methods.participation import PARTICIPATIONS, ROUNDS, VICTIM

EXACT = testing.Tolerance(0.0, 0.0)


class Outcome(NamedTuple):
    """What `ROUNDS` rounds gave.

    Attributes:
      states: the first state and, by one round a call, that after every round; else the last alone.
      infos: the infos of all rounds, stacked.
    """

    states: tuple[Any, ...]
    infos: Any


@dataclass(frozen=True, eq=False)
class Runner:
    """One program: a method with an aggregator in an execution. Compiled once; plays are kept."""

    title: str
    run: fl.Rounds
    params: Any
    population: fl.Population
    way: str
    _played: dict[str, Outcome] = field(default_factory=dict)

    @cached_property
    def first(self) -> Any:
        """The first state, the same in every layout."""
        key = jax.random.key(3)
        return self.run.init(self.params, self.population, key=key, noise_key=jax.random.fold_in(key, 1))

    @cached_property
    def _keys(self) -> dict[str, jax.Array]:
        sharding = self.first.keys.sample.sharding
        return {name: jax.device_put(participation.key(name), sharding) for name in participation.SCENARIOS}

    def within(self, state: Any, scenario: str) -> Any:
        """The state whose sampler draws a scenario."""
        return state._replace(keys=state.keys._replace(sample=self._keys[scenario]))

    def step(self, state: Any, scenario: str, population: fl.Population | None = None) -> tuple[Any, Any]:
        """One round of a scenario, on other data where given."""
        return self.run.step(self.within(state, scenario), self.population if population is None else population)

    def steps(self, scenario: str, population: fl.Population | None = None) -> Outcome:
        """All rounds in one call."""
        first = self.within(self.first, scenario)
        data = self.population if population is None else population
        state, infos = self.run.steps(first, data, ROUNDS)
        return Outcome((first, state), jax.device_get(infos))

    def play(self, scenario: str) -> Outcome:
        """All rounds of a scenario, from the first state."""
        if scenario not in self._played:
            if self.way == "steps":
                self._played[scenario] = self.steps(scenario)
            else:
                states, infos = [self.within(self.first, scenario)], []
                for _ in range(ROUNDS):
                    state, info = self.step(states[-1], scenario)
                    states.append(state)
                    infos.append(info)
                stacked = jax.tree.map(lambda *rows: np.stack(rows), *jax.device_get(infos))
                self._played[scenario] = Outcome(tuple(states), stacked)
        return self._played[scenario]

    def visible(self, state: Any) -> dict[str, Any]:
        """What no layout may change, on the host; banks have spare rows, which depend on the number of devices."""
        n = self.population.num_clients
        clients = jax.tree.map(lambda leaf: leaf[:n], jax.device_get(state.clients))
        return {
            "server_state": jax.device_get(state.server_state),
            "aggregator_state": jax.device_get(state.aggregator_state),
            "clients": clients,
        }


@dataclass(frozen=True, eq=False)
class Trial:
    """A method in an execution, which is held to the laws, and in the reference layout, with one aggregator."""

    method: Method
    cell: Cell
    reference: Runner
    other: Runner
    tolerance: testing.Tolerance

    def rounds(self) -> Iterator[tuple[Runner, str, int, Any, Any]]:
        """Every round that can be run alone: its runner, participation, number, and the states around it."""
        runner = self.other
        for scenario in PARTICIPATIONS if runner.way == "step" else ():
            states = runner.play(scenario).states
            yield from ((runner, scenario, r, states[r], states[r + 1]) for r in range(ROUNDS))


def trial(method: Method, cell: Cell, reference: Runner | None = None) -> Trial:
    """Composes a method's two programs, each compiled when a law first needs it; the reference may be given."""
    population = with_empty_client(method.population())
    algorithm, params = method.make(), method.params()

    def runner(layout: str, way: str) -> Runner:
        run = fl.rounds(
            algorithm,
            sampler=participation.sampler(population.num_clients),
            aggregator=AGGREGATORS[cell.aggregator](),
            execution=LAYOUTS[layout],
        )
        title = f"{method.name} with {cell.aggregator}, {layout}, by {way}"
        return Runner(title, run, params, population, way)

    # Rounding differs between layouts, and now and then it carries a quantized entry to the next level.
    atol = max(method.atol, 2e-4) if cell.aggregator == "quantize" else method.atol
    tolerance = testing.Tolerance(1e-5, atol)
    other = runner(cell.layout, cell.way)
    itself = (cell.layout, cell.way) == ("1 lane", "step")
    return Trial(method, cell, reference or (other if itself else runner("1 lane", "step")), other, tolerance)


def with_empty_client(population: fl.Population) -> fl.Population:
    """The population and one client more, who has no examples."""
    offsets = np.asarray(population.offsets)
    return fl.Population(population.features, np.append(offsets, offsets[-1]), population.max_size)


def check_layout(held: Trial) -> None:
    """The other execution gives what the reference gives, round by round where it calls rounds one by one."""
    one, other = held.reference, held.other
    for scenario in PARTICIPATIONS:
        want, got = one.play(scenario), other.play(scenario)
        what = f"{other.title}, against the reference: {scenario}"
        numbers = range(1, ROUNDS + 1) if other.way == "step" else (ROUNDS,)
        for r in numbers:
            state = got.states[r if other.way == "step" else -1]
            about = f"{what}, round {r - 1}"
            testing.assert_close(
                other.visible(state), one.visible(want.states[r]), what=about, tolerance=held.tolerance
            )
        testing.assert_close(got.infos, want.infos, what=f"{what}, infos", tolerance=held.tolerance)


def check_finite(held: Trial) -> None:
    """Nothing is NaN or infinite, of any client or round: those without examples, stragglers, rounds without anyone."""
    runner = held.other
    for scenario in PARTICIPATIONS:
        outcome = runner.play(scenario)
        what = f"{runner.title}: {scenario}"
        bad = np.flatnonzero(outcome.infos.num_nonfinite)
        assert not bad.size, f"{what}, round {bad[0]}: {outcome.infos.num_nonfinite[bad[0]]} updates are not finite."
        places = jax.tree_util.tree_flatten_with_path((runner.visible(outcome.states[-1]), outcome.infos))[0]
        for path, leaf in places:
            fine = not jnp.issubdtype(leaf.dtype, jnp.floating) or np.isfinite(leaf.astype(np.float64)).all()
            assert fine, f"{what}: {jax.tree_util.keystr(path)} is not finite: {leaf}"


def check_padding(held: Trial) -> None:
    """NaN in the examples and states of clients that do not report, in this round, change nothing."""
    n = held.other.population.num_clients
    for runner, scenario, r, before, after in held.rounds():
        idle = participation.idle(n, scenario)[r]
        spoiled = before._replace(clients=testing.spoiled_states(before.clients, idle))
        got, _ = runner.step(spoiled, scenario, testing.poisoned(runner.population, idle))
        want = after._replace(clients=testing.spoiled_states(after.clients, idle))
        what = f"{runner.title}: NaN in clients {idle}, who do not report: {scenario}, round {r}"
        testing.assert_close(runner.visible(got), runner.visible(want), what=what)
    if held.other.way == "steps":
        for scenario in ("stragglers", "poisson"):
            never = sorted(set.intersection(*map(set, participation.idle(n, scenario))))
            got = held.other.steps(scenario, testing.poisoned(held.other.population, never)).states[-1]
            want, visible = held.other.play(scenario).states[-1], held.other.visible
            what = f"{held.other.title}: NaN in clients {never}, who never report: {scenario}"
            testing.assert_close(visible(got), visible(want), what=what)


def check_order(held: Trial) -> None:
    """The same numbers for the cohort backwards."""
    for runner, scenario, r, before, after in held.rounds():
        if scenario == "stragglers":
            got, _ = runner.step(before, "turned")
            what = f"{runner.title}: the cohort backwards, round {r}"
            testing.assert_close(runner.visible(got), runner.visible(after), what=what, tolerance=held.tolerance)


def check_nonfinite(held: Trial) -> None:
    """A client whose update is NaN is left out and counted, as if it had not reported."""
    for runner, scenario, r, before, _ in held.rounds():
        if scenario == "everyone" and r == 1:
            bad, info = runner.step(before, scenario, testing.poisoned(runner.population, [VICTIM]))
            absent, _ = runner.step(before, "absent")
            what = f"{runner.title}: NaN in all examples of client {VICTIM}, against its absence, round {r}"
            count = 0 if held.method.leaves_out else 1
            assert int(info.num_nonfinite) == count, f"{what}: {int(info.num_nonfinite)} updates are counted so."
            assert not held.method.leaves_out or info.metrics["missing"] > 0, f"{what}: nothing is counted."
            testing.assert_close(runner.visible(bad), runner.visible(absent), what=what, tolerance=held.tolerance)


def check_resume(held: Trial) -> None:
    """A state that went through numpy goes on bit for bit."""
    for runner, scenario, r, before, after in held.rounds():
        if scenario == "stragglers":
            got, _ = runner.step(testing.through_numpy(before), scenario)
            what = f"{runner.title}: the state through numpy before round {r}"
            testing.assert_close(runner.visible(got), runner.visible(after), what=what)


LAWS: dict[str, Callable[[Trial], None]] = {
    "finite": check_finite,
    "layout": check_layout,
    "padding": check_padding,
    "order": check_order,
    "nonfinite": check_nonfinite,
    "resume": check_resume,
}
