"""`fedjaxlite export`: files for other machines."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import typer

import fedjaxlite as fl
from fedjaxlite.cli.deploying import composing


def flower(folder: Path, config: Path) -> None:
    """A Flower app of a config file's run."""
    found = composing.deployed(config)
    beside = folder.parent / f"{folder.name}.toml"
    shutil.copyfile(config, beside)
    app = fl.deploy.export_flower(
        composing.program_of(found),
        folder,
        made_by="fedjaxlite.cli.deploying.composing:composed",
        arguments={"config": str(beside.resolve())},
        key=composing.key_of(found.job.settings),
        num_rounds=found.job.settings.rounds,
    )
    typer.echo(f"{app.folder}: {', '.join(app.files)}")
    typer.echo(f"program {app.program}; the commands are in {app.folder / 'README.md'}")


def device(path: Path) -> None:
    """The one file that runs on a device."""
    typer.echo(f"{path}: sha256 {fl.deploy.write_device(path)}")


def program(path: Path, config: Path) -> None:
    """The clients' program of a config file's run."""
    made = composing.program_of(composing.deployed(config))
    made.save(path)
    typer.echo(f"{path}: {len(made.artifact):,} bytes, sha256 {made.sha256}")


def clients(folder: Path, config: Path) -> None:
    """The data of each client of a config file's run, a file each, as devices take them."""
    population = composing.deployed(config, simulated=True).job.population
    folder.mkdir(parents=True, exist_ok=True)
    for client in range(population.num_clients):
        own = population.client(client)
        arrays: dict[str, Any] = {name: np.asarray(own[name]) for name in population.features}
        np.savez(folder / f"client-{client}.npz", **arrays)
    typer.echo(f"{folder}: {population.num_clients} files, client-0.npz to client-{population.num_clients - 1}.npz")
