"""Deployment: what was simulated, in other processes.

    program/   a client's half of a round as one file, and what both sides agree on
    device/    what runs on a device: it needs neither the rest of the library nor the algorithm's source
    server/    the server's half: a pure state machine
    service/   asyncio and TLS around it
    flower/    the same run as an app of Flower
    bundle.py bundle_main.py   the device's rooms as one file, and its commands

What comes in: processes, files and messages between them. What is computed comes from `fl.rounds`, unchanged.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedjaxlite.deploy.bundle import write_device as write_device
    from fedjaxlite.deploy.device.artifact import ProgramRefused as ProgramRefused
    from fedjaxlite.deploy.flower.export import FlowerApp as FlowerApp
    from fedjaxlite.deploy.flower.export import export_flower as export_flower
    from fedjaxlite.deploy.program.client_program import ClientProgram as ClientProgram
    from fedjaxlite.deploy.program.client_program import Download as Download
    from fedjaxlite.deploy.program.client_program import client_program as client_program
    from fedjaxlite.deploy.program.client_program import load_program as load_program
    from fedjaxlite.deploy.program.template import DataSpec as DataSpec
    from fedjaxlite.deploy.server.building import Server as Server
    from fedjaxlite.deploy.server.run import serve as serve
    from fedjaxlite.deploy.server.settings import ServerSettings as ServerSettings

_HOME = {
    "ClientProgram": "program.client_program",
    "DataSpec": "program.template",
    "Download": "program.client_program",
    "FlowerApp": "flower.export",
    "ProgramRefused": "device.artifact",
    "Server": "server.building",
    "ServerSettings": "server.settings",
    "client_program": "program.client_program",
    "export_flower": "flower.export",
    "load_program": "program.client_program",
    "serve": "server.run",
    "write_device": "bundle",
}

__all__ = [
    "ClientProgram",
    "DataSpec",
    "Download",
    "FlowerApp",
    "ProgramRefused",
    "Server",
    "ServerSettings",
    "client_program",
    "export_flower",
    "load_program",
    "serve",
    "write_device",
]


def __getattr__(name: str) -> Any:
    # On first use, so that a device that has the library loads its own rooms alone.
    if name in _HOME:
        return getattr(importlib.import_module(f"fedjaxlite.deploy.{_HOME[name]}"), name)
    raise AttributeError(f"module 'fedjaxlite.deploy' has no attribute {name!r}; it has {', '.join(__all__)}.")
