"""The clock: `python -m fedjaxlite.benchmarks.clock` times servers that do not wait beside rounds that do."""
