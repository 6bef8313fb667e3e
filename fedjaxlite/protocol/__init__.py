"""The protocol of an algorithm: what a client and a server compute, as one NamedTuple of pure functions.

    algorithm.py        Algorithm, ClientOutput, Aggregate: the words that every other room uses
    server_step.py      what servers share: an Optax optimizer along a mean delta
    parameter_parts.py  trainable, frozen and personal leaves of one model, for any algorithm

What comes in: what holds for every algorithm. The methods themselves stand in `algorithms/`.
"""
