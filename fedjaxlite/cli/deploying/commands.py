"""The commands of deployment, and their options."""

from pathlib import Path
from typing import Annotated

import typer

from fedjaxlite.cli.several.ending import told_plainly

_DEBUG = Annotated[bool, typer.Option(help="Show the traceback of an error.")]
_CONFIG = Annotated[
    Path,
    typer.Argument(help="The config.toml of a run, or one like it; its table [serve] has the server's settings."),
]
_OF_RUN = Annotated[Path, typer.Option(help="The config.toml of a run, or one like it.", metavar="CONFIG")]
_HOME = Annotated[Path, typer.Option(help="The folder of this device.", metavar="DIR")]
_SERVER = Annotated[str | None, typer.Option(help="Where the server listens.", metavar="HOST:PORT")]
_TOKEN = Annotated[str | None, typer.Option(help="From the server's owner; enrolls this device, once.")]
_PANEL = "Deployment"
_EXPORT = typer.Typer(help="Writes files for other machines.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Adds serve, join, enroll and export to the commands of an app."""
    for command in (serve, enroll, join):
        app.command(rich_help_panel=_PANEL)(command)
    app.add_typer(_EXPORT, name="export", rich_help_panel=_PANEL)


def serve(
    config: _CONFIG,
    out: Annotated[Path | None, typer.Option(help="This server's folder; it goes on there.", metavar="DIR")] = None,
    host: Annotated[str | None, typer.Option(help="The address to listen on; 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="The port to listen on; 7440. 0 takes any.", min=0)] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens to print, for so many new clients.", min=0)] = None,
    debug: _DEBUG = False,
) -> None:
    """Serves a run to devices: what `fedjaxlite run --config CONFIG` would simulate, in their processes.

    A server that was stopped or killed goes on with the same command and --out.
    """
    with told_plainly(debug):
        from fedjaxlite.cli.deploying import serving

        serving.serve(config, out, host, port, tokens)


def enroll(
    run: Annotated[Path | None, typer.Argument(help="The folder of a server, for its owner.")] = None,
    tokens: Annotated[int, typer.Option(help="New tokens to print, each for one client.", min=0)] = 0,
    hours: Annotated[float, typer.Option(help="How long the tokens are good for.")] = 72.0,
    revoke: Annotated[list[int] | None, typer.Option(help="A client to let in no longer.", metavar="ID")] = None,
    listed: Annotated[bool, typer.Option("--list", help="Show who is enrolled.")] = False,
    server: _SERVER = None,
    token: _TOKEN = None,
    home: _HOME = Path("device"),
    debug: _DEBUG = False,
) -> None:
    """Makes this folder a device of a server (--server, --token); or, for a server's owner, tokens and revocations.

    A server's owner names its folder: fedjaxlite enroll runs/server --tokens 3.
    """
    with told_plainly(debug):
        from fedjaxlite.cli.deploying import devices

        if run is not None and (server or token):
            raise ValueError("a server's folder and --server or --token were both given; expected one of the two.")
        if run is not None:
            if not (tokens or revoke or listed):
                raise ValueError("nothing was asked for; expected --tokens N, --revoke ID or --list.")
            devices.of_server(run, tokens, revoke or (), hours, listed=listed)
            return
        if server is None or token is None:
            raise ValueError(
                "expected --server HOST:PORT and --token, as the server's owner told them; or a server's folder."
            )
        devices.on_device("enroll", home, "--server", server, "--token", token)


def join(
    server: _SERVER = None,
    data: Annotated[
        Path | None, typer.Option(help="This device's examples: an .npz, or a folder of .npy.", metavar="FILE")
    ] = None,
    home: _HOME = Path("device"),
    token: _TOKEN = None,
    rounds: Annotated[int | None, typer.Option(help="Updates to send at most.", min=1)] = None,
    program: Annotated[Path | None, typer.Option(help="The program, if it is at hand.", metavar="FILE")] = None,
    dry_run: Annotated[bool, typer.Option(help="Tell what it would take, and try it; send nothing.")] = False,
    evaluate: Annotated[bool, typer.Option(help="Evaluate the model on this device's data; send nothing.")] = False,
    log: Annotated[bool, typer.Option(help="Tell what has left this device.")] = False,
    busy: Annotated[bool, typer.Option(help="The device is not idle.")] = False,
    battery: Annotated[bool, typer.Option(help="The device does not charge.")] = False,
    metered: Annotated[bool, typer.Option(help="The device is not on wireless.")] = False,
    debug: _DEBUG = False,
) -> None:
    """Joins a server's run as one of its devices, with data that stay here.

    With a token it enrolls first. What it accepts is in its folder's policy.toml, what has left it in log.jsonl.
    """
    with told_plainly(debug):
        from fedjaxlite.cli.deploying import devices

        if log:
            devices.on_device("log", home)
            return
        if data is None:
            raise ValueError("--data is missing; expected this device's examples: an .npz, or a folder of .npy.")
        if token is not None and not devices.is_enrolled(home):
            if server is None:
                raise ValueError("--token was given without --server; expected HOST:PORT of the server.")
            devices.on_device("enroll", home, "--server", server, "--token", token)
        if evaluate:
            devices.on_device("evaluate", home, "--data", data, "--program", program)
            return
        flags = [name for name, on in (("--dry-run", dry_run), ("--busy", busy), ("--battery", battery)) if on]
        flags += ["--metered"] if metered else []
        given = ("--server", server, "--data", data, "--rounds", rounds, "--program", program)
        devices.on_device("join", home, *given, flags=flags)


@_EXPORT.command()
def flower(
    folder: Annotated[Path, typer.Argument(help="A new folder for the app.", metavar="DIR")],
    config: _OF_RUN = Path("config.toml"),
    debug: _DEBUG = False,
) -> None:
    """A ready Flower app, for people who have a fleet of Flower's nodes."""
    with told_plainly(debug):
        from fedjaxlite.cli.deploying import exporting

        exporting.flower(folder, config)


@_EXPORT.command()
def device(
    path: Annotated[Path, typer.Argument(help="The file to write.", metavar="FILE")] = Path("fedjaxlite_device.pyz"),
    debug: _DEBUG = False,
) -> None:
    """The one file that a device needs beside jax, numpy, flatbuffers and cryptography."""
    with told_plainly(debug):
        from fedjaxlite.cli.deploying import exporting

        exporting.device(path)


@_EXPORT.command()
def program(
    path: Annotated[Path, typer.Argument(help="The file to write.", metavar="FILE")] = Path("program.fjlp"),
    config: _OF_RUN = Path("config.toml"),
    debug: _DEBUG = False,
) -> None:
    """The clients' program of a run, as devices get it."""
    with told_plainly(debug):
        from fedjaxlite.cli.deploying import exporting

        exporting.program(path, config)


@_EXPORT.command()
def clients(
    folder: Annotated[Path, typer.Argument(help="A folder for the files.", metavar="DIR")],
    config: _OF_RUN = Path("config.toml"),
    debug: _DEBUG = False,
) -> None:
    """The data of each simulated client, a file each: to try a deployment on one machine."""
    with told_plainly(debug):
        from fedjaxlite.cli.deploying import exporting

        exporting.clients(folder, config)
