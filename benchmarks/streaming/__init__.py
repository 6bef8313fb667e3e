"""Populations larger than memory: `python -m fedjaxlite.benchmarks.streaming` writes one and trains it.

One process after the other, so that each has a peak of memory of its own:

    write     a generated population into a folder, clients as they come
    stream    `fl.train` on the folder: seconds a round, compilations after the first rounds, peaks of memory
    compare   as many clients as fit into memory: the same rounds on them there and from the disk, in turns
    many      a population that is only written and opened

Pages of a file that a process maps count as its memory while they lie in the system's cache, so both are told: all that
is resident, and what is the process's own (`RssAnon`).
"""
