"""Sweeps: many runs of one kind, over hyperparameters and seeds, as few programs.

    sweep.py       `fl.sweep`: points, seeds, a choice on clients that are held out
    arguments.py   what it is given, looked at before anything runs
    grid.py        the points of a grid, and which of their values share a program
    programs.py    runs as programs over all of them, on one device or several
    groups.py      which numbers can be traced, and the runs of one program from their first round to the last
    measuring.py   evaluations, in the program where they can be traced and on the host where not
    result.py      curves, intervals, the best, a table and a frame      picture.py   curves of the points
    seeds.py       what a seed begins with, and several seeds of one run      intervals.py   means and their intervals

What comes in: what makes, runs and compares several runs in memory; one run on disk is `training/`.
"""

from fedjaxlite.sweeps.result import Group as Group
from fedjaxlite.sweeps.result import Sweep as Sweep
from fedjaxlite.sweeps.sweep import sweep as sweep
