"""What is installed: the package alone, with the linked folders inside it and nothing of theirs at the top."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import fedjaxlite

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = ("algorithms", "benchmarks", "privacy")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
BUILD_FILES = ("pyproject.toml", "README.md", "LICENSE", "fedjaxlite", *PLUGINS)


def setuptools_is_new_enough() -> bool:
    try:
        import setuptools
    except ModuleNotFoundError:
        return False
    return int(setuptools.__version__.split(".")[0]) >= 77


def copy_sources(folder: Path) -> None:
    """Copies what a build reads, links as links and caches left out, so that a build leaves nothing in the tree."""
    import shutil

    ignore = shutil.ignore_patterns("__pycache__")
    for name in BUILD_FILES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy(source, folder / name)


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The files of a wheel that is built as an installer builds one from the source distribution; no network."""
    pytest.importorskip("build", reason="the package `build` is not installed; it is in the extra dev.")
    if not setuptools_is_new_enough():
        pytest.skip("building without a network takes setuptools 77 in this environment; it is in the extra dev.")
    folder = tmp_path_factory.mktemp("sources")
    copy_sources(folder)
    out = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(folder)],
        cwd=out,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = out.glob("*.whl")
    assert wheel.name.startswith(f"fedjaxlite-{PROJECT['project']['version']}-py3-none-any")
    return zipfile.ZipFile(wheel).namelist()


@pytest.mark.parametrize("plugin", PLUGINS)
def test_the_plugins_are_linked_into_the_package(plugin: str) -> None:
    link = ROOT / "fedjaxlite" / plugin
    assert link.is_symlink()
    assert link.readlink() == Path("..") / plugin
    assert (link / "__init__.py").is_file()


def test_setuptools_finds_the_linked_packages_and_nothing_at_the_top() -> None:
    setuptools = pytest.importorskip("setuptools")
    find = PROJECT["tool"]["setuptools"]["packages"]["find"]
    found = setuptools.find_packages(str(ROOT), include=find["include"])
    assert {"fedjaxlite", *(f"fedjaxlite.{plugin}" for plugin in PLUGINS)} <= set(found)
    assert {name.split(".")[0] for name in found} == {"fedjaxlite"}


def test_every_folder_with_code_is_a_package() -> None:
    folders = {path.parent for name in ("fedjaxlite", *PLUGINS) for path in (ROOT / name).rglob("*.py")}
    assert [str(folder.relative_to(ROOT)) for folder in folders if not (folder / "__init__.py").is_file()] == []


@pytest.mark.whole
def test_the_wheel_installs_the_package_alone(wheel_names: list[str]) -> None:
    version = PROJECT["project"]["version"]
    assert {name.split("/")[0] for name in wheel_names} == {"fedjaxlite", f"fedjaxlite-{version}.dist-info"}


@pytest.mark.whole
def test_the_wheel_holds_every_module(wheel_names: list[str]) -> None:
    linked = [path.relative_to(ROOT) for name in PLUGINS for path in (ROOT / name).rglob("*.py")]
    own = [path.relative_to(ROOT) for path in (ROOT / "fedjaxlite").rglob("*.py")]
    wanted = {f"fedjaxlite/{path.as_posix()}" for path in linked} | {path.as_posix() for path in own}
    assert wanted - set(wheel_names) == set()


def test_the_wheel_says_that_it_is_typed_and_under_which_license(wheel_names: list[str]) -> None:
    assert "fedjaxlite/py.typed" in wheel_names
    assert any(re.fullmatch(r"fedjaxlite-[^/]*\.dist-info/licenses/LICENSE", name) for name in wheel_names)


def test_the_version_is_the_same_everywhere() -> None:
    version = PROJECT["project"]["version"]
    assert fedjaxlite.__version__ == version
    assert f"\n## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_bare_folder_names_are_no_installed_packages() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-c",
            "import importlib.util as u; print([u.find_spec(n) for n in ('algorithms', 'privacy')])",
        ],
        cwd=ROOT / "tests",
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == "[None, None]"


def test_the_command_is_declared() -> None:
    assert PROJECT["project"]["scripts"] == {"fedjaxlite": "fedjaxlite.cli:main"}
