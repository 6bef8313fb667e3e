"""One run of the command line in several processes: `fedjaxlite run --distributed`.

What comes in: what the options of --distributed mean, and what only the first process does.
"""
