"""What is done to all messages before a rule.

    nnm.py bucketing.py arc.py   mixing, buckets, clipping, on the server's side of the wire
    worker_momentum.py           averages over rounds, at the client
    stale_weights.py             what a late message weighs, by its age and by how far it is from the fresh ones

What comes in: what makes messages easier to tell apart or weighs them, and leaves the choice to the rule behind it.
"""
