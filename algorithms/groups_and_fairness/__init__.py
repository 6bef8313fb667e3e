"""Several models, or one that weighs its clients: clusters, and fairness between clients.

    ifca.py                     a model for each cluster of clients
    q_fed_avg.py afl.py term.py   one model that is worst for nobody

What comes in: methods that treat clients differently by how they fare, one file each.
"""
