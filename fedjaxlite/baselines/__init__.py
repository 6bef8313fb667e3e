"""Baselines: what federated learning is compared with, in one call each.

    in_one_place.py   central training on all data           alone.py     every client on its own
    left_out.py       training without a client, tested on it

What comes in: other ways to train on the same clients.
"""

from fedjaxlite.baselines.alone import local_only as local_only
from fedjaxlite.baselines.in_one_place import Baseline as Baseline
from fedjaxlite.baselines.in_one_place import central as central
from fedjaxlite.baselines.left_out import leave_one_client_out as leave_one_client_out

__all__ = ["Baseline", "central", "leave_one_client_out", "local_only"]
