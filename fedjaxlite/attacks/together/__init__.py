"""Bad clients together: they see all honest messages of a round, and agree on what to send.

    honest.py       what they see: honest means, deviations, distances; and how they send
    alie.py ipm.py  the mean and so many deviations; the mean backwards
    min_max.py      as far as distances to the honest allow, in closed form: Min-Max and Min-Sum
    mimic.py        copies of one honest client
    optimal.py      the factor of ALIE and IPM that moves a known rule furthest; search.py, the search for it

What comes in: codecs of rows (`fl.restack`) that stand first of all that works on rows. Those whom `share` makes bad
are drawn by each codec anew.
"""
