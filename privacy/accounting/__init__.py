"""Accounting: the epsilon of a run, read off the program that runs, and what follows from it.

`subjects` is what is accounted for: runs, computations of sums, or several of them on the same data; `history` the
compositions that made the rounds of a run. `facts` is what a composed chain and its sampler say of themselves; `events`
which neighbors, which noise, how often, under which theorem; `curves` what events cost together. `epsilon` is that
figure of subjects, `calibrate` its inverse, `report` the page and `budget` what watches a run; `conversions` are the
same accountants on plain numbers, and other accounts of privacy.
"""

from fedjaxlite.privacy.accounting.budget import running_epsilon as running_epsilon
from fedjaxlite.privacy.accounting.budget import stop_at_epsilon as stop_at_epsilon
from fedjaxlite.privacy.accounting.calibrate import calibrate as calibrate
from fedjaxlite.privacy.accounting.calibrate import max_rounds as max_rounds
from fedjaxlite.privacy.accounting.conversions import composed_epsilon as composed_epsilon
from fedjaxlite.privacy.accounting.conversions import gaussian_delta as gaussian_delta
from fedjaxlite.privacy.accounting.conversions import gaussian_epsilon as gaussian_epsilon
from fedjaxlite.privacy.accounting.conversions import rdp_epsilon as rdp_epsilon
from fedjaxlite.privacy.accounting.conversions import zcdp_epsilon as zcdp_epsilon
from fedjaxlite.privacy.accounting.epsilon import Guarantee as Guarantee
from fedjaxlite.privacy.accounting.epsilon import epsilon as epsilon
from fedjaxlite.privacy.accounting.epsilon import examples_epsilon as examples_epsilon
from fedjaxlite.privacy.accounting.epsilon import guarantee as guarantee
from fedjaxlite.privacy.accounting.events import RELATIONS as RELATIONS
from fedjaxlite.privacy.accounting.events import Event as Event
from fedjaxlite.privacy.accounting.report import Report as Report
from fedjaxlite.privacy.accounting.report import report as report
