"""What it takes to keep the states of a million clients: SCAFFOLD with a model of 10^4 parameters, 40 GB of states.

`python -m fedjaxlite.benchmarks.client_states` measures, each in a process of its own: states in a folder and in host
memory, and at a number of clients at which they fit, those on the devices beside both.
"""
