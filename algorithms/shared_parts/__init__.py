"""A model in parts: leaves that cross the wire, and leaves that stay at the client or stay as they are.

    fed_per.py fed_rep.py fed_babu.py   a shared body under personal heads      lg_fed_avg.py   a shared head
    fed_bn.py                   personal normalization           fed_recon.py   leaves made anew in each round
    lora.py                     adapters of a frozen base

What comes in: methods that say which leaves are whose, one file each.
"""
