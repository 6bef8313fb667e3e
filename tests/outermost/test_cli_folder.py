"""`--dataset FOLDER`: two populations on a disk, trained and evaluated as they lie."""

import numpy as np
import pytest
from test_cli import call, refused

import fedjaxlite as fl


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        clients = ({"x": rng.normal(size=(4, 3)), "y": rng.integers(0, 2, 4)} for _ in range(6))
        fl.Population.write(tmp_path / "people" / part, clients)
    return tmp_path / "people"


@pytest.mark.whole
def test_a_run_on_a_folder(folder, tmp_path):
    options = ["--model", "logistic", "--rounds", 2, "--cohort", 3, "--devices", 1, "--no-progress"]
    told = call("run", "--dataset", folder, *options, "--out", tmp_path / "run")
    assert "test accuracy" in told


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--partition", "iid"], "lies on a disk with clients of its own; leave it out"),
        (["--clients", 3], "has clients of its own; leave it out"),
        (["--warm-start", 0.5], "lies on a disk, and would copy all others into memory"),
    ],
)
def test_what_would_copy_a_folder_is_refused(folder, options, text):
    assert text in refused("run", "--dataset", folder, "--rounds", 1, "--no-progress", *options)


def test_one_folder_without_a_test_set_is_refused(folder):
    told = refused("run", "--dataset", folder / "train", "--rounds", 1, "--no-progress")
    assert "is one population on a disk, and a run needs a test set" in told
