"""Valid calls of what is deployed: a client's program, a server of it, and the files that are written for others."""

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from bases_engine import ALGORITHM, KEY, PARAMS
from bases_formats import FOLDER
from calls import Base

import fedjaxlite as fl
from fedjaxlite import deploy, sampling
from fedjaxlite.deploy.program.template import template_of
from fedjaxlite.deploy.server.settings import checked

SPEC = deploy.DataSpec(
    {"x": jax.ShapeDtypeStruct((3,), np.float32), "y": jax.ShapeDtypeStruct((), np.float32)}, num_clients=6, capacity=5
)
ROUNDS = fl.rounds(ALGORITHM, sampler=sampling.uniform(2), aggregator=fl.mean())
PROGRAM = deploy.client_program(ROUNDS, PARAMS, SPEC, platforms=("cpu",))
FILE = FOLDER / "program.fjlp"
PROGRAM.save(FILE)


def made() -> Any:
    """What a Flower app makes its rounds by."""
    return ROUNDS, PARAMS, SPEC


def leaving_nothing(function: Callable[..., Any], argument: str) -> Callable[..., Any]:
    """A writer whose file or folder is gone after the call, wherever an odd value put it."""

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        finally:
            where = options.get(argument)
            if isinstance(where, str | Path) and where and Path(where).exists():
                shutil.rmtree(where) if Path(where).is_dir() else Path(where).unlink()

    return call


def use_spec(spec: Any) -> None:
    """What is known of data is looked at by the program, or the server, that is made for them."""
    template_of(ROUNDS, PARAMS, spec)


def use_settings(settings: Any) -> None:
    """Settings are looked at by the server that gets them."""
    checked(settings, capacity=2, num_clients=6, masked=False)


DEPLOY: dict[str, Base] = {
    "deploy.client_program": Base(
        deploy.client_program,
        {"rounds": ROUNDS, "params": PARAMS, "population_or_spec": SPEC, "platforms": ("cpu",)},
        words={"population_or_spec": ("population", "spec", "data"), "params": ("parameters",), "evaluate": ("loss",)},
        costly=True,
    ),
    "deploy.load_program": Base(deploy.load_program, {"source": FILE}, words={"source": ("source", "file", "program")}),
    "deploy.DataSpec": Base(
        deploy.DataSpec, SPEC._asdict(), use=use_spec, words={"features": ("feature",)}, costly=True
    ),
    "deploy.Server": Base(
        deploy.Server,
        {"rounds": ROUNDS, "params": PARAMS, "data": SPEC, "program": PROGRAM, "key": KEY, "num_rounds": 3},
        words={"params": ("parameters",)},
        costly=True,
    ),
    "deploy.ServerSettings": Base(deploy.ServerSettings, {}, use=use_settings),
    "deploy.write_device": Base(
        leaving_nothing(deploy.write_device, "path"), {"path": FOLDER / "device.pyz"}, costly=True
    ),
    "deploy.export_flower": Base(
        leaving_nothing(deploy.export_flower, "folder"),
        {"program": PROGRAM, "folder": FOLDER / "app", "made_by": f"{__name__}:made", "key": KEY, "num_rounds": 2},
        words={"arguments": ("argument",)},
        costly=True,
    ),
}
