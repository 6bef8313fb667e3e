"""Deployed rounds under load, over loopback.

    check_ins.py    check-ins a second over connections that stay, with a server that has nothing to do
    models.py       a model to all clients and an update from each, at once: time, memory, bytes
    real_server.py  the server's half that both take with `--rounds`
    transfers.py    what a scripted client sends and fetches in pieces
    figures.py      a run's figures as a table

What comes in: what a server of devices costs. Numbers are given with the machine and what else it did.
"""
