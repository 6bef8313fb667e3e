"""Training: the host's loop around rounds, and what it keeps on disk.

    train.py         `fl.train`: evaluation, observers, records, checkpoints, resume
    loop.py          dispatches of rounds at a fixed pace
    checkpoints.py checkpoint_folder.py   the whole state, all or nothing, looked at before it is used
    identity.py      whose checkpoint it is: what decides about a run's numbers
    preemption.py    SIGTERM: the round ends, a checkpoint is made, the process leaves
    run_folder.py run_config.py   what lies where in a run's folder, and its config.toml
    warm_start.py    a generic model from public data, before the federation begins
    plan.py          what a run will cost, before it starts  curves.py       the picture of a run

What comes in: what happens between rounds, on the host. What only looks on is an observer.
"""
