"""Masks within a round: messages that say nothing, and a sum that is exact.

    masks.py chacha.py          masks that cancel in the sum, and their stream
    roster.py mask_rules.py     who masks with whom, and what that hides
    secure_sum.py               quantize and mask as one codec

What comes in: secure aggregation as it is simulated in a round; the protocol between processes is `secagg/`.
"""
