"""A model for each client, as whole models beside or after the server's.

    fine_tuning.py              any method, and local training after it
    ditto.py apfl.py p_fed_me.py   a model of one's own beside the server's
    per_fed_avg.py reptile.py   a server's model that is made to be adapted
    fed_ala.py                  a mixture of both to begin from

What comes in: methods whose clients end with whole models of their own, one file each.
"""
