"""Federated algorithms, one file a method; each is built from public `fedjaxlite` names only."""

from fedjaxlite.algorithms.fed_avg import fed_avg as fed_avg
from fedjaxlite.algorithms.fed_avg import fed_sgd as fed_sgd

__all__ = ["fed_avg", "fed_sgd"]
