"""The documentation: its programs run, its links and commands hold, and the reference leaves no public name out."""

import importlib
import importlib.util
import inspect
import re
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import markdown_pages as markdown
import pytest
import typer.main
import yaml

import fedjaxlite as fl
from fedjaxlite.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
ELSEWHERE = ("raw_file_to_report.md",)  # needs files, which test_raw_files.py makes
PROGRAMS = [
    page
    for page in (
        DOCS / "index.md",
        DOCS / "tutorial.md",
        DOCS / "clock.md",
        DOCS / "deployment.md",
        *(p for f in ("how_to", "coming_from") for p in sorted((DOCS / f).glob("*.md"))),
    )
    if page.name not in ELSEWHERE
]
SLOW = (
    "availability.md",
    "flower.md",
    "less_traffic.md",
    "metrics.md",
    "pfl.md",
    "seeds_and_rates.md",
    "streaming.md",
    "withstand_bad_clients.md",
)  # what they show has everyday tests of its own

# Where the names of a public module are documented: a page of docs/reference.
REFERENCE = {
    "fedjaxlite": "rounds, data, local, aggregation, sampling, execution",
    "fedjaxlite.algorithms": "algorithms",
    "fedjaxlite.algorithms.without_a_model.analytics": "algorithms",
    "fedjaxlite.algorithms.shared_parts.lora": "algorithms",
    "fedjaxlite.baselines": "metrics",
    "fedjaxlite.checks": "local",
    "fedjaxlite.attacks": "robustness",
    "fedjaxlite.wire.compression": "compression",
    "fedjaxlite.wire.robust": "robustness",
    "fedjaxlite.datasets": "data",
    "fedjaxlite.deploy": "deploy",
    "fedjaxlite.deploy.device": "deploy",
    "fedjaxlite.distributed": "execution",
    "fedjaxlite.interop": "data",
    "fedjaxlite.losses": "models",
    "fedjaxlite.lowering": "local",
    "fedjaxlite.metrics": "metrics",
    "fedjaxlite.models": "models",
    "fedjaxlite.observers": "observers",
    "fedjaxlite.observers.records": "observers",
    "fedjaxlite.partition": "data",
    "fedjaxlite.plots": "plots",
    "fedjaxlite.preprocessing": "preprocessing",
    "fedjaxlite.privacy": "privacy, accounting",
    "fedjaxlite.privacy.accounting": "accounting",
    "fedjaxlite.privacy.attacks": "attacks",
    "fedjaxlite.privacy.audit": "attacks",
    "fedjaxlite.privacy.secagg": "secagg",
    "fedjaxlite.privacy.secagg.parties.client": "secagg",
    "fedjaxlite.privacy.secagg.errors": "secagg",
    "fedjaxlite.privacy.secagg.graph": "secagg",
    "fedjaxlite.privacy.secagg.keys": "secagg",
    "fedjaxlite.privacy.secagg.masking": "secagg",
    "fedjaxlite.privacy.secagg.messages": "secagg",
    "fedjaxlite.privacy.secagg.parties.server": "secagg",
    "fedjaxlite.privacy.secagg.shamir": "secagg",
    "fedjaxlite.privacy.secagg.transport": "secagg",
    "fedjaxlite.sampling": "sampling",
    "fedjaxlite.systems": "systems",
    "fedjaxlite.systems.service": "systems",
    "fedjaxlite.systems.staleness": "systems",
    "fedjaxlite.testing": "testing",
}


def short(page: Path) -> str:
    return str(page.relative_to(ROOT))


def hook(name: str) -> ModuleType:
    """A file of docs/hooks, as MkDocs loads it."""
    spec = importlib.util.spec_from_file_location(name, DOCS / "hooks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Programs


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.slow] if page.name in SLOW else []) for page in PROGRAMS], ids=short
)
@pytest.mark.whole
def test_the_programs_of_a_page_run_and_print_what_it_shows(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fewer = {"num_rounds": "12"} if page.name == "index.md" else {}
    markdown.run(page, **fewer)


def test_output_that_differs_from_what_a_page_shows_is_an_error():
    block = markdown.Block("text", "accuracy 0.90 in 1,000 rounds", 7, "")
    markdown.assert_shown("accuracy 0.91 in 1000  rounds\n", block, Path("page.md"))
    for printed in ("accuracy 0.50 in 1000 rounds", "loss 0.90 in 1000 rounds", "accuracy 0.90"):
        with pytest.raises(AssertionError, match=r"page.md, line 7"):
            markdown.assert_shown(printed, block, Path("page.md"))


# The reference


def documented() -> dict[str, str]:
    """Dotted path of everything in the reference, and the page that it is on."""
    found = {}
    for page in sorted((DOCS / "reference").glob("*.md")):
        module = ""
        for line in page.read_text().splitlines():
            if directive := re.match(r"::: ([\w.]+)", line):
                module = directive[1]
                found[module] = page.stem
            elif member := re.match(r" {8}- (\w+)$", line):
                found[f"{module}.{member[1]}"] = page.stem
    return found


def public_names(module: ModuleType) -> list[str]:
    """`__all__`, or else what is defined in a module; for a package, in it or below it."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    home = {name: getattr(value, "__module__", "") for name, value in vars(module).items() if not name.startswith("_")}
    below = f"{module.__name__}." if hasattr(module, "__path__") else "\n"
    return [name for name, where in home.items() if where == module.__name__ or where.startswith(below)]


def at(path: str) -> Any:
    """The object of a dotted path; a module comes before a function of the same name, as for the site's parser."""
    parts = path.split(".")
    value: Any = importlib.import_module(parts[0])
    for i, part in enumerate(parts[1:], start=2):
        try:
            value = importlib.import_module(".".join(parts[:i]))
        except ModuleNotFoundError:
            value = getattr(value, part)
    return value


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    """Every path that the reference documents, and the object there."""
    found = {}
    for path, page in documented().items():
        try:
            found[path] = at(path)
        except AttributeError as error:
            pytest.fail(f"docs/reference/{page}.md has `::: {path}`: {error}")
    return found


@pytest.mark.parametrize("name", REFERENCE)
def test_every_public_name_is_in_the_reference_and_has_a_docstring(name, reference):
    module, known = importlib.import_module(name), {id(value) for value in reference.values()}
    missing, bare = [], []
    for public in public_names(module):
        value: Any = getattr(module, public)
        if inspect.ismodule(value):
            missing += [] if value.__name__ in REFERENCE else [public]
            continue
        missing += [] if id(value) in known or f"{name}.{public}" in reference else [public]
        described = inspect.getdoc(value) or ""
        named = inspect.isfunction(value) or inspect.isclass(value)
        bare += [public] if named and (not described or described.startswith(f"{public}(")) else []
    assert not missing, (
        f"{name} has {missing}: add `::: {name}.NAME` to a page of docs/reference/ ({REFERENCE[name]}), and a public "
        "module to REFERENCE in this test."
    )
    assert not bare, f"{name} has {bare} without a docstring: the reference would show nothing."


# Links, pages, versions


def anchors(page: Path) -> set[str]:
    """What may stand behind # in a link to a page."""
    heads = re.findall(r"^#+ (.+)$", markdown.prose(page), flags=re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", re.sub(r"`", "", head)).strip().lower() for head in heads]
    return {re.sub(r"[-\s]+", "-", head) for head in plain}


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=short)
def test_links_and_images_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", markdown.prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        to = (page.parent / path).resolve() if path else page
        assert to.is_file(), f"{short(page)} links to {target}, and there is no {path}."
        assert not anchor or anchor in anchors(to), f"{short(page)} links to {target}; {to.name} has {anchors(to)}."


def test_every_page_is_in_the_navigation():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert sorted(DOCS / entry for entry in _entries(config["nav"])) == PAGES


def _entries(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [entry for part in (nav.values() if isinstance(nav, dict) else nav) for entry in _entries(part)]


def test_the_citation_is_of_this_version():
    assert f"version = {{{fl.__version__}}}" in (DOCS / "citation.md").read_text()


# The command line


def commands(page: Path) -> list[str]:
    """Shell lines of a page, from its plain blocks and from code within its text."""
    plain = [block.text for block in markdown.blocks(page) if block.language in ("", "sh", "bash")]
    lines = [line.strip() for text in plain for line in text.replace("\\\n", " ").splitlines()]
    text = re.sub(r"^#.*$", "", markdown.prose(page), flags=re.MULTILINE)  # a heading has a command's name alone
    return lines + re.findall(r"`((?:fedjaxlite|python -m) [^`]+)`", text)


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=short)
def test_commands_parse(page):
    root: Any = typer.main.get_command(app)
    for line in commands(page):
        words = shlex.split(line, comments=True)
        if words[:2] == ["python", "-m"] and "NAME" not in words[2] and words[2].startswith("fedjaxlite"):
            assert importlib.util.find_spec(words[2]) is not None, f"{short(page)}: there is no module {words[2]}."
        if words[:1] != ["fedjaxlite"] or words[1] in ("--help", "COMMAND"):
            continue
        group, at = root, 1
        while hasattr(group, "commands"):
            known = group.commands
            assert [*words, ""][at] in known, f"{short(page)}: `{line}`; the commands are {list(known)}."
            group, at = known[words[at]], at + 1
        arguments = [word for word in words[at:] if word != "--help"]
        with group.make_context(words[at - 1], arguments):
            pass  # an option that does not exist, or a value that it does not take, has raised


def test_the_page_on_the_command_line_has_every_command_and_option():
    page, tables = (DOCS / "reference" / "cli.md").read_text(), hook("command_line")
    commands = tables.all_commands()
    assert {"run", "serve", "export flower"} <= set(commands)
    for name, command in commands.items():
        assert f"## `fedjaxlite {name}`" in page, f"docs/reference/cli.md has no section on `fedjaxlite {name}`."
        made = tables.tables(name)
        for option in command.params:
            assert option.opts[0] == "--help" or f"`{option.opts[0]}`" in made or option.name.upper() in made
    written = tables.on_page_markdown(page)
    assert "<!-- options" not in written
    assert "`--target-accuracy`" in written
    assert "A ready Flower app" in written
    with pytest.raises(ValueError, match="asks for the options of 'walk'; the commands are run, plan"):
        tables.tables("walk")


# How docstrings are read


def test_docstrings_are_read_section_by_section():
    text = (
        "Takes a path such as ['a']['b'].\n\nRaises:\n  TypeError: for one thing, or\n  another.\n"
        "  ValueError: for a third.\n\nAttributes:\n  a, b: both\n    of them.\n  c: it.\n\nExample:\n  >>> 1\n  1\n"
    )
    pytest.importorskip("griffe")
    read = hook("docstrings").readable(text)
    assert "`['a']['b']`" in read
    assert "Examples:\n  >>> 1" in read
    assert "  a: both\n    of them.\n  b: both\n    of them.\n  c: it." in read
    assert "for one thing, or\n    another.\n  ValueError" in read
