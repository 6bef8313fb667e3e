"""Packing: pure functions between numbers and the bytes that a message holds. Nothing here knows a codec.

    bits.py        whole numbers of b bits in bytes, and back
    dither.py      random words for rounding, cheap and no cryptography
    forms.py       the structure of a value, kept beside what was packed: its leaves, and one vector for each weight
    indices.py     a set of k of d indices in bytes
    rotation.py    random rotations of vectors of any size

What comes in: what several codecs share. A method of compression stands in `compression/`.
"""
