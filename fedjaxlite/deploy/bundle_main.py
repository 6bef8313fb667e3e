"""The commands of a device that has not the library: it becomes `__main__` of what `bundle.write_device` writes.

python fedjaxlite_device.pyz enroll --server HOST:PORT --token TOKEN --home DIR
python fedjaxlite_device.pyz join --home DIR --data FILE [--dry-run]
python fedjaxlite_device.pyz evaluate --home DIR --data FILE
python fedjaxlite_device.pyz log --home DIR
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from fedjaxlite.deploy.device import data as data_files
from fedjaxlite.deploy.device import home as homes
from fedjaxlite.deploy.device.home import folder, ledger
from fedjaxlite.deploy.device.joining import enroll, join, program_for
from fedjaxlite.deploy.device.link import ServerRefuses
from fedjaxlite.deploy.device.policy import Status
from fedjaxlite.deploy.device.work import rehearse
from fedjaxlite.deploy.device.work.moving import ServerMisbehaves


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    whole = argparse.ArgumentParser(prog="fedjaxlite_device", description="A device of a federated run.")
    commands = whole.add_subparsers(dest="command", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.add_argument("--home", type=Path, required=True, metavar="DIR", help="the folder of this device")
        return made

    enrolling = command("enroll", "Makes a folder into a device, by a token of the server's owner.")
    enrolling.add_argument("--server", required=True, metavar="HOST:PORT")
    enrolling.add_argument("--token", required=True)
    joined = command("join", "Trains with the server at which this device enrolled, as its policy.toml allows.")
    joined.add_argument("--server", metavar="HOST:PORT", help="where it moved")
    joined.add_argument("--rounds", type=int, metavar="N", help="updates to send at most")
    joined.add_argument("--dry-run", action="store_true", help="say what the program needs, and try it; send nothing")
    joined.add_argument("--busy", action="store_true", help="the device is not idle")
    joined.add_argument("--battery", action="store_true", help="it does not charge")
    joined.add_argument("--metered", action="store_true", help="it is not on wireless")
    judging = command("evaluate", "Evaluates the newest model on this device's data, for its owner alone.")
    judging.add_argument("--model", metavar="FILE", help="a model in a file; without it the newest that came")
    for made in (joined, judging):
        made.add_argument("--data", required=True, metavar="FILE", help="an .npz file, or a folder of .npy")
        made.add_argument("--program", metavar="FILE", help="the program, where it is not on this device yet")
    logged = command("log", "Says what has left this device.")
    logged.add_argument("--lines", action="store_true", help="every line, as it was written")
    return whole


def main(arguments: Sequence[str] | None = None, *, say: Callable[[str], None] | None = None) -> int:
    """Runs a command; the exit status.

    Args:
      arguments: None takes those of the process.
      say: told every line; None writes them to the process's output.
    """
    said = _said if say is None else say
    given = parser().parse_args(arguments)
    try:
        return {"enroll": _enroll, "join": _join, "evaluate": _evaluate, "log": _log}[given.command](given, said)
    except (ValueError, OSError, RuntimeError, ServerRefuses, ServerMisbehaves) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1


def _said(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _enroll(given: argparse.Namespace, say: Callable[[str], None]) -> int:
    home = enroll(given.home, given.server, given.token)
    say(f"this is client {home.client} of {home.server} now; what it may do says {home.folder / folder.POLICY}")
    say(
        f"it has agreed to the program {home.program}" if home.program else "it will agree to the first program it gets"
    )
    return 0


def _join(given: argparse.Namespace, say: Callable[[str], None]) -> int:
    home = homes.read(given.home)
    if given.dry_run:
        ready = program_for(home, given.program)
        say(rehearse.text(rehearse.dry_run(ready, data_files.read(given.data))))
        return 0
    told_otherwise = given.busy or given.battery or given.metered
    status = Status(not given.busy, not given.battery, not given.metered)
    told = join(
        home,
        given.data,
        server=given.server,
        status=(lambda: status) if told_otherwise else None,
        rounds=given.rounds,
        report=say,
    )
    say(f"{told.ended}: {told.trained} updates sent, {told.counted} counted, {len(told.refused)} tasks refused")
    return 0 if told.ended in ("finished", "enough rounds", "stopped") else 1


def _evaluate(given: argparse.Namespace, say: Callable[[str], None]) -> int:
    home = homes.read(given.home)
    ready = program_for(home, given.program)
    for name, value in rehearse.evaluate(home, ready, data_files.read(given.data), model=given.model).items():
        say(f"{name} {value:.6g}")
    return 0


def _log(given: argparse.Namespace, say: Callable[[str], None]) -> int:
    path = homes.read(given.home).folder / folder.LOG
    if given.lines:
        for line in ledger.lines(path):
            say(str(line))
    say(ledger.text(ledger.summary(path)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
