"""`fedjaxlite join` and `fedjaxlite enroll`: a device's side, and the tokens of the server's owner."""

from collections.abc import Sequence
from pathlib import Path

import typer

from fedjaxlite.cli.deploying.serving import AUTHORITY
from fedjaxlite.deploy import bundle_main
from fedjaxlite.deploy.device.home import folder
from fedjaxlite.transport import authority


def on_device(command: str, home: Path, *options: str | Path | int | None, flags: Sequence[str] = ()) -> None:
    """Runs a command of the device's own program, which a device without this library has in one file.

    Args:
      command: "enroll", "join", "evaluate" or "log".
      home: the device's folder.
      *options: names and values in turn; those with None are left out.
      flags: names without values.

    Raises:
      typer.Exit: with the command's status, where that is not 0.
    """
    given = [
        (str(name), str(value)) for name, value in zip(options[::2], options[1::2], strict=True) if value is not None
    ]
    words = [command, "--home", str(home), *(word for pair in given for word in pair), *flags]
    status = bundle_main.main(words, say=typer.echo)
    if status:
        raise typer.Exit(status)


def is_enrolled(home: Path) -> bool:
    """Whether a folder is a device's already."""
    return (home / folder.ABOUT).exists()


def of_server(run: Path, tokens: int, revoke: Sequence[int], hours: float, *, listed: bool) -> None:
    """What the owner of a server does about clients: new tokens, revocations, a list.

    Raises:
      FileNotFoundError: the folder is not one of `fedjaxlite serve`.
    """
    place = run / AUTHORITY
    if not place.exists():
        authority.create(place)
    for client in revoke:
        authority.revoke(place, client)
        typer.echo(f"client {client} is let in no longer")
    for _ in range(tokens):
        typer.echo(authority.new_token(place, hours=hours))
    if listed:
        for client, welcome in authority.clients(place).items():
            typer.echo(f"client {client}: {'enrolled' if welcome else 'revoked'}")
