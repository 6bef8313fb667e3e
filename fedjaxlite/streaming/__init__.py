"""Rounds whose data or client states are larger than the devices: fetched a cohort ahead, written back beside.

    stream.py        a run's rounds, one cohort after the other: what `fl.train` calls in place of `rounds.steps`
    drawing.py       cohorts, drawn ahead from the run's own key
    loading.py       their data, gathered from host memory or a disk and put on the devices
    states.py        their clients' states, fetched from where they are kept and written back in order
    keeping.py       where these are kept, opened for the time of a run
    background.py    the threads of both, whose errors are the run's
    client_store/    where client states are kept outside of the devices

What comes in: when something is fetched, and on which thread. How a cohort's data lie is `data/prepared/`; what a round
computes is not known here.
"""

from fedjaxlite.streaming.keeping import Kept as Kept
from fedjaxlite.streaming.keeping import kept_states as kept_states
from fedjaxlite.streaming.keeping import knowing as knowing
from fedjaxlite.streaming.stream import Stream as Stream
from fedjaxlite.streaming.stream import opened as opened
from fedjaxlite.streaming.stream import streams as streams
