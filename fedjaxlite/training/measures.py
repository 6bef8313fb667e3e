"""All evaluations of a run as one function of its state, and which way what they give is better."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax

from fedjaxlite import checks
from fedjaxlite.data.client_report import ClientReport
from fedjaxlite.directions import Direction, direction
from fedjaxlite.execution.composition import Rounds
from fedjaxlite.execution.round_state import RoundState
from fedjaxlite.observers import records


class Measured(NamedTuple):
    """What the evaluations of a state gave.

    Attributes:
      metrics: by the names that records use.
      on_clients: those of them that were measured on clients' data, which no guarantee of privacy covers.
    """

    metrics: Mapping[str, float]
    on_clients: tuple[str, ...]


class Measures(NamedTuple):
    """Evaluations by name; see `measures`.

    Attributes:
      functions: `(name, function, whether it gets the parameters alone)`.
      params: `params(state)`, the model.
    """

    functions: tuple[tuple[str, Callable[[Any], Any], bool], ...]
    params: Callable[[RoundState], Any]

    def __call__(self, state: RoundState) -> Measured:
        """All evaluated metrics."""
        metrics, on_clients = {}, []
        for name, function, of_params in self.functions:
            # One device's copy: evaluating the same on every device would cost a CPU as many times as much.
            argument = jax.tree.map(records.here, self.params(state)) if of_params else state
            result = function(argument)
            numbers = records.scalars_of(result, f"the evaluation {name!r}")
            metrics.update({f"{name}_{metric}": value for metric, value in numbers.items()})
            if not of_params or isinstance(result, ClientReport):
                on_clients += [f"{name}_{metric}" for metric in numbers]
        return Measured(metrics, tuple(on_clients))

    def better(self, recorded: Iterable[str], given: Mapping[str, Direction]) -> dict[str, Direction]:
        """Which way the evaluated metrics of these names are better, as far as it was said; `given` goes first."""
        found: dict[str, Direction] = {}
        for name in recorded:
            ways: set[Direction] = {
                way
                for own, function, _ in self.functions
                if name.startswith(f"{own}_") and (way := _direction(name.removeprefix(f"{own}_"), function, given))
            }
            ways = {given[name]} if name in given else ways
            if len(ways) == 1:
                found[name] = ways.pop()
        return found


def _direction(metric: str, function: Any, given: Mapping[str, Direction]) -> Direction | None:
    return direction(metric, {**getattr(function, "better", {}), **given})


def measures(rounds: Rounds, evaluate: Any, evaluate_state: Any) -> Measures | None:
    """The evaluations that `fl.train` was given.

    Args:
      rounds: the composed run.
      evaluate: a function of the parameters, a dict of them by name, or None; a single one is called "test".
      evaluate_state: likewise, of the state; a single one is called "clients".

    Returns:
      a Measures, or None without evaluations.

    Raises:
      TypeError: for what is no function.
    """
    functions: list[tuple[str, Any, bool]] = []
    for given, single, argument in ((evaluate, "test", "evaluate"), (evaluate_state, "clients", "evaluate_state")):
        if given is None:
            continue
        named = given if isinstance(given, Mapping) else {single: given}
        for name, function in named.items():
            checks.is_callable(**{f"{argument}[{name!r}]" if isinstance(given, Mapping) else argument: function})
            functions.append((name, function, argument == "evaluate"))
    return Measures(tuple(functions), rounds.params) if functions else None
