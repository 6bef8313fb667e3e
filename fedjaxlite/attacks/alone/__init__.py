"""Each bad client by itself: wrappers of an algorithm that change what a client sends, and nothing else.

    wrap.py         what they share
    sign_flip.py gaussian.py free_rider.py

What comes in: attacks on models that need nothing but the attacker's own round.
"""
