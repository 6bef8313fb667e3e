"""Whoever reads the output may go: `fedjaxlite reproduce | head`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedjaxlite import cli, exit_codes

MAIN = "from fedjaxlite.cli import main; main()"


def ended(arguments: list[str], folder: Path, *, both: bool = False, unread: bool = True) -> tuple[int, str]:
    """The exit code and the error output of the command line, whose output nobody reads."""
    read, write = os.pipe()
    if unread:
        os.close(read)
    try:
        stderr = write if both else subprocess.PIPE
        program = [sys.executable, "-c", MAIN, *arguments]
        path = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
        done = subprocess.run(program, stdout=write, stderr=stderr, cwd=folder, env=path, check=False, timeout=300)
    finally:
        os.close(write)
    if not unread:
        os.close(read)
    return done.returncode, "" if both else done.stderr.decode()


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["reproduce"], ["reproduce", "li2020", "--list"], ["plan", "--help"]]
)
@pytest.mark.whole
def test_a_command_ends_quietly_when_nobody_reads_its_output(arguments, tmp_path) -> None:
    assert ended(arguments, tmp_path) == (exit_codes.PIPE_CLOSED, "")


@pytest.mark.whole
def test_a_run_ends_quietly_and_has_written_everything(tmp_path) -> None:
    small = ["run", "--clients", "4", "--cohort", "2", "--rounds", "1", "--model", "logistic", "--out", "out"]
    code, told = ended([*small, "--no-progress"], tmp_path)
    assert (code, told) == (exit_codes.PIPE_CLOSED, "")
    assert (tmp_path / "out" / "records.jsonl").read_text().count("\n") == 1
    assert (tmp_path / "out" / "config.toml").is_file()


def test_nor_its_errors(tmp_path) -> None:
    assert ended(["reproduce", "nobody"], tmp_path, both=True)[0] == exit_codes.PIPE_CLOSED


@pytest.mark.whole
def test_other_exit_codes_stay(tmp_path) -> None:
    assert ended(["reproduce"], tmp_path, unread=False) == (0, "")
    code, told = ended(["reproduce", "nobody"], tmp_path)
    assert code == 2
    assert told.startswith("error: there is no table 'nobody'")
