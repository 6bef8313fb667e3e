"""Noise that later rounds partly take back: DP-FTRL by trees and banded Toeplitz matrices.

    tree.py toeplitz.py         the matrices: what a release costs, and how far it is off
    noise_streams.py            their noise, round by round, in little memory
    codecs.py                   the mechanisms

What comes in: noise that depends on the rounds before.
"""
