"""Fewer numbers: what is sent is a part, a sketch or a factor of the update.

    top_k.py          the largest entries, with their places            each message is read apart
    rand_k.py         entries that a shared seed chooses                survives a sum
    count_sketch.py   random sums of entries, by shared signs           survives a sum
    power_sgd.py      matrices in bases that the server keeps           survives a sum

What comes in: codecs whose values stay floats; a quantizer may stand behind each of them.
"""
