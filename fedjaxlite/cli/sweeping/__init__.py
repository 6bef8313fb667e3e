"""Sweeps on the command line: `fedjaxlite run --sweep NAME=V1,V2 --seeds S`.

    axes.py      from texts to a grid of options and hyperparameters
    runs.py      what a point is, and the runs by `fl.sweep`      written.py   what they leave

What comes in: what several runs at once need that one run does not.
"""

from fedjaxlite.cli.sweeping.axes import check as check
from fedjaxlite.cli.sweeping.axes import grid as grid
from fedjaxlite.cli.sweeping.axes import is_sweep as is_sweep
from fedjaxlite.cli.sweeping.axes import may_be_traced as may_be_traced
from fedjaxlite.cli.sweeping.runs import maker as maker
from fedjaxlite.cli.sweeping.runs import run as run
from fedjaxlite.cli.sweeping.written import told as told
from fedjaxlite.cli.sweeping.written import write as write
