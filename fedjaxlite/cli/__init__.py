"""The command line: `fedjaxlite run`, `methods`, `plan`, `bench`, `reproduce`.

    app.py         the commands                            commands.py reproduction.py   what they do
    options/       a run's options and their help          settings.py   all of them as one record, and in config.toml
    signatures.py  words for functions and arguments       loading.py build.py   from settings to the objects of a run
    parse.py named.py compress.py robust.py                from texts to objects
    methods/       the methods, what each takes and costs
    taking_part/   who takes part and when: samplers, availability, the clock
    private_run.py noise, budgets and what is told of them
    several/       one run in several processes

What comes in: what turns a command line into calls of public functions, and their results into lines of text.
"""

import os
import sys
from typing import TextIO

from fedjaxlite.exit_codes import DONE, FAILED, PIPE_CLOSED, TERMINATED

_TOGETHER = (None, DONE, FAILED, TERMINATED)
"""How all processes of a run end, if one does."""


def main() -> None:
    """Runs the command line on the program's arguments.

    Where the reader of its output is gone, as in `fedjaxlite reproduce | head`, it ends without a word.
    """
    from fedjaxlite.cli.app import app
    from fedjaxlite.distributed import leaving

    streams, code = _streams(), None
    files = [os.fstat(stream.fileno()).st_ino for stream in streams]
    try:
        app()
    except SystemExit as end:
        code = end.code
    # Where a pipe is closed, Typer puts other streams in place of these, and Rich another file under them.
    closed = _streams() != streams or files != [os.fstat(stream.fileno()).st_ino for stream in streams]
    for stream in streams:
        try:
            stream.flush()
        except BrokenPipeError:
            closed = True
            # Python flushes once more on its way out, and would complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    code = PIPE_CLOSED if closed else code
    if code not in _TOGETHER:  # of several processes of a run, the others would wait
        leaving.failed(f"it exits with code {code}", int(code))
    raise SystemExit(code)


def _streams() -> list[TextIO]:
    return [stream for stream in (sys.stdout, sys.stderr) if stream is not None]
