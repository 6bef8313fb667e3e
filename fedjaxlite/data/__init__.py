"""Data: every client's examples packed without padding, a client's view of its own, and what can be said of them.

    population.py       all clients' examples, one after the other, and where each client's begin
    packing.py          which parts make a population
    host_arrays.py      what features, ids and seeds may be, and how they are cast
    client_names.py     clients by name
    client_view.py      what a client sees: batches of any size, any number of times
    changed_batches.py  what is done to batches as they are drawn
    prepared_cohort.py  one round's clients gathered on the host, for data that stream
    heterogeneity.py    how unlike clients are      client_report.py   a metric's distribution over clients
    group_gaps.py       and over groups of them     frames.py          data frames of what the library returns
    incoming/           what readers of foreign formats share

What comes in: how examples are held and read. Who gets which example is `partition/`, where they come from `datasets/`.
"""
