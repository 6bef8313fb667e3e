"""Rules that compare messages with what the server computes on data of its own.

    server_client.py   the server's data as one more client, in every cohort
    fl_trust.py zeno_pp.py   a rule each     server_row.py   what they share

What comes in: rules that know which message is the server's.
"""
