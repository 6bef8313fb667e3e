"""Which module may import which: read from the sources, and seen in fresh interpreters."""

import ast
import functools
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import fedjaxlite

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "fedjaxlite"
PLUGINS = ("algorithms", "privacy")
# A room that knows nothing of the library: it is copied to devices, and secure sums with it, so these import it.
ON_DEVICES = "transport"
# The outermost layer, which may import everything. `fedjaxlite/__init__.py` hands the plugins out and is judged by what
# it loads, further down.
OUTERMOST = ("cli", "reproduce", "testing", "benchmarks", "preprocessing", "deploy", "__main__")
# The rooms of fedjaxlite/, a floor a line; each imports only what stands on floors below its own. The files that lie
# in fedjaxlite/ itself are the ground. CONTRIBUTING.md draws the same picture, which is held to this one below.
FLOORS = (
    ("ground",),
    ("models", "protocol", "sampling", "lowering", "metrics", "distributed", "transport"),
    ("data", "losses", "wire", "systems"),
    ("execution", "local", "partition", "plots", "attacks"),
    ("datasets", "evaluation", "observers", "interop", "streaming"),
    ("training", "rehearsal", "sweeps", "baselines"),
    ("algorithms", "privacy"),
    ("deploy",),
    ("preprocessing", "reproduce", "testing", "benchmarks"),
    ("cli",),
)
MOST_FILES = 12
HEAVY = ("flax", "tensorflow", "tensorflow_datasets", "matplotlib", "sklearn", "orbax", "rich", "typer")
EXTRAS = ("dp_accounting", "cryptography", "tensorboardX", "mlflow", "wandb", "trackio")
FRAMES = ("pandas", "polars", "pyarrow", "datasets", "torch", "flwr_datasets", "fedjax")


class Import(NamedTuple):
    """One imported thing: `module` is absolute, `name` is what is taken from it or empty for `import module`."""

    module: str
    name: str
    line: int


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below `node`, leaving out what only a type checker sees."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            continue
        yield child
        yield from _children(child)


def imports_of(source: str, module: str, is_package: bool = False) -> list[Import]:
    """Every import of a source, those inside functions too; relative ones made absolute."""
    found = []
    for node in _children(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, "", node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = module.split(".") if is_package else module.split(".")[:-1]
                here = here[: len(here) - node.level + 1]
                base = ".".join([*here, *filter(None, [node.module])])
            found += [Import(base, alias.name, node.lineno) for alias in node.names]
    return found


@functools.cache
def sources(root: Path = ROOT) -> dict[str, tuple[Path, list[Import]]]:
    """{absolute module name: (path, imports)} of everything under fedjaxlite/, through the links too; read once."""
    folder = root / PACKAGE
    paths = [*folder.glob("*.py")]
    for child in folder.iterdir():
        if child.is_dir():
            paths += child.rglob("*.py")
    table = {}
    for path in sorted(set(paths)):
        name = module_name(path, root)
        table[name] = (path, imports_of(path.read_text(encoding="utf-8"), name, path.name == "__init__.py"))
    return table


def layer(module: str) -> str:
    """'facade', 'algorithms', 'privacy', 'outermost' or 'engine'."""
    parts = module.split(".")
    if len(parts) == 1:
        return "facade"
    if parts[1] in PLUGINS:
        return parts[1]
    return "outermost" if parts[1] in OUTERMOST else "engine"


def target(imported: Import, modules: set[str]) -> str:
    """The module that an import runs: `from a import b` is a.b where that is a module, else a."""
    full = f"{imported.module}.{imported.name}"
    return full if full in modules else imported.module


def bare_plugin_imports(table: dict[str, tuple[Path, list[Import]]]) -> list[str]:
    return [
        f"{module}:{i.line} imports {i.module}"
        for module, (_, found) in table.items()
        for i in found
        if i.module.split(".")[0] in PLUGINS
    ]


def engine_violations(table: dict[str, tuple[Path, list[Import]]]) -> list[str]:
    """Imports of a plugin or of the outermost layer by the engine."""
    wrong = []
    for module, (_, found) in table.items():
        if layer(module) != "engine":
            continue
        for i in found:
            name = f"{i.module}.{i.name}" if i.module == PACKAGE else i.module
            if name.startswith(PACKAGE + ".") and layer(name) in (*PLUGINS, "outermost"):
                wrong.append(f"{module}:{i.line} imports {name}")
    return wrong


def plugin_import_violations(table: dict[str, tuple[Path, list[Import]]], public: set[str]) -> list[str]:
    """What algorithms/ and privacy/ import of fedjaxlite beside its public names and their own package."""
    wrong = []
    for module, (_, found) in table.items():
        if layer(module) not in PLUGINS:
            continue
        own = f"{PACKAGE}.{layer(module)}"
        for i in found:
            if i.module.split(".")[0] != PACKAGE or i.module == own or i.module.startswith(own + "."):
                continue
            if f"{i.module}.".startswith(f"{PACKAGE}.{ON_DEVICES}."):
                continue
            if i.module == PACKAGE and (i.name == "" or i.name in public - set(PLUGINS) or i.name == layer(module)):
                continue
            wrong.append(f"{module}:{i.line} imports {i.name or 'all'} of {i.module}")
    return wrong


def plugin_attribute_violations(source: str, module: str, public: set[str]) -> list[str]:
    """Uses `fl.name` of a name that is not public, is private further down, or belongs to a plugin."""
    tree = ast.parse(source)
    aliases = {
        alias.asname or PACKAGE
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name == PACKAGE
    }
    wrong = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        chain = ast.unparse(node).split(".")
        if chain[0] not in aliases:
            continue
        if chain[1] not in public or chain[1] in PLUGINS or any(part.startswith("_") for part in chain[1:]):
            wrong.append(f"{module}:{node.lineno} uses {'.'.join(chain)}")
    return wrong


def cycle(edges: dict[str, set[str]]) -> list[str]:
    """One cycle of the graph as a list of names that starts and ends alike, or an empty list."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for following in sorted(edges.get(node, ())):
            found = visit(following, [*path, node])
            if found:
                return found
        done.add(node)
        return []

    for start in sorted(edges):
        found = visit(start, [])
        if found:
            return found
    return []


def import_graph(table: dict[str, tuple[Path, list[Import]]]) -> dict[str, set[str]]:
    modules = set(table)
    return {
        module: {target(i, modules) for i in found if i.module.split(".")[0] == PACKAGE} & modules
        for module, (_, found) in table.items()
    }


def room(module: str) -> str:
    """The room of a module: the first folder below fedjaxlite/, "ground" for its files, or "" for what stands outside."""
    parts = module.split(".")
    if len(parts) == 1 or parts[1] == "__main__":
        return ""
    return parts[1] if (ROOT / PACKAGE / parts[1]).is_dir() else "ground"


def upward_imports(graph: dict[str, set[str]], floors: tuple[tuple[str, ...], ...]) -> list[str]:
    """Imports of a room by one that does not stand on a higher floor."""
    floor = {name: i for i, names in enumerate(floors) for name in names}
    return [
        f"{module} imports {imported}"
        for module, found in graph.items()
        for imported in sorted(found)
        if room(module)
        and room(imported)
        and room(module) != room(imported)
        and floor[room(imported)] >= floor[room(module)]
    ]


STEPS = ("import jax, numpy, optax, chex", f"import {PACKAGE}", f"from {PACKAGE} import {', '.join(PLUGINS)}")


@functools.cache
def loaded() -> list[set[str]]:
    """The modules that a fresh interpreter holds after each of STEPS, one after the other."""
    tell = "print(json.dumps(sorted(sys.modules)))"
    program = "\n".join(["import json, sys", *(f"{step}\n{tell}" for step in STEPS)])
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return [set(json.loads(line)) for line in done.stdout.splitlines()[-len(STEPS) :]]


def tops(modules: set[str]) -> set[str]:
    return {module.split(".")[0] for module in modules}


def test_the_sources_are_found() -> None:
    table = sources()
    assert f"{PACKAGE}.data.population" in table
    assert {f"{PACKAGE}.{plugin}" for plugin in PLUGINS} <= set(table)


def test_nothing_imports_a_second_copy_of_a_plugin() -> None:
    assert bare_plugin_imports(sources()) == []


def test_the_engine_knows_no_algorithm_and_no_mechanism() -> None:
    assert engine_violations(sources()) == []


def test_plugins_import_public_names_only_and_never_each_other() -> None:
    assert plugin_import_violations(sources(), set(fedjaxlite.__all__)) == []


def test_plugins_use_public_names_only() -> None:
    public = set(fedjaxlite.__all__)
    wrong = []
    for module, (path, _) in sources().items():
        if layer(module) in PLUGINS:
            wrong += plugin_attribute_violations(path.read_text(encoding="utf-8"), module, public)
    assert wrong == []


def test_there_is_no_import_cycle() -> None:
    assert cycle(import_graph(sources())) == []


def test_rooms_import_only_from_floors_below() -> None:
    assert upward_imports(import_graph(sources()), FLOORS) == []


def test_the_floors_name_every_room_once() -> None:
    named = [name for names in FLOORS for name in names]
    assert sorted(named) == sorted({room(module) for module in sources()} - {""})
    assert len(FLOORS) <= 10


def test_an_import_upward_or_across_is_found() -> None:
    floors = (("ground",), ("data", "wire"), ("training",))
    graph = {
        "fedjaxlite.data.a": {"fedjaxlite.training.b"},
        "fedjaxlite.wire.c": {"fedjaxlite.data.a", "fedjaxlite.checks"},
        "fedjaxlite.training.b": {"fedjaxlite.wire.c"},
    }
    assert upward_imports(graph, floors) == [
        "fedjaxlite.data.a imports fedjaxlite.training.b",
        "fedjaxlite.wire.c imports fedjaxlite.data.a",
    ]


def test_no_room_is_crowded() -> None:
    folders = {path.parent for path, _ in sources().values()}
    files = {folder: [f for f in folder.glob("*.py") if f.name != "__init__.py"] for folder in folders}
    assert {str(f): len(found) for f, found in files.items() if len(found) > MOST_FILES} == {}


def twins(files: Iterable[Path]) -> dict[str, list[str]]:
    """Names of modules that several files bear, or one of the standard library and a file."""
    found: dict[str, list[str]] = {}
    for file in files:
        found.setdefault(file.stem, []).append(str(file))
    taken = sys.stdlib_module_names
    return {name: sorted(where) for name, where in found.items() if len(where) > 1 or name in taken}


def test_modules_of_tests_have_names_of_their_own() -> None:
    files = [
        f.relative_to(ROOT) for f in (ROOT / "tests").rglob("*.py") if f.name not in ("conftest.py", "__init__.py")
    ]
    assert twins(files) == {}, "Pytest puts every folder of tests on one path: of two files of a name one is not found."


def test_twins_among_the_tests_are_found() -> None:
    files = [Path("a/small.py"), Path("b/small.py"), Path("a/types.py"), Path("a/other.py")]
    assert twins(files) == {"small": ["a/small.py", "b/small.py"], "types": ["a/types.py"]}


def test_every_room_says_what_it_is_for() -> None:
    inits = [path for path, _ in sources().values() if path.name == "__init__.py"]
    bare = [str(path) for path in inits if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))]
    assert bare == []


def test_the_picture_in_contributing_is_of_these_floors() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    picture = re.search(r"```text\n(.*?cli.*?)```", text, flags=re.DOTALL)
    assert picture is not None, "CONTRIBUTING.md draws no picture of the rooms."
    drawn = [set(names.split()) for names in re.findall(r"^\D*\d+  (.+)$", picture[1], flags=re.MULTILINE)]
    assert list(reversed(drawn)) == [set(names) for names in FLOORS]


def test_every_public_name_exists() -> None:
    assert len(set(fedjaxlite.__all__)) == len(fedjaxlite.__all__)
    assert [name for name in fedjaxlite.__all__ if not hasattr(fedjaxlite, name)] == []


def test_importing_the_library_loads_nothing_heavy() -> None:
    _, library, _ = loaded()
    assert tops(library) & {*HEAVY, *EXTRAS, *FRAMES} == set()
    assert {f"{PACKAGE}.{plugin}" for plugin in PLUGINS} & library == set()


def test_importing_the_library_costs_jax_and_optax_and_its_own_files() -> None:
    before, library, _ = loaded()
    added = tops(library - before)
    assert added - set(sys.stdlib_module_names) - {PACKAGE, "jax"} == set()  # jax: parts that it loads lazily


def test_the_plugins_load_no_heavy_module_and_no_extra() -> None:
    _, _, plugins = loaded()
    assert {f"{PACKAGE}.{plugin}" for plugin in PLUGINS} <= plugins
    assert tops(plugins) & {*HEAVY, *EXTRAS, *FRAMES} == set()
    assert tops(plugins) & set(PLUGINS) == set()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from fedjaxlite import privacy", "fedjaxlite.privacy"),
        ("def f():\n    import fedjaxlite.algorithms.fed_avg", "fedjaxlite.algorithms.fed_avg"),
        ("from . import algorithms", "fedjaxlite.algorithms"),
        ("from .cli import main", "fedjaxlite.cli"),
    ],
)
def test_a_wrong_engine_import_is_found(source: str, expected: str) -> None:
    table = {"fedjaxlite.x": (Path("x.py"), imports_of(source, "fedjaxlite.x"))}
    assert len(engine_violations(table)) == 1
    assert expected in engine_violations(table)[0]


@pytest.mark.parametrize(
    "source",
    [
        "from fedjaxlite import hidden",
        "from fedjaxlite.wire.chain import chain",
        "import fedjaxlite.wire.aggregator",
        "from fedjaxlite import privacy",
        "from fedjaxlite.privacy import gaussian",
        "from ..wire.chain import chain",
    ],
)
def test_a_wrong_plugin_import_is_found(source: str) -> None:
    module = "fedjaxlite.algorithms.x"
    table = {module: (Path("x.py"), imports_of(source, module))}
    assert len(plugin_import_violations(table, {"chain", "privacy", "algorithms"})) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import fedjaxlite as fl",
        "from fedjaxlite import chain",
        "from .y import f",
        "from fedjaxlite.transport import frames",
        "from fedjaxlite.transport.frames import Timeouts",
        "from fedjaxlite.algorithms.y import f",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from fedjaxlite.privacy import gaussian",
    ],
)
def test_a_right_plugin_import_passes(source: str) -> None:
    module = "fedjaxlite.algorithms.x"
    table = {module: (Path("x.py"), imports_of(source, module))}
    assert plugin_import_violations(table, {"chain"}) == []


@pytest.mark.parametrize("use", ["fl.hidden", "fl.sampling._draw", "fl.privacy.gaussian"])
def test_a_private_use_is_found(use: str) -> None:
    source = f"import fedjaxlite as fl\nx = {use}"
    assert plugin_attribute_violations(source, "fedjaxlite.algorithms.x", {"sampling", "privacy"})
    assert not plugin_attribute_violations(
        "import fedjaxlite as fl\nx = fl.sampling.uniform(3)", "fedjaxlite.algorithms.x", {"sampling"}
    )


def test_a_cycle_is_found() -> None:
    found = {
        "fedjaxlite.a": (Path("a.py"), imports_of("from fedjaxlite import b", "fedjaxlite.a")),
        "fedjaxlite.b": (Path("b.py"), imports_of("def f():\n    from .a import g", "fedjaxlite.b")),
    }
    assert cycle(import_graph(found)) == ["fedjaxlite.a", "fedjaxlite.b", "fedjaxlite.a"]
    assert cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
