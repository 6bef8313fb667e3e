"""The README's programs run as they stand, in order, as a reader would run them."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import fedjaxlite as fl
from fedjaxlite import testing

README = Path(__file__).parents[2] / "README.md"


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict]:
    space: dict = {}
    with contextlib.chdir(tmp_path_factory.mktemp("readme")):  # the last one writes a file
        run_all(space)
        yield space


def run_all(space: dict) -> None:
    for block in blocks():
        # Fewer rounds than a reader would run; everything else to the letter.
        exec(compile(block.replace("num_rounds=100", "num_rounds=12"), str(README), "exec"), space)


@pytest.fixture(scope="module")
def own() -> dict:
    """What the own algorithm needs: the imports of the short program, and the blocks up to its rounds."""
    short, *rest = blocks()
    space: dict = {}
    last = next(i for i, block in enumerate(rest) if "def fed_prox" in block)
    imports = "\n".join(line for line in short.splitlines() if line.startswith(("import ", "from ")))
    for block in (imports, *rest[: last + 1]):
        exec(compile(block, str(README), "exec"), space)
    return space


@pytest.mark.whole
def test_the_short_program_is_short_and_learns(names):
    program = blocks()[0]
    statements = [line for line in program.splitlines() if line.strip()]
    assert len(statements) <= 12
    assert names["history"].records[-1]["round"] == 12
    accuracy = fl.evaluate(names["model"], names["test"])(names["history"].state.params)["accuracy"]
    assert float(accuracy) > 0.8


def test_the_own_algorithm_fits_25_lines_and_learns(own):
    code = next(block for block in blocks() if "def fed_prox" in block)
    function = code[code.index("class Server") : code.index("rounds = fl.rounds")]
    assert len([line for line in function.splitlines() if line.strip()]) <= 25
    losses = own["infos"].metrics["loss"]
    assert float(losses[-1]) < 0.2 * float(losses[0])


@pytest.mark.whole
def test_the_own_algorithm_keeps_the_laws(names):
    import optax

    losses = names["infos"].metrics["loss"]
    assert float(losses[-1]) < 0.2 * float(losses[0])
    algorithm = names["fed_prox"](names["loss_fn"], mu=0.1, client_optimizer=optax.sgd(0.05), batch_size=8)
    testing.check_algorithm(algorithm, names["start"], names["people"])


def test_the_commands_are_in_the_makefile():
    makefile = (README.parent / "Makefile").read_text()
    for target in ("run", "test"):
        assert f"make {target}" in README.read_text()
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
