"""Noise that every client adds for itself: on its whole update, or on its examples' gradients.

    local_dp.py priv_unit.py    a client's update, noised before it leaves
    dp_sgd.py per_example.py    each example's gradient, clipped and noised within local training

What comes in: noise that protects without trust in any server.
"""
