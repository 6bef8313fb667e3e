"""What an attack has done to a rule: how far it moved from the honest mean, and how far it can be moved at all.

    judged.py           in each round of a run, for the record
    largest_kappa.py    over placements of honest and bad messages, by search; starts.py, where the search begins

What comes in: measurements that know who is bad, which no server does.
"""
