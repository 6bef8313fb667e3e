"""What a server leaves on its disk, and how another process goes on from there.

    journal.py    a folder: where effects go
    resuming.py   the state that a folder holds

What comes in: the effects that the state machine asks for. It touches no disk itself.
"""
