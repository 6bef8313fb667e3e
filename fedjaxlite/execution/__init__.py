"""Execution: a round as one XLA program, on one device or many; the order below is the order in which data flow.

    composition.py  `fl.rounds`: the four axes become init, step, steps
    round_state.py  what a run carries from round to round
    remembering.py  samplers with a memory: the models they keep, and what they learn
    first_keys.py   the random streams of a run: what follows from its key, and what has to be a secret
    ledger.py going_on.py   what noised a state, and steps by another composition
    halves/         what a client and the server compute in a round, whichever process they are in
    one_round.py    the first state; one round: draw, pass, decode, server step
    cohort_pass.py  one pass over a cohort: work, encode, read, guard, sum
    side_by_side.py messages that are needed apart, shared out over devices by entries
    bytes_sent.py   the ledger of bytes, of one client and of each
    lanes/          who is trained beside whom, and the loops over lanes
    layout/         lanes, devices, and how they are mapped
    model_axis/     one model over several devices
    prepared/       cohorts that the host prepared
    part_programs.py   what clients, server and sampler compute, apart from all that: for fingerprints
    federated_sum.py   one sum over a cohort, for anything that is no training

What comes in: where and in which order things run. Nothing here knows what is computed, or why.
"""
