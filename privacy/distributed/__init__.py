"""Noise that clients add to integers, each a share, so that the sum holds it before the server sees it.

    discrete_noise.py discrete_grid.py discrete_accounting.py   integer noise, its tables, its cost
    rotation.py rounding.py     what goes before: spread entries, round them without bias
    codecs.py                   the mechanisms

What comes in: noise in encode that is private only in a sum.
"""
