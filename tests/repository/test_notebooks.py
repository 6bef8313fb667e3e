"""The notebooks: each is like its plain-text twin, runs from top to bottom, and shows what it shows without errors."""

import ast
import re
from pathlib import Path

import jax
import jupytext
import nbformat
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
REMEDY = "Edit the .py file and run `scripts/notebooks {number}` (or with --keep, where only text changed)."
# What no output may hold: a folder of the machine that made it, or something that went wrong.
FORBIDDEN = re.compile(r"(?:^|[\s'\"(=:])/\w+/[\w.]+|site-packages|Traceback|Warning:|WARNING:|\x1b\[")
TOP = 3
"""The title, the line that installs, the cell that looks for devices."""

SLOW = ("04", "07")
"""The longest to run: pages and tables run what they show."""


def twin(name: str) -> nbformat.NotebookNode:
    return jupytext.read(FOLDER / f"{name}.py", fmt="py:percent")


def notebook(name: str) -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code_cells(cells: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in cells.cells if cell.cell_type == "code"]


def without_magics(source: str) -> str:
    return "\n".join("" if line.startswith("%") else line for line in source.splitlines())


def shows_something(source: str) -> bool:
    """Whether a cell prints, or ends in an expression."""
    body = ast.parse(without_magics(source)).body
    printing = any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        for statement in body
        if not isinstance(statement, (ast.FunctionDef, ast.ClassDef))
        for node in ast.walk(statement)
    )
    return printing or (bool(body) and isinstance(body[-1], ast.Expr))


def text_of(output: nbformat.NotebookNode) -> str:
    data = output.get("data", {})
    return output.get("text", "") + "".join(text for kind, text in data.items() if kind.startswith("text/"))


def test_there_are_eight_and_all_have_a_twin() -> None:
    assert [name[:2] for name in NAMES] == [f"{number:02d}" for number in range(1, 9)]
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_holds_the_cells_of_its_twin(name: str) -> None:
    made, kept = twin(name), notebook(name)
    remedy = REMEDY.format(number=name[:2])
    assert len(made.cells) == len(kept.cells), f"{name} has other cells than its twin. {remedy}"
    for place, (wanted, cell) in enumerate(zip(made.cells, kept.cells, strict=True)):
        same = (cell.cell_type, cell.source) == (wanted.cell_type, wanted.source)
        assert same, f"cell {place} of {name} is not that of its twin. {remedy}"
    assert kept.metadata.jupytext.formats == "ipynb,py:percent", f"{name} is not paired with its twin. {remedy}"


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_begins_with_what_it_takes(name: str) -> None:
    cells = twin(name).cells
    assert [cell.cell_type for cell in cells[:TOP]] == ["markdown", "code", "code"]
    title, install, device = (cell.source for cell in cells[:TOP])
    assert title.startswith("# ")
    assert install.splitlines() == [install]
    assert install.startswith('# %pip install "fedjaxlite[privacy]"')
    assert '%pip install "..[privacy]"' in install
    first = re.search(r"\b(?:jax|fl)(?:\.\w+)+\(", device)
    assert first is not None
    assert first.group() == "fl.use_cpu_cores(", "nothing may start JAX before the cores are asked for"
    for part in ("jax.devices()", "fl.__version__", "jax.__version__", "on the CPU", "on an accelerator"):
        assert part in device, part


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_outputs_are_whole(name: str) -> None:
    kept = notebook(name)
    remedy = REMEDY.format(number=name[:2])
    pictures = 0
    for place, cell in enumerate(code_cells(kept)):
        if shows_something(cell.source):
            assert cell.outputs, f"code cell {place} of {name} has no output. {remedy}"
        for output in cell.outputs:
            assert output.output_type != "error", f"code cell {place} of {name} failed. {remedy}"
            found = FORBIDDEN.search(text_of(output))
            assert found is None, f"code cell {place} of {name} shows {found.group() if found else ''!r}. {remedy}"
            assert output.get("name") != "stderr", f"code cell {place} of {name} warns: {text_of(output)[:200]}"
            pictures += "image/png" in output.get("data", {})
    assert pictures >= 1, f"{name} has no figure. {remedy}"
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 400_000, f"{name} is too large to be read in a browser."


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    text = "\n".join(cell.source for cell in twin(name).cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)#]+)(?:#([^)]*))?\)", text)
    inside = [(page, anchor) for page, anchor in links if not page.startswith("https://")]
    assert any(page.startswith("../docs/") for page, _ in inside)
    for page, anchor in inside:
        assert (FOLDER / page).exists(), f"{name} links to {page}, which is not there."
        headings = re.findall(r"^#+ (.+)$", (FOLDER / page).read_text(encoding="utf-8"), re.MULTILINE)
        slugs = ["", *(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)]
        assert anchor in slugs, f"{name} links to {page}#{anchor}, and there is no such heading."


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name.startswith(SLOW) else []) for name in NAMES]
)
@pytest.mark.whole
def test_a_notebook_runs_from_top_to_bottom(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDJAXLITE_SMALL", "1")
    monkeypatch.chdir(FOLDER)
    jax.devices()  # started, so that the notebook cannot change how many devices the other tests have
    names: dict[str, object] = {"__name__": "__main__"}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # as a user has them
        for place, cell in enumerate(code_cells(twin(name))):
            try:
                exec(compile(without_magics(cell.source), f"{name}, code cell {place}", "exec"), names)
            except Exception as error:
                error.add_note(f"in code cell {place} of {name}:\n{cell.source}")
                raise
