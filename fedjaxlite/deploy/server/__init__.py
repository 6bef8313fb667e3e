"""The server's half of a deployed round.

    building.py     Server: a server from the rounds that were simulated
    settings.py     what whoever runs a server decides
    state.py        what it knows between two messages, and the effects that it asks for
    tables.py       mappings from clients that share what does not change
    answering.py    answer, tick: the state machine
    turning.py      a round's beginning and end: who is drawn, when it is over, what is recorded
    moving.py       program and model down, updates in the clear up, in pieces
    masked.py       a masked round: a secure sum, step by step
    evaluating.py   evaluations on clients
    halves.py       a round from its first message to the server's step, as pure functions of arrays
    disk/           what is kept, and how a server goes on from it
    run.py          serve: the state machine, its disk, a clock and the service

What comes in: what a server does with messages. Who is on the other side of them is not known here.
"""
