"""What messages cost to make and to read.

    codecs.py    every codec beside a copy of the same numbers: GB/s of encode and of encode and read

What comes in: measurements of the wire alone, without clients and rounds.
"""
