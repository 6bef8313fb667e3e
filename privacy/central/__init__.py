"""Noise that the server adds to a sum of clipped updates: client-level DP with a trusted server."""
