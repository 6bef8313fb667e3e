"""Local work: what a client computes on its own examples, and how its loss is differentiated.

    local_sgd.py        the loop over local steps, by any optimizer; exact gradients over all examples
    gradients.py        the one place where losses are differentiated
    optimizer_check.py  does an optimizer's step go downhill?
    mixed_precision.py rematerialization.py   narrow floats, and less memory for the backward pass

What comes in: what happens between the download and the delta. What a method adds to it stands in `algorithms/`.
"""
