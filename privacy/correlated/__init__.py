"""Noise that later rounds partly take back: DP-FTRL by trees and banded Toeplitz matrices."""
