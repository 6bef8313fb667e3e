"""Participation by utility: samplers that remember what clients told, and take those they expect most of.

    scores.py          closed forms: what a client is worth, how slow it is, how long it was not asked
    choosing.py        so many clients by score, ties broken by the key
    oort.py            much loss, soon told                power_of_choice.py   the largest losses among candidates
    refl.py            who will hardly be there again

What comes in: samplers whose `Memory` learns from the clients. Their cohorts follow from what clients' data said, or
from when clients are there, so none of them claims privacy amplification.
"""

from fedjaxlite.sampling.utility.oort import OortState as OortState
from fedjaxlite.sampling.utility.oort import oort as oort
from fedjaxlite.sampling.utility.power_of_choice import LastLosses as LastLosses
from fedjaxlite.sampling.utility.power_of_choice import power_of_choice as power_of_choice
from fedjaxlite.sampling.utility.refl import Presence as Presence
from fedjaxlite.sampling.utility.refl import refl as refl
from fedjaxlite.sampling.utility.scores import predicted_availability as predicted_availability
from fedjaxlite.sampling.utility.scores import scaled as scaled
from fedjaxlite.sampling.utility.scores import staleness_bonus as staleness_bonus
from fedjaxlite.sampling.utility.scores import statistical_utility as statistical_utility
from fedjaxlite.sampling.utility.scores import system_utility as system_utility

__all__ = [
    "LastLosses",
    "OortState",
    "Presence",
    "oort",
    "power_of_choice",
    "predicted_availability",
    "refl",
    "scaled",
    "staleness_bonus",
    "statistical_utility",
    "system_utility",
]
