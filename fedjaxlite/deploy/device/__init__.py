"""What runs on a device: the standard library and NumPy, and JAX where a program runs.

    joining.py    enrolls a device, and has it join a run      home/         what it keeps: its folder, states, ledger
    policy.py     what its owner allows                        work/         what it does: the loop, tasks, secure sums
    terms.py      what no server may change in mid-run         data.py       its examples, from a file
    artifact.py   the file of a client's program, read without trusting a byte of it
    program.py    a program: loaded and checked, run on the device's own examples, evaluated
    protocol.py   the messages between a device and its server, and their one strict reading
    schemas.py    which fields a message of each kind has, exactly
    packing.py    pieces of what is large, packed where that saves something
    link.py       a connection that comes back: one question, one answer
    enrolling.py  a token and a new key for a certificate

What comes in: what a device's owner is asked to run, and can read. Nothing here imports the rest of the library, but
for `fedjaxlite.transport`, and for `fedjaxlite.privacy.secagg` where an update leaves in a secure sum.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedjaxlite.deploy.device.home.folder import Home as Home
    from fedjaxlite.deploy.device.home.folder import HomeDamaged as HomeDamaged
    from fedjaxlite.deploy.device.joining import enroll as enroll
    from fedjaxlite.deploy.device.joining import join as join
    from fedjaxlite.deploy.device.joining import program_for as program_for
    from fedjaxlite.deploy.device.policy import Policy as Policy
    from fedjaxlite.deploy.device.policy import Status as Status
    from fedjaxlite.deploy.device.work.loop import Joined as Joined
    from fedjaxlite.deploy.device.work.rehearse import Rehearsed as Rehearsed
    from fedjaxlite.deploy.device.work.rehearse import dry_run as dry_run
    from fedjaxlite.deploy.device.work.rehearse import evaluate as evaluate

_HOME = {
    "Home": "home.folder",
    "HomeDamaged": "home.folder",
    "Joined": "work.loop",
    "Policy": "policy",
    "Rehearsed": "work.rehearse",
    "Status": "policy",
    "dry_run": "work.rehearse",
    "enroll": "joining",
    "evaluate": "work.rehearse",
    "join": "joining",
    "program_for": "joining",
}

__all__ = [
    "Home",
    "HomeDamaged",
    "Joined",
    "Policy",
    "Rehearsed",
    "Status",
    "dry_run",
    "enroll",
    "evaluate",
    "join",
    "program_for",
]


def __getattr__(name: str) -> Any:
    # On first use: a server reads the protocol here, and loads nothing of what a device does with it.
    if name in _HOME:
        return getattr(importlib.import_module(f"fedjaxlite.deploy.device.{_HOME[name]}"), name)
    raise AttributeError(f"module 'fedjaxlite.deploy.device' has no attribute {name!r}; it has {', '.join(__all__)}.")
