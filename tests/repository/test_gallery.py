"""The gallery: every function of `fl.plots` is on it, with a picture that is there and is small."""

import importlib.machinery
import importlib.util
import re
from pathlib import Path

import pytest

import fedjaxlite as fl

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "gallery.md"
LARGEST = 40_000
MOST = 24


@pytest.fixture(scope="module")
def gallery():
    """The program that writes the pictures."""
    loader = importlib.machinery.SourceFileLoader("gallery", str(ROOT / "scripts" / "gallery"))
    spec = importlib.util.spec_from_loader("gallery", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_every_plot_is_in_the_gallery_with_a_picture(gallery):
    found = [(block[1], block[2]) for block in gallery.BLOCK.finditer(PAGE.read_text())]
    shown = {name for code, picture in found if picture for name in re.findall(r"fl\.plots\.(\w+)\(", code)}
    missing = sorted(set(fl.plots.__all__) - shown)
    assert not missing, (
        f"docs/gallery.md shows nothing of {missing}: add a block that leaves a `figure`, an image "
        "`![...](figures/gallery/NAME.png)` below it, and run scripts/gallery."
    )


def test_pictures_are_there_and_small(gallery):
    wanted = {PAGE.parent / block[2] for block in gallery.BLOCK.finditer(PAGE.read_text()) if block[2]}
    there = set((PAGE.parent / "figures" / "gallery").glob("*"))
    assert wanted == there, (
        f"missing: {sorted(wanted - there)}; of no block: {sorted(there - wanted)}; run scripts/gallery."
    )
    assert len(there) <= MOST
    assert {path.name: path.stat().st_size for path in there if path.stat().st_size > LARGEST} == {}


@pytest.mark.whole
def test_the_page_draws_its_pictures(gallery):
    drawn = [path.name for path, figure in gallery.drawn(PAGE) if figure.axes]
    assert len(drawn) == len(set(drawn)) == len(list((PAGE.parent / "figures" / "gallery").glob("*")))


def test_a_picture_that_looks_as_before_is_kept(gallery, tmp_path):
    figures = {steps: fl.plots.curves({"FedAvg": [0.1 * i for i in range(steps)]}) for steps in (5, 50)}
    path, made = tmp_path / "curves.png", {steps: gallery.png(figure) for steps, figure in figures.items()}
    assert not gallery.looks_like(path, made[5])
    path.write_bytes(made[5])
    assert gallery.looks_like(path, made[5])
    assert not gallery.looks_like(path, made[50])
