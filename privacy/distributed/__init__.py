"""Noise that clients add to integers, each a share, so that the sum holds it before the server sees it."""
