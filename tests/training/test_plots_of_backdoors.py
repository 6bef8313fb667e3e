"""The figure of a backdoor: lines at the rounds that were measured, pictures, and what it refuses."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from fedjaxlite import plots

RUNS = {
    "mean": {"success": [[0.0, 0.9, 1.0], [0.1, 0.7, 1.0]], "accuracy": np.array([[0.9, 0.8, 0.9], [0.9, 0.8, 0.7]])},
    "median": {"success": [0.0, 0.1, 0.0], "accuracy": [0.9, 0.9, 0.9]},
}


def test_both_metrics_stand_at_their_rounds():
    figure = plots.backdoor(RUNS, first=20, every=5)
    success, accuracy = figure.axes
    lines = [[line.get_xydata().tolist() for line in axis.lines] for axis in (success, accuracy)]
    assert np.allclose(lines[0], [[[20, 0.05], [25, 0.8], [30, 1.0]], [[20, 0.0], [25, 0.1], [30, 0.0]]])
    assert np.allclose(lines[1], [[[20, 0.9], [25, 0.8], [30, 0.8]], [[20, 0.9], [25, 0.9], [30, 0.9]]])
    assert [text.get_text() for text in accuracy.get_legend().get_texts()] == ["mean (2 seeds)", "median"]
    assert success.get_legend() is None


def test_pictures_stand_on_the_left():
    image = np.random.default_rng(0).uniform(size=(4, 4, 1))
    figure = plots.backdoor(RUNS, images={"clean": image, "stamped": np.ones((4, 4, 3))}, title="an attack")
    clean, stamped, success, accuracy = figure.axes
    assert (clean.images[0].get_array() == image[..., 0]).all()
    assert stamped.images[0].get_array().shape == (4, 4, 3)
    assert [axis.get_ylabel() for axis in figure.axes] == ["clean", "stamped", "success", "accuracy"]
    figure.draw_without_rendering()
    assert clean.get_window_extent().x1 < success.get_window_extent().x0 < accuracy.get_window_extent().x0


def test_it_draws_into_two_axes():
    axes = Figure().subplots(1, 2)
    figure = plots.backdoor(RUNS, axes=axes)
    assert figure is axes[0].figure
    assert [len(axis.lines) for axis in axes] == [2, 2]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"runs": {}}, ValueError, "`runs` is empty"),
        ({"runs": {"a": [1.0]}}, ValueError, r"`runs\['a'\]` is \[1.0\]; expected a dict of two arrays, 'success'"),
        ({"runs": {"a": {"success": [1.0]}}}, ValueError, r"`runs\['a'\]` is .*; expected a dict of two arrays"),
        ({"every": 0}, ValueError, "`every` is 0"),
        ({"first": -1}, ValueError, "`first` is -1"),
        ({"legend": 1}, TypeError, "`legend` is 1; expected True or False"),
        ({"images": {"a": np.ones(4)}}, ValueError, r"`images\['a'\]` has shape \[4\]; expected \[height, width\]"),
        ({"axes": [1, 2, 3]}, ValueError, "`axes` holds 3 and there are 0 pictures; expected two Axes"),
        ({"axes": [1, 2]}, TypeError, "`axes` is a int; expected one matplotlib Axes"),
    ],
)
def test_what_it_refuses(options, error, words):
    with pytest.raises(error, match=words):
        plots.backdoor(**{"runs": RUNS, **options})
