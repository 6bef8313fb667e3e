"""Attacks on data: bad clients train as they should, on examples that are not as they should be.

    poison.py      what they share: a share of a bad client's examples, changed as its batches are drawn
    label_flip.py  other labels

What comes in: what changes a bad client's batches and nothing else. No array of the population changes, and whatever
the algorithm computes on batches is poisoned. Examples with a hidden purpose are `backdoors/`.
"""
