"""Rules by the distances between messages.

    krum.py          Krum and Multi-Krum      bulyan.py mda.py monna.py   a rule each
    pairwise.py      all distances by one product, right also where squares cancel or overflow

What comes in: rules that take some messages and leave others, by how near they are to each other.
"""
