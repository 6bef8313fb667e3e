"""Many local steps between two exchanges: workers that keep what their optimizer knows, and an outer step of momentum.

    di_lo_co.py                 inner AdamW, kept by the worker; outer Nesterov momentum
    streaming_di_lo_co.py       a fragment of the model at a time, mixed in late
    fragments.py                how it cuts a model, and who missed which piece

What comes in: methods for few workers that are there in every round and talk seldom, one file each, with its source.
"""
