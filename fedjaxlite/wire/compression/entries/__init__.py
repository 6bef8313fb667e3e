"""Codes for every entry: each number of an update becomes a code of a few bits, leaf by leaf.

    leaf_by_leaf.py   what they share: packing, what travels beside, the codec around a code of one vector
    norms.py          how far a code can lengthen an update, for the bounds on the wire
    qsgd.py           levels of the norm              k_level.py      levels between the least and the largest entry
    tern_grad.py      -1, 0, 1 of the largest         natural.py      powers of two
    signs.py          signs, with one scale           votes.py        signs that survive a sum: majority, noisy sign
    narrow.py         bfloat16 and floats of 8 bits   nf4.py          quantiles of a normal distribution, in blocks

What comes in: codes of single entries, with a scale for a leaf or a block of it. What turns or mixes entries first
stands in a room of its own. A method reads like its paper: the formula on top, one function that encodes a vector, one
that decodes it, and how long the result can be. All but those of `votes.py` are decoded message by message.
"""
