"""Commands of deployment: what `run` simulates, in other processes.

    commands.py    serve, join, enroll, export: their options
    composing.py   a config file becomes rounds, a model and the clients' program
    described.py   what a server is told of data that it does not have
    keeping.py     the program of a server's folder, with which it goes on
    serving.py     serve: a server from a config file
    devices.py     join, enroll: the device's side, and the tokens of the server's owner
    exporting.py   export: a Flower app, the device's file, the program, the clients' data

What comes in: words of a command line. What is served and joined is `fl.deploy`.
"""
