"""What noised a state: a ledger of the compositions that its rounds were made by, for accountants.

A ledger is structure, not data: it is static, so it costs nothing at run time, jit and vmap treat it as part of a
state's type, and a step by another composition is refused when it is dispatched. The engine does not look into what
mechanisms say; it writes it down.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer

from fedjaxlite.keys import is_random_key
from fedjaxlite.protocol.algorithm import Algorithm
from fedjaxlite.sampling import Sampler
from fedjaxlite.wire.aggregator import Aggregator, Wire

UNPROTECTED = ""
"""The facts of rounds in which nothing adds noise for privacy, whatever else they are made of."""

_TRACED = "<traced>"


class Composition(NamedTuple):
    """What accountants read off composed rounds.

    Attributes:
      algorithm: what clients and server compute.
      sampler: who takes part.
      aggregator: what crosses the wire, as a chain.
      wire: the facts at the end of the chain.
    """

    algorithm: Algorithm
    sampler: Sampler
    aggregator: Aggregator
    wire: Wire


@dataclass(frozen=True)
class Segment:
    """Rounds that one composition made.

    Attributes:
      begin: the rounds that were done before its first one.
      facts: a text (JSON) of what decides about the noise: mechanisms, bounds, sampler, number of clients. Two segments
        of equal facts have the same guarantee. `UNPROTECTED` where nothing adds noise.
      composition: what was composed; None where nothing adds noise, and where a fact was a tracer (a hyperparameter
        under vmap), of which no guarantee follows.
    """

    begin: int
    facts: str
    composition: Composition | None = field(default=None, compare=False, repr=False)

    @property
    def traced(self) -> bool:
        """Whether a fact was a tracer, so that its value is not known."""
        return self.facts != UNPROTECTED and self.composition is None

    @property
    def num_clients(self) -> int | None:
        """Of the population that it was composed for; None where nothing adds noise."""
        told = self.told().get("num_clients")
        return None if told is None else int(told)

    def told(self) -> dict[str, Any]:
        """The facts as a dict; empty where nothing adds noise."""
        return json.loads(self.facts) if self.facts else {}


@jax.tree_util.register_static
@dataclass(frozen=True)
class Ledger:
    """The segments of a run, in order; a pytree without leaves. Empty where nobody kept it.

    Attributes:
      segments: each lasts until the next one begins, the last one until now.
    """

    segments: tuple[Segment, ...] = ()

    @property
    def last(self) -> Segment | None:
        """The segment that goes on; None in an empty ledger."""
        return self.segments[-1] if self.segments else None

    def then(self, segment: Segment) -> "Ledger":
        """The ledger of a run that another composition goes on with."""
        return Ledger((*(kept for kept in self.segments if kept.begin < segment.begin), segment))


def segment_of(composition: Composition, begin: int, *, client_noise: bool) -> Segment:
    """The segment of a composition, from what its parts state.

    Args:
      composition: what was composed.
      begin: the rounds done before.
      client_noise: whether the algorithm's clients draw from the noise key themselves.
    """
    algorithm, sampler, aggregator, wire = composition
    own = getattr(algorithm, "mechanisms", ())
    if not (wire.noised or wire.mechanisms or own or client_noise):
        return Segment(begin, UNPROTECTED)
    facts = {
        "aggregator": {"name": aggregator.name, **aggregator.hparams},
        "sampler": {"name": sampler.name, "capacity": sampler.capacity, "accounting": sampler.accounting},
        "num_clients": wire.num_clients,
        "weight_cap": wire.weight_cap,
        "bounds": wire.bounds,
        "masked": wire.masked,
        "mechanisms": wire.mechanisms,
        "local_mechanisms": own,
        "local_noise": {"algorithm": algorithm.name, **algorithm.hparams} if client_noise else None,
    }
    text = json.dumps(_plain(facts), sort_keys=True)
    return Segment(begin, text, None if f'"{_TRACED}"' in text else composition)


def difference(now: Segment, before: Segment) -> str:
    """What one composition states and another does not, in words."""
    here, there = _flat(now.told()), _flat(before.told())
    names = [name for name in dict.fromkeys([*there, *here]) if here.get(name) != there.get(name)]
    if not here or not there:
        return "no mechanism of privacy" if not here else "a mechanism of privacy, which they had not"
    return "; ".join(f"{name} {here.get(name, 'none')} instead of {there.get(name, 'none')}" for name in names[:4])


def _plain(value: Any) -> Any:
    """A fact as JSON can hold it, equal for equal compositions: numbers to six digits, functions by their names."""
    if isinstance(value, Tracer):
        return _TRACED
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return str(value)
    if isinstance(value, (float, np.number, np.ndarray, jax.Array)) and not is_random_key(value):
        rounded = [f"{number:.6g}" for number in np.asarray(value, np.float64).reshape(-1).tolist()]
        return rounded if np.ndim(value) else rounded[0]
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        named = getattr(value, "_asdict", None)
        return _plain(named()) if named else [_plain(item) for item in value]
    return getattr(value, "__qualname__", None) or type(value).__name__


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else None
    if items is None:
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for name, value in items:
        flat.update(_flat(value, f"{prefix}.{name}" if prefix else str(name)))
    return flat
