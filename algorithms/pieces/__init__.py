"""Pieces that methods share: losses over a client, choices of leaves, inner loops, schedules. No method of its own.

    length.py local_steps.py    how long a client trains, and steps of several gradients
    proximal.py client_loss.py  the pull towards a model; a model's loss over all of a client
    leaves.py schedules.py      which leaves of a model; rates that follow the round

What comes in: what two methods need alike.
"""
