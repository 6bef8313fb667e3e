"""Data of other libraries as a `Population`: FedJAX, Flower, PyTorch. None of them is needed to import this.

    fedjax.py    a FederatedData          flower.py   the partitions of a partitioner
    torch.py     a Dataset and the client of each item, or a data set a client

What comes in: one library a file, told by its protocol; files of other libraries are `datasets/formats/`.
"""

from fedjaxlite.interop.fedjax import from_fedjax as from_fedjax
from fedjaxlite.interop.flower import from_flower as from_flower
from fedjaxlite.interop.torch import from_torch as from_torch

__all__ = ["from_fedjax", "from_flower", "from_torch"]
