"""Figures of runs, clients and privacy, for papers and notebooks.

Every function returns a Matplotlib `Figure`, which a notebook shows as the last expression of a cell and
`figure.savefig` writes; pyplot takes no part. `path=` also writes a file. `axes=` draws into Axes of your own: make
their figure with `matplotlib.figure.Figure(layout="constrained")`, so that there is room for legends beside them; it
then shows in a notebook too. `legend=False` leaves the legend out. Lines differ in pattern and marker, and bars in
hatching, so that all can be read without color.

What comes in: pictures of what other rooms give as numbers; nothing is computed here that is not drawn.
"""

from fedjaxlite.plots.across_clients import clients as clients
from fedjaxlite.plots.backdoors import backdoor as backdoor
from fedjaxlite.plots.heat import heat_map as heat_map
from fedjaxlite.plots.judgments import confusion as confusion
from fedjaxlite.plots.judgments import reliability as reliability
from fedjaxlite.plots.over_rounds import accuracy_against_bytes as accuracy_against_bytes
from fedjaxlite.plots.over_rounds import curves as curves
from fedjaxlite.plots.pictures import reconstructions as reconstructions
from fedjaxlite.plots.tradeoffs import accuracy_against_epsilon as accuracy_against_epsilon
from fedjaxlite.plots.tradeoffs import epsilon as epsilon
from fedjaxlite.plots.tradeoffs import roc as roc
from fedjaxlite.plots.who import participation as participation
from fedjaxlite.plots.who import partition as partition

__all__ = [
    "accuracy_against_bytes",
    "accuracy_against_epsilon",
    "backdoor",
    "clients",
    "confusion",
    "curves",
    "epsilon",
    "heat_map",
    "participation",
    "partition",
    "reconstructions",
    "reliability",
    "roc",
]
