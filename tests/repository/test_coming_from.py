"""The pages for users of other libraries: their programs are marked, and run where their library is installed."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import markdown_pages as markdown
import other_libraries
import pytest

from fedjaxlite.benchmarks.peers import environments

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "coming_from"


class Library(NamedTuple):
    """Another library: the comment that marks its programs, and the modules that they import."""

    marker: str
    modules: tuple[str, ...]


LIBRARIES = {
    "fedjax": Library("FedJAX", ("fedjax", "tensorflow")),
    "flower": Library("Flower", ("flwr", "flwr_datasets", "ray", "dp_accounting")),
    "pfl": Library("pfl", ("pfl", "torch", "dp_accounting")),
    "tff": Library("TFF", ("tensorflow_federated",)),
}


def test_there_is_a_page_for_each_library():
    assert {page.stem for page in FOLDER.glob("*.md")} == {*LIBRARIES, "index"}


@pytest.mark.parametrize("name", LIBRARIES)
def test_every_program_says_whose_it_is(name):
    page, library = FOLDER / f"{name}.md", LIBRARIES[name]
    allowed = {"python": ("both", "fedjaxlite"), "py": (library.marker,)}
    for block in markdown.blocks(page):
        if block.language in allowed:
            said = other_libraries.marker(block)
            assert said in allowed[block.language], (
                f"{page.name}, line {block.line}: a block of {block.language} begins with {said!r}; expected a comment, "
                f"one of {allowed[block.language]}."
            )


@pytest.mark.parametrize("name", LIBRARIES)
def test_every_output_of_another_library_stands_below_its_program(name):
    page, library = FOLDER / f"{name}.md", LIBRARIES[name]
    shown = [program.shown for program in other_libraries.programs(page, library.marker) if program.shown]
    assert shown == [block for block in markdown.blocks(page) if block.language == "txt"]
    assert len(shown) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("name", LIBRARIES)
def test_programs_of_other_libraries_run_and_print_what_is_shown(name, tmp_path):
    variable, library = environments.variable(name), LIBRARIES[name]
    python = os.environ.get(variable)
    if not python:
        pytest.skip(f"{variable} names no Python that has {', '.join(library.modules)}.")
    wanted = f"from importlib.util import find_spec; print([m for m in {library.modules} if not find_spec(m)])"
    missing = subprocess.run([python, "-c", wanted], capture_output=True, text=True, check=True).stdout.strip()
    if missing != "[]":
        pytest.skip(f"{variable}={python} does not have {missing}.")
    other_libraries.run(FOLDER / f"{name}.md", library.marker, python, tmp_path)


def test_what_another_library_prints_is_compared(tmp_path):
    page = tmp_path / "page.md"
    program = "```python\n# both\nn = 2\n```\n\n```py\n# Other\nprint('n is', n + {})\n```\n\n```txt\nn is 3\n```\n"
    python = sys.executable
    page.write_text(program.format(1))
    other_libraries.run(page, "Other", python, tmp_path, timeout=60)
    page.write_text(program.format(9))
    with pytest.raises(AssertionError, match=r"page.md, line 12: 3.0 is shown, and 11.0 printed"):
        other_libraries.run(page, "Other", python, tmp_path, timeout=60)
    page.write_text("```py\n# Other\nraise SystemError('gone')\n```\n")
    with pytest.raises(AssertionError, match=r"(?s)the programs of Other:.*page.md.*line 3.*gone"):
        other_libraries.run(page, "Other", python, tmp_path, timeout=60)
