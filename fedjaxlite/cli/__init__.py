"""The command line: `fedjaxlite run`, `fedjaxlite plan`, `fedjaxlite bench`."""


def main() -> None:
    """Runs the command line on the program's arguments."""
    from fedjaxlite.cli.app import app

    app()
