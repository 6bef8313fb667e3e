"""The two halves of a round, apart from who runs them: the same functions are simulated, and run on devices.

    client_half.py   a client's output as it leaves the client: guarded, and encoded
    server_half.py   a round that begins at the server, and the server's step once a total is there

What comes in: what both sides compute, whichever process they are in. Lanes, devices and sockets are not known here.
"""
