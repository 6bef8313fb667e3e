"""Whether memory stays flat over thousands of rounds: `step`, `steps`, `fl.train`, and `fl.train` of data on disk.

`python -m fedjaxlite.benchmarks.flat_memory` runs 5,000 rounds of each in a process of its own and prints a table. What
is compared is the resident memory of the process, from a tenth of the rounds on, when all is compiled and allocated.

    ways.py       the ways of running, and what is read meanwhile
    __main__.py   the command

What comes in: a way of running rounds for days.
"""
