"""How a command ends where something is refused, alone or as one of several processes."""

import contextlib
from collections.abc import Generator

import typer

from fedjaxlite import exit_codes
from fedjaxlite.distributed import leaving


@contextlib.contextmanager
def told_plainly(debug: bool) -> Generator[None]:
    """Ends the program with one message and exit code 2 where the library refuses something; 130 on Ctrl-C."""
    try:
        yield
    except (typer.Exit, typer.Abort, BrokenPipeError):  # the last one is for `main`
        raise
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(exit_codes.INTERRUPTED) from None
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        leaving.wait_for_verdict(error)
        if debug:
            raise
        text = error.strerror if isinstance(error, OSError) and not error.filename else None
        typer.echo(f"error: {text or error}", err=True)
        leaving.failed(f"{text or error}", exit_codes.REFUSED)
        raise typer.Exit(exit_codes.REFUSED) from None
