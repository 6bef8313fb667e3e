"""What the table of methods says about each of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import helpers

import fedjaxlite as fl

PyTree = Any


class Method(NamedTuple):
    """One way to use an algorithm, small enough to be held to every law.

    Attributes:
      name: unique; of the function, and of the option where it has several.
      make: makes the algorithm, on `helpers.linear_loss` unless `params` says otherwise.
      params: makes the model that it starts from.
      population: makes the data; five ragged clients of the linear model, where not given.
      refuses_quantize: the text of the error with which `chain(weighted_mean, clip, quantize)` is refused, where it is.
      atol: the tolerance of laws that hold up to rounding.
      leaves_out: whether examples of NaN are left out one by one and counted in the info "missing", so that a client's
        update stays finite.
    """

    name: str
    make: Callable[[], fl.Algorithm]
    params: Callable[[], PyTree] = helpers.linear_params
    population: Callable[[], fl.Population] = lambda: helpers.regression((4, 9, 1, 6, 2))
    refuses_quantize: str | None = None
    atol: float = 1e-5
    leaves_out: bool = False
