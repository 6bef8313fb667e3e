"""Masks within a round: messages that say nothing, and a sum that is exact."""
