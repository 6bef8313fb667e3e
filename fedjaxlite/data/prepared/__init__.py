"""What `data/prepared_cohort.py` is made of: the data of one cohort, gathered on the host from a population.

    whole.py       what a cohort's data still tell of the population that they were gathered from
    gathering.py   rows from host memory or a disk into one array a device, and how many of them there can be
    pieces.py      some clients of a population on a disk, under the indices that they have in it
    drawing.py     a round's cohort as one device trains it: drawn from a whole population, or prepared

What comes in: how the examples and the states of a cohort's clients are laid out. Who draws the cohort, and on which
thread, is not known here.
"""
