"""Pieces that methods share: losses over a client, choices of leaves, inner loops, schedules. No method of its own."""
