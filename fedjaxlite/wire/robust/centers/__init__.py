"""Rules that look for a point near the most messages, and a filter by their norms.

    geometric_median.py centered_clipping.py dnc.py   a rule each
    norm_filter.py   leaves long messages out, before a rule

What comes in: rules around a center. A *bound* on norms is no rule: it is `fl.clip_by_global_norm`.
"""
