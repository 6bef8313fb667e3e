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


class ExampleMechanism(NamedTuple):
    """DP-SGD inside of a client: what a local training says of what it does to single examples.

    It stands in `Algorithm.mechanisms`, since noise that is added before anything is sent is the algorithm's own. A
    client with n examples draws each of them with chance `rate_of(n)` in every step.

    Attributes:
      clip_norm: C, the most that an example adds to the sum of a step.
      noise_multiplier: z, the noise's standard deviation on that sum over C.
      steps: of one round, at most.
      rate: the largest chance of an example in a step, in (0, 1].
      batch_size: the largest expected number of drawn examples, or None for no limit.
      max_overflow: a bound on the chance that a step's batch has no room for an example.
      public_sizes: whether what a client sends depends on its number of examples in the clear.
      unit: what is protected.
      trust: who sees what, in one sentence, for the report.
    """

    clip_norm: Any
    noise_multiplier: Any
    steps: int
    rate: float
    batch_size: float | None
    max_overflow: float
    public_sizes: bool
    unit: str = "example"
    trust: str = (
        "The client is trusted with its own examples: what it sends has its noise already, so nobody else has to be, "
        "the server included."
    )

    def rate_of(self, num_examples: int) -> float:
        """The chance of each example of a client with so many, in each step."""
        if self.batch_size is None or num_examples * self.rate <= self.batch_size:
            return self.rate
        return self.batch_size / num_examples
