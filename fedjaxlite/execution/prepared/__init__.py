"""Cohorts that the host prepared, where rounds take them.

    checking.py     held against the state and the devices; the shapes of one before there is one
    client_rows.py  what some clients keep, wherever that is
    ties.py         which device trains whom, where states or data say so
    placing.py      on the devices: what all of them have, and the piece of each

What comes in: how `fedjaxlite.data.PreparedCohort` gets into a round. How its data are gathered is `data/prepared/`.
"""
