"""The two parties of the protocol: a client and the server, step by step, with their states and their checks."""
