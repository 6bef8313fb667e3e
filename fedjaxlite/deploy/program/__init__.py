"""A client's half of a round as a program of its own.

    template.py      what both sides agree on, from the same rounds: which arrays, in which order
    leaves.py        trees as flat lists of plain arrays
    client_half.py   the function that is exported
    measure.py       what is exported beside it, to evaluate
    exporting.py     a function as StableHLO, and its memory
    refusing.py      what is not exported, and why
    manifest.py writing.py   what the file says of itself; the file
    comparing.py     whether a file is of given rounds, whichever versions wrote it
    client_program.py   `fl.deploy.client_program`: all of it

What comes in: how a composition is divided. What clients and server compute is in `execution/halves`.
"""
