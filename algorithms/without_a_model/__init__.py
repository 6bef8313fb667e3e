"""Sums over clients that are no training: statistics and clusters of points."""
