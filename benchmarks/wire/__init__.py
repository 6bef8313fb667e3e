"""What messages cost to make, to read and to keep.

    codecs.py    every codec beside a copy of the same numbers: GB/s of encode and of encode and read
    rules.py     memory of a rule that needs all messages side by side, on each of several devices

What comes in: measurements of what crosses the wire, and of what the server does with it.
"""
