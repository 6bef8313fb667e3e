"""Feedback: what compression lost in one round is sent in the next.

    inside.py            which codecs it may stand around
    error_feedback.py    EF14, EF21, EF21-SGDM and DASHA at the clients
    downlink.py          the model on its way down: plain, EF14 or EF21-P at the server

What comes in: what keeps a memory around any codec. The codecs themselves keep none.
"""
