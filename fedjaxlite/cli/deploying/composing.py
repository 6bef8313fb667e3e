"""A config file becomes what is deployed: the rounds that `run` would simulate, their model, the clients' program."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

import fedjaxlite as fl
from fedjaxlite.cli import build
from fedjaxlite.cli import settings as options
from fedjaxlite.cli.deploying import described
from fedjaxlite.cli.settings import Settings

SERVE = "serve"
_NETWORK: Mapping[str, type] = {"host": str, "port": int, "tokens": int}
_NOT_SERVED = (
    *("sweep", "seeds", "validation", "select", "tracker", "personal_eval", "per_client_eval", "max_epsilon"),
    "availability",  # devices say themselves when they are there
)


class Deployed(NamedTuple):
    """What a config file describes.

    Attributes:
      job: the run that `fedjaxlite run --config` would make.
      loss: what is trained, and evaluated on clients.
      serve: the table [serve] of the file, without what it says of data.
    """

    job: build.Job
    loss: Any
    serve: Mapping[str, Any]


def deployed(config: Path, *, simulated: bool = False) -> Deployed:
    """The run of a config file, for other processes.

    Args:
      config: the file. Where it has a table [serve.data], no data set is read.
      simulated: whether the data are those of the simulation all the same.

    Raises:
      FileNotFoundError, ValueError: there is no such file, or what is in it cannot be deployed.
    """
    settings = options.from_file(config, {})
    asked = [name for name in _NOT_SERVED if getattr(settings, name)]
    if asked:
        raise ValueError(
            f"{str(config)!r} has {', '.join(asked)}, which a server of devices has no place for. Take it out."
        )
    table = _serve_table(config)
    told = table.pop(described.TABLE, None)
    unread = None if told is None or simulated else described.data_of(told, config, settings)
    job = build.job(settings, unread)
    model = build.model_of(job.settings, job.population)
    return Deployed(job, build.loss_of(job.settings, model, job.population), table)


def composed(config: str) -> tuple[fl.Rounds, Any, fl.Population]:
    """Rounds, first model and data of a config file: what a server in another framework makes them by."""
    job = deployed(Path(config)).job
    return job.rounds, job.params, job.population


def program_of(found: Deployed) -> fl.deploy.ClientProgram:
    """The clients' program, with an evaluation of the loss."""
    job = found.job
    return fl.deploy.client_program(job.rounds, job.params, job.population, evaluate=found.loss)


def server_settings(found: Deployed) -> fl.deploy.ServerSettings:
    """The settings of the server in [serve]."""
    given = {name: value for name, value in found.serve.items() if name not in _NETWORK}
    if "eligible" in given:
        given["eligible"] = tuple(given["eligible"])
    return fl.deploy.ServerSettings(**given)


def key_of(settings: Settings) -> jax.Array:
    """The run's key: that of `fedjaxlite run` with the same seed."""
    return build.keys(settings)["run"]


def _serve_table(config: Path) -> dict[str, Any]:
    table = tomllib.loads(config.read_text(encoding="utf-8")).get(SERVE, {})
    known = (*fl.deploy.ServerSettings._fields, *_NETWORK, described.TABLE)
    for name, value in table.items():
        if name not in known:
            raise ValueError(f"{str(config)!r} has {name!r} in [serve]; known are {', '.join(known)}.")
        expected = _NETWORK.get(name)
        if expected is not None and type(value) is not expected:
            raise ValueError(f"{str(config)!r} has {name} = {value!r} in [serve]; expected {expected.__name__}.")
    return table
