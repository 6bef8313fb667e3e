"""Pictures of what a classifier takes for what, and how sure it is: what they show, and what they refuse."""

import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite import plots

RNG = np.random.default_rng(0)
MATRICES = np.float32([[[3, 1], [0, 2]], [[5, 0], [4, 1]], [[np.nan] * 2] * 2])
TABLES = np.float32([[[4, 0.4, 0.5], [0, np.nan, np.nan]], [[2, 0.1, 0.5], [2, 0.8, 1.0]], [[0, np.nan, np.nan]] * 2])
REPORT = fl.ClientReport(np.array([6, 10, 0]), {}, arrays={"confusion_matrix": MATRICES, "reliability": TABLES})


def shades(axis):
    return np.asarray(axis.images[0].get_array()).tolist()


def cells(axis):
    return [text.get_text() for text in axis.texts]


def test_a_matrix_is_shaded_by_label_and_counts_are_told():
    axis = plots.confusion([[3, 1], [0, 2]], classes=["ill", "well"], title="hospital").axes[0]
    assert shades(axis) == [[0.75, 0.25], [0, 1]]
    assert cells(axis) == ["3", "1", "0", "2"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["ill", "well"]
    assert axis.get_title() == "hospital"
    many = plots.confusion(np.eye(30)).axes[0]
    assert cells(many) == []


def test_reports_are_pooled_or_shown_client_by_client():
    assert cells(plots.confusion(REPORT).axes[0]) == ["8", "1", "4", "3"]
    figure = plots.confusion({"shared": REPORT}, clients=[0, 1])
    assert [axis.get_title() for axis in figure.axes] == ["shared client 0", "shared client 1"]
    assert [cells(axis)[0] for axis in figure.axes] == ["3", "5"]
    lines = plots.reliability(REPORT).axes[0].lines
    np.testing.assert_allclose(lines[1].get_xydata(), [[0.3, 0.5], [0.8, 1.0]], rtol=1e-6)
    own = plots.reliability(REPORT, clients=[1]).axes[0].lines[1]
    np.testing.assert_allclose(own.get_xydata(), [[0.1, 0.5], [0.8, 1.0]], rtol=1e-6)
    assert own.get_label() == "client 1 (ECE 0.3)"


def test_outputs_and_labels_are_put_into_bins():
    logits = 2 * RNG.normal(size=(500, 3)).astype(np.float32)
    labels = RNG.integers(0, 3, 500)
    drawn = plots.reliability({"a": (logits, labels)}).axes[0].lines[1]
    metric = fl.metrics.expected_calibration_error()
    want = float(metric.finish(metric.batch(logits, labels, np.ones(500, np.float32))))
    assert drawn.get_label() == f"a (ECE {want:.2g})"


def test_a_curve_of_a_classifier_has_linear_axes():
    curve = fl.metrics.roc_curve([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
    axis = plots.roc({"a": curve}, scale="linear").axes[0]
    assert (axis.get_xscale(), axis.get_xlim()) == ("linear", (0, 1))
    assert axis.lines[1].get_label() == "a (AUC 0.75)"
    with pytest.raises(ValueError, match="`scale` is 'symlog'; expected one of 'log', 'linear'"):
        plots.roc({"a": curve}, scale="symlog")


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: plots.confusion([[1, 2]]), ValueError, r"`matrices` has shape \[1, 2\]; expected \[C, C\]"),
        (lambda: plots.confusion({"a": [[1, -2], [0, 0]]}), ValueError, r"`matrices\['a'\]` has NaN or numbers below 0"),
        (lambda: plots.confusion("a"), TypeError, r"`matrices` is a str; expected \[C, C\], or a ClientReport"),
        (lambda: plots.confusion(np.eye(2), classes=["a"]), ValueError, "`classes` has 1 names for 2 classes"),
        (lambda: plots.confusion(np.eye(2), clients=[0]), TypeError, "`clients` are given, and `matrices` is a ndarray"),
        (lambda: plots.confusion(REPORT, clients=[3]), ValueError, "`clients` has 3; expected indices from 0 to 2"),
        (lambda: plots.confusion({str(i): np.eye(2) for i in range(17)}), ValueError, "17 matrices to draw; expected at m"),
        (lambda: plots.confusion(REPORT._replace(arrays={})), ValueError, r"no 'confusion_matrix' among its arrays; make i"),
        (lambda: plots.reliability(np.ones((3, 2))), ValueError, r"has shape \[3, 2\]; expected \[bins, 3\]"),
        (lambda: plots.reliability({"a": np.zeros((3, 3))}), ValueError, r"`tables\['a'\]` has no examples in any bin"),
        (lambda: plots.reliability("a"), TypeError, "`tables` is a str; expected"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_a_heat_map_shows_every_number_and_leaves_out_what_is_none():
    values = [[90.0, 11.04], [np.nan, 80.0]]
    axis = plots.heat_map(values, ["mean", "median"], ["1", "3"], xlabel="bad", ylabel="rule", title="iid").axes[0]
    assert cells(axis) == ["90.0", "11.0", "80.0"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["mean", "median"]
    assert axis.images[0].get_clim() == (11.04, 90.0)
    # The numbers can be read on their shades.
    assert [text.get_color() for text in axis.texts] == ["black", "white", "black"]
    seeds = plots.heat_map([[[0.0]], [[1.0]]], ["a"], ["b"], limits=(0, 2), digits=2).axes[0]
    assert cells(seeds) == ["0.50"]
    assert seeds.images[0].get_clim() == (0, 2)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: plots.heat_map([[1.0]], ["a", "b"], ["c"]), ValueError, r"shape \[1, 1\], and there are 2 rows and 1"),
        (lambda: plots.heat_map([["x"]], ["a"], ["c"]), TypeError, "`values` is "),
        (lambda: plots.heat_map([[1.0]], "a", ["c"]), TypeError, "`rows` is 'a'; expected a list of labels"),
        (lambda: plots.heat_map([[1.0]], ["a"], []), TypeError, r"`columns` is \[\]; expected a list of labels"),
        (lambda: plots.heat_map([[1.0]], ["a"], ["c"], limits=(1, 0)), ValueError, "`limits` is .*the least first"),
    ],
)
def test_a_heat_map_refuses_what_does_not_fit(call, error, text):
    with pytest.raises(error, match=text):
        call()
