"""One model over several devices: a mesh of lanes and model axes, and where each array of a run lies on it.

    mesh.py        which meshes a run takes
    shardings.py   the user's shardings of the parameters, held against the parameters
    placing.py     what follows from them for states, messages and banks, and how it is kept to inside a program

What comes in: what a model axis adds to a layout. Programs know nothing of it: a client trains as on one device, and
XLA partitions what it computes.
"""
