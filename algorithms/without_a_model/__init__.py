"""Sums over clients that are no training: statistics and clusters of points.

    analytics.py                means, variances, quantiles, histograms, heavy hitters, as sums with a stated count
    ratios.py                   sums and counts of known values, of which means are made
    k_means.py                  centers of points that stay where they are

What comes in: what a server may learn by sums alone, without gradients.
"""
