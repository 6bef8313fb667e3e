"""Several processes that run one program: how they find each other, what they agree on, and how they end.

    start.py      `fl.distributed.initialize`: from arguments, or from what SLURM, Open MPI or Kubernetes say
    launchers.py  what the launchers' environment says: where, how many, which one
    meeting.py    the first contact, before JAX's own runtime starts; what does not fit is refused by name
    relay.py      the way to JAX's coordination service, which stays open when that is gone
    watch.py      beats of every process to the first; who fell silent, and the end of all others
    leaving.py    the end of a process: by itself, by an error, or since another one died

What comes in: what concerns processes as such. What the library's other rooms say to each other across processes is in
`fedjaxlite.processes`.
"""

from fedjaxlite.distributed.launchers import Place as Place
from fedjaxlite.distributed.start import initialize as initialize

__all__ = ["Place", "initialize"]
