"""What a device does: for its server, as far as it agrees to, and for its owner.

loop.py      checking in, waiting, coming back
tasks.py     one task of the server, from its terms to its answer
moving.py    bytes between the two: told to the ledger, bounded, resumable
masked.py    an update as a summand of a secure sum
rehearse.py  a dry run, and an evaluation: nothing leaves
"""
