"""Speed and scale, measured against raw JAX: `fedjaxlite bench`, or `python -m fedjaxlite.benchmarks`.

Each workload is a federated round, and beside it stand two programs in raw JAX that take the same number of SGD steps
on batches of the same shapes, with nothing federated in them. Times are taken in turns in one process, so that what
matters, the ratio of ours to theirs, is little disturbed by what else the machine does. The data are random numbers of
the right shapes: this is about speed, and nothing is learned.

    suite.py       one command: measures, checks, prints, writes
    problem.py     what a workload is
    contenders.py  ours and the limits as callables to be timed
    timing.py      taking turns; medians and spreads
    machine.py     what it was measured on
    memory.py      peaks of memory
    report.py      table, JSON, plot
    scaling.py     lanes, cohorts, devices, model sizes, and the host's share
    streaming/     populations on a disk: writing, rounds, memory
    clock/         servers that do not wait: arrivals a second, and client steps beside synchronous rounds
    deployed/      a server of devices: check-ins a second, its time and memory
    client_states/ states of a million clients: folder, host memory, devices
    peers/         the same rounds in other libraries, each in a Python of its own
    workloads/     one file a workload
    limits/        one file a workload, frozen: raw JAX only
"""
