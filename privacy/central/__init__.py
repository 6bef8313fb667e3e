"""Noise that the server adds to a sum of clipped updates: client-level DP with a trusted server.

    clipping.py noise.py        what all of them do: bound each update, noise the sum
    gaussian.py laplace.py adaptive_clip.py   the mechanisms

What comes in: noise in decode, of sums that the server may see.
"""
