"""Staleness: what an asynchronous server takes off an update that was computed from an old model.

The weights of Xie, Koyejo, Gupta (2019), "Asynchronous Federated Optimization", https://arxiv.org/abs/1903.03934.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.systems.service import from_text

__all__ = ["Staleness", "constant", "hinge", "parse", "polynomial", "told"]


class Staleness(NamedTuple):
    """What an update counts by its age.

    Attributes:
      weight: `weight(age) -> float32`, elementwise, in [0, 1]; `age` float32, the server's steps since the client's
        download, its own not counted.
      name: for records and messages.
      discounts: whether the weight may ever differ from 1.
      tells: whether what aggregates is told the ages, as `fl.Rows.ages`.
    """

    weight: Callable[[Any], Any]
    name: str = "staleness"
    discounts: bool = True
    tells: bool = False


def constant() -> Staleness:
    """Old updates count in full.

    Returns:
      A Staleness.

    Example:
      >>> constant().weight(jnp.arange(3.0)).tolist()
      [1.0, 1.0, 1.0]
    """
    return Staleness(jnp.ones_like, "constant", discounts=False)


def told() -> Staleness:
    """Old updates count in full, and what stands before a rule is told how old they are.

    Returns:
      A Staleness for `fl.robust.stale_weights`, or an `fl.restack` of one's own that looks at `rows.ages`.

    Example:
      >>> told().weight(jnp.arange(3.0)).tolist(), told().tells
      ([1.0, 1.0, 1.0], True)
    """
    return Staleness(jnp.ones_like, "told", discounts=False, tells=True)


def polynomial(a: float) -> Staleness:
    """`(1 + age)^-a`.

    Args:
      a: above 0; may be traced. FedBuff's authors took 0.5.

    Returns:
      A Staleness.

    Raises:
      TypeError, ValueError: an exponent that is not finite and above 0.

    Source: Xie, Koyejo, Gupta (2019), section 5.2, https://arxiv.org/abs/1903.03934.

    Example:
      >>> polynomial(0.5).weight(jnp.array([0.0, 3.0])).tolist()
      [1.0, 0.5]
    """
    a = checks.positive("It is the exponent; leave `staleness` out for updates that count in full.", a=a)
    return Staleness(lambda age: (1 + age) ** -jnp.asarray(a, jnp.float32), "polynomial")


def hinge(a: float, b: float) -> Staleness:
    """1 up to the age `b`, and `1 / (a (age - b) + 1)` behind it.

    Args:
      a: above 0; may be traced. The authors took 10.
      b: server steps, at least 0; may be traced. The authors took 4.

    Returns:
      A Staleness.

    Raises:
      TypeError, ValueError: arguments out of range.

    Source: Xie, Koyejo, Gupta (2019), section 5.2, https://arxiv.org/abs/1903.03934.

    Example:
      >>> hinge(1.0, 4.0).weight(jnp.array([0.0, 4.0, 5.0])).tolist()
      [1.0, 1.0, 0.5]
    """
    a = checks.positive("It is the slope behind the hinge.", a=a)
    b = checks.nonnegative("It is the age up to which updates count in full.", b=b)

    def weight(age: Any) -> Any:
        behind = jnp.maximum(age - jnp.asarray(b, jnp.float32), 0)
        return 1 / (jnp.asarray(a, jnp.float32) * behind + 1)

    return Staleness(weight, "hinge")


def parse(text: str) -> Staleness:
    """A staleness from a command line.

    Args:
      text: "constant", "told", "polynomial:A" or "hinge:A,B".

    Returns:
      A Staleness.

    Raises:
      TypeError, ValueError: another text.

    Example:
      >>> parse("polynomial:0.5").name
      'polynomial'
    """
    remedy = "Write constant, told, polynomial:A or hinge:A,B."
    checks.text(remedy, staleness=text)
    made = {"constant": (constant, 0), "told": (told, 0), "polynomial": (polynomial, 1), "hinge": (hinge, 2)}
    return from_text("staleness", text, made, remedy)
