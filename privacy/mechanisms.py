"""What a chain's mechanisms say of their noise: the facts from which a guarantee is computed.

A mechanism's codec adds one `Mechanism` to `Wire.mechanisms` when it is built, with the standard deviations that its
own `decode` will draw. The sensitivity of what is noised is not repeated here: it is read off the wire at the end of
the chain, after everything that can change it, so noise and sensitivity cannot be written down differently.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Release(NamedTuple):
    """One quantity that a mechanism releases in every round, with noise.

    Attributes:
      std: the noise's standard deviation on the *sum* over clients, in the units that hold in the first round.
      sensitivity: how much one client can change the quantity's sum, in L2, when added or removed. None for the value
        itself: then it is `Wire.bounds.l2` at the end of the chain, or `l1` for noise that is scaled to that norm.
    """

    std: Any
    sensitivity: Any = None


class Mechanism(NamedTuple):
    """A mechanism of differential privacy in a chain.

    Attributes:
      kind: its family, such as "gaussian"; it tells the accountant how to compose it.
      releases: what it releases in every round; together they are one release of a longer vector.
      trust: who sees what, in one sentence, for the report.
      extrapolated: whether the noise was scaled to a cohort larger than the one that is simulated.
      options: numbers and functions that the kind's accounting needs.
    """

    kind: str
    releases: tuple[Release, ...]
    trust: str
    extrapolated: bool = False
    options: Mapping[str, Any] = {}
