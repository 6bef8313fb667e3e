"""Codecs after a random rotation, which makes of every vector one with entries like normal ones: of a known spread.

    shared.py     what they share: an update's parts rotated with public signs, twice, and the way back
    eden.py       EDEN and DRIVE: the nearest of 2^b centroids, one scale a client; decoded message by message
    k_level.py    stochastic k-level between a client's own extremes; decoded message by message
    summed.py     codecs that survive a sum: a table common to all, whose values are whole numbers
    thc.py        THC: the best such table for entries that are cut at t
    quic_fl.py    QUIC-FL: tables chosen by a random number, unbiased; quic_fl_tables.py has them
    side_list.py  the few entries beyond a table, sent beside the codes

What comes in: methods whose error bound comes from the rotation. The transform itself is packing/rotation.py.
"""
