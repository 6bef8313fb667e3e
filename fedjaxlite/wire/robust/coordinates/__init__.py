"""Rules that look at one entry of the messages at a time.

    mean.py          of all, which one client can move anywhere
    median.py trimmed_mean.py meamed.py rlr.py   a rule each
    sorting.py       columns in order, by a network of minima and maxima

What comes in: rules that would be the same for every order of the entries. They never ask a device for others' entries.
"""
