"""Participation: who takes part in a round, and how far they get.

A Sampler is a pure function from the run's sampling key and a round number to a Cohort, together with what a privacy
accountant may assume of the draw. `with_dropout`, `with_stragglers` and `with_deadline` go around any sampler.

    types.py           Cohort, Sampler, and what an accountant may assume
    cohorts.py poisson.py weighted.py   draws of clients      availability.py diurnal.py   who is there to be drawn
    systems.py         dropout, stragglers, deadlines: who is drawn and does not get far
    draws.py           the draws themselves, cheap at a million clients
    utility/           samplers that remember: who is expected to be worth most

What comes in: samplers that know their own accounting. What a client then does is none of this room's business.
"""

from fedjaxlite.sampling.availability import Trace as Trace
from fedjaxlite.sampling.availability import available as available
from fedjaxlite.sampling.availability import recorded as recorded
from fedjaxlite.sampling.cohorts import cyclic as cyclic
from fedjaxlite.sampling.cohorts import full as full
from fedjaxlite.sampling.cohorts import replay as replay
from fedjaxlite.sampling.cohorts import uniform as uniform
from fedjaxlite.sampling.diurnal import Window as Window
from fedjaxlite.sampling.diurnal import diurnal as diurnal
from fedjaxlite.sampling.poisson import overflow_probability as overflow_probability
from fedjaxlite.sampling.poisson import poisson as poisson
from fedjaxlite.sampling.poisson import poisson_capacity as poisson_capacity
from fedjaxlite.sampling.systems import Latency as Latency
from fedjaxlite.sampling.systems import lognormal_latency as lognormal_latency
from fedjaxlite.sampling.systems import with_deadline as with_deadline
from fedjaxlite.sampling.systems import with_dropout as with_dropout
from fedjaxlite.sampling.systems import with_stragglers as with_stragglers
from fedjaxlite.sampling.types import Accounting as Accounting
from fedjaxlite.sampling.types import Cohort as Cohort
from fedjaxlite.sampling.types import Memory as Memory
from fedjaxlite.sampling.types import Sampler as Sampler
from fedjaxlite.sampling.types import Seconds as Seconds
from fedjaxlite.sampling.types import Seen as Seen
from fedjaxlite.sampling.types import Setting as Setting
from fedjaxlite.sampling.types import cohort as cohort
from fedjaxlite.sampling.utility import oort as oort
from fedjaxlite.sampling.utility import power_of_choice as power_of_choice
from fedjaxlite.sampling.utility import refl as refl
from fedjaxlite.sampling.weighted import weighted as weighted

__all__ = [
    "Accounting",
    "Cohort",
    "Latency",
    "Memory",
    "Sampler",
    "Seconds",
    "Seen",
    "Setting",
    "Trace",
    "Window",
    "available",
    "cohort",
    "cyclic",
    "diurnal",
    "full",
    "lognormal_latency",
    "oort",
    "overflow_probability",
    "poisson",
    "poisson_capacity",
    "power_of_choice",
    "recorded",
    "refl",
    "replay",
    "uniform",
    "weighted",
    "with_deadline",
    "with_dropout",
    "with_stragglers",
]
