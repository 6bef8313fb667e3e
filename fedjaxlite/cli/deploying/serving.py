"""`fedjaxlite serve`: a server of devices from a config file, until its rounds are done."""

import asyncio
import datetime
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import typer

import fedjaxlite as fl
from fedjaxlite.cli.deploying import composing, keeping
from fedjaxlite.cli.deploying.composing import Deployed
from fedjaxlite.cli.deploying.keeping import PROGRAM, RUN
from fedjaxlite.deploy.server.disk.resuming import RUN as WHOSE
from fedjaxlite.deploy.server.disk.resuming import check_same_run
from fedjaxlite.deploy.server.run import serve as serve_run
from fedjaxlite.deploy.server.state import ServerHalf
from fedjaxlite.deploy.service import stop_on_signals
from fedjaxlite.transport import authority

PORT = 7440
AUTHORITY = "authority"


def serve(config: Path, out: Path | None, host: str | None, port: int | None, tokens: int | None) -> None:
    """Serves the run of a config file, or goes on with it.

    Args:
      config: the file.
      out: folder of this server; None makes a new one.
      host: the address to listen on; None takes [serve] of the file, or this machine alone.
      port: likewise; 0 takes any that is free.
      tokens: how many enrolment tokens to print.
    """
    found = composing.deployed(config)
    folder = out or _fresh_folder(found.job.settings.dataset)
    kept, settings = keeping.program_in(folder, found, config), composing.server_settings(found)
    program = kept.program
    server = fl.deploy.Server(
        *(found.job.rounds, found.job.params, found.job.population),
        program=program,
        key=composing.key_of(found.job.settings),
        num_rounds=found.job.settings.rounds,
        settings=settings,
        known={} if settings.server == "lying" else None,
    )
    if (folder / RUN / WHOSE).exists():
        check_same_run(server, (folder / RUN / WHOSE).read_bytes())
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / AUTHORITY
    authority.open_at(place) if place.exists() else authority.create(place)
    keeping.put(folder, kept, found)
    if config.resolve() != (folder / "config.toml").resolve():
        shutil.copyfile(config, folder / "config.toml")
    where = (
        host or str(found.serve.get("host", "127.0.0.1")),
        int(found.serve.get("port", PORT) if port is None else port),
    )
    _tell_terms(server, program, folder)
    if kept.told:
        typer.echo(kept.told)
    for _ in range(found.serve.get("tokens", 0) if tokens is None else tokens):
        typer.echo(f"token {authority.new_token(place)}")
    state = asyncio.run(_until_stopped(server, found, folder, *where))
    typer.echo(
        f"{state.number} of {server.num_rounds} rounds are done; {folder / RUN / 'records.jsonl'}"
        if state.phase == "finished"
        else f"stopped after {state.number} rounds; go on by: fedjaxlite serve {folder / 'config.toml'} --out {folder}"
    )


async def _until_stopped(server: ServerHalf, found: Deployed, folder: Path, host: str, port: int) -> Any:
    stop = asyncio.Event()
    stop_on_signals(stop)

    def listening(at: int) -> None:
        typer.echo(f"listening on {host}:{at}")

    return await serve_run(
        server,
        folder / RUN,
        folder / AUTHORITY,
        host=host,
        port=port,
        stop=stop,
        on_listening=listening,
        evaluate=_evaluation(found),
        on_record=lambda record: typer.echo(_line(record, server.num_rounds)),
    )


def _evaluation(found: Deployed) -> Any:
    """Metrics of the server's own test data, by the names that a simulated run's records have."""

    def evaluate(params: Any) -> dict[str, float]:
        told: dict[str, float] = {}
        for name, function in found.job.evaluate.items():
            values = function(params)
            values = values if isinstance(values, Mapping) else values._asdict()
            told |= {f"{name}_{metric}": float(value) for metric, value in values.items() if jax.numpy.ndim(value) == 0}
        return told

    return evaluate


def _line(record: Mapping[str, Any], num_rounds: int) -> str:
    shown = [f"round {record['round']}/{num_rounds}", f"{record.get('reported', 0)} reported"]
    shown += [f"{name} {value:.4g}" for name, value in record.items() if name.endswith(("accuracy", "_loss"))]
    return "  ".join(shown)


def _tell_terms(server: ServerHalf, program: Any, folder: Path) -> None:
    manifest = program.manifest
    typer.echo(f"{manifest['algorithm']}, {manifest['aggregator']}: {server.num_rounds} rounds of up to ", nl=False)
    typer.echo(f"{server.numbers.capacity} clients" + (", behind a secure sum" if manifest["masked"] else ""))
    typer.echo(f"program {program.sha256}: {len(program.artifact):,} bytes; {folder / PROGRAM}")
    most = server.template.population.num_clients
    enrolled = len(authority.clients(folder / AUTHORITY))
    typer.echo(f"{enrolled} of {most} clients are enrolled; more by: fedjaxlite enroll {folder} --tokens N")
    shapes = {name: f"{spec['dtype']}{spec['shape']}" for name, spec in manifest["features"].items()}
    typer.echo(f"one example: {json.dumps(shapes)}; at most {manifest['capacity']} a client")


def _fresh_folder(dataset: str) -> Path:
    return Path("runs") / f"served-{dataset}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
