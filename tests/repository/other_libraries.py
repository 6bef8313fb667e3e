"""The pages for users of other libraries: their programs stand beside ours, and run where their library is installed.

A block of ```py whose first line is a comment with a library's name is that library's; ```txt right below it is what it
prints. Blocks that begin with `# both` run on both sides.
"""

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import NamedTuple

import markdown_pages as markdown

# What runs in the other library's Python. The blocks are executed in `__main__`, from which processes of their own take
# functions by value; what they print goes to files, which processes can inherit.
DRIVER = """
import contextlib, json, sys
for text, where, line, answer in json.load(open(sys.argv[1])):
    with open(answer, "w") as file, contextlib.redirect_stdout(file):
        exec(compile("\\n" * (line - 1) + text, where, "exec"), globals())
"""


class Program(NamedTuple):
    """A block of another library's.

    Attributes:
      block: the program.
      shown: the block of what it prints, or None.
    """

    block: markdown.Block
    shown: markdown.Block | None


def marker(block: markdown.Block) -> str:
    """The comment in the first line: whose program it is."""
    first = block.text.splitlines()[0] if block.text else ""
    return first[2:].strip() if first.startswith("# ") else ""


def programs(page: Path, library: str) -> list[Program]:
    """The blocks of a page that run on the side of `library`, in order."""
    found, blocks = [], markdown.blocks(page)
    for block, after in zip(blocks, [*blocks[1:], None], strict=True):
        if (block.language, marker(block)) in (("python", "both"), ("py", library)):
            is_shown = after is not None and after.language == "txt" and not after.below
            found.append(Program(block, after if is_shown else None))
    return found


def run(page: Path, library: str, python: str, folder: Path, *, timeout: float = 600) -> None:
    """Runs a library's programs in its own Python, and compares what they print with what the page shows."""
    made = programs(page, library)
    answers = [folder / f"printed_{number}" for number in range(len(made))]
    work = [
        [program.block.text, page.name, program.block.line, str(answer)]
        for program, answer in zip(made, answers, strict=True)
    ]
    (folder / "driver.py").write_text(DRIVER)
    (folder / "work.json").write_text(json.dumps(work))
    status = _executed([python, "driver.py", "work.json"], folder, timeout)
    assert status == 0, f"{page.name}, the programs of {library}:\n{(folder / 'log').read_text()[-4000:]}"
    for program, answer in zip(made, answers, strict=True):
        if program.shown is not None:
            markdown.assert_shown(answer.read_text(), program.shown, page)


def _executed(command: list[str], folder: Path, timeout: float) -> int:
    """The exit status of a command in `folder`, which writes a log there."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_", "PYTHON"))}
    # A file and not a pipe, and a group of its own: a library may leave processes behind that hold what they inherited.
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**kept, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait(timeout)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
