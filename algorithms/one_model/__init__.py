"""One model for everybody: federated averaging, and what corrects, adapts or accelerates it.

    fed_avg.py                  the method that all others vary
    fed_opt.py one_shot.py      another server, or a single round
    fed_prox.py fed_dyn.py      clients held near the server's model
    scaffold.py mime.py fed_lin.py   clients corrected for what is theirs alone
    fed_nova.py fed_exp.py fed_pa.py   deltas normalized, extrapolated, or sampled
    fed_kseed.py                zero-order steps, sent as scalars along shared directions

What comes in: methods whose result is one model, one file each, with its source on top.
"""
