"""Figures: what they hold, and what they refuse."""

import numpy as np
import pytest

from fedjaxlite.privacy import attacks


def test_reconstructions_are_drawn_in_rows(tmp_path) -> None:
    rows = {
        "original": np.ones((3, 4, 4, 1)),
        "colored": np.full((2, 4, 4, 3), np.nan),
        "plain": 9 * np.ones((1, 4, 4)),
    }
    path = tmp_path / "rows.png"
    figure = attacks.plot_reconstructions(
        rows, path, captions={"colored": ["20 dB"]}, headings=["DLG", "cosine"], group=2, title="all"
    )
    assert path.stat().st_size > 1000
    assert len(figure.axes) == 6
    assert [axis.get_ylabel() for axis in figure.axes] == ["original", "", "", "colored", "", "plain"]
    assert figure.axes[3].get_xlabel() == "20 dB"
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["DLG", "", "cosine", "", "", ""]


def test_curves_are_drawn(tmp_path) -> None:
    curve = attacks.roc([0.9, 0.8, 0.3, 0.1], [True, False, True, False])
    figure = attacks.plot_roc({"loss": curve}, tmp_path / "roc.pdf", title="membership")
    assert (tmp_path / "roc.pdf").stat().st_size > 1000
    assert [line.get_label() for line in figure.axes[0].lines] == ["guessing (AUC 0.50)", "loss (AUC 0.75)"]


def test_errors() -> None:
    with pytest.raises(ValueError, match="`rows` is empty"):
        attacks.plot_reconstructions({})
    with pytest.raises(ValueError, match=r"`rows\['a'\]` has shape \[4, 4\]; expected \[n, height, width\]"):
        attacks.plot_reconstructions({"a": np.ones((4, 4))})
    with pytest.raises(ValueError, match="`curves` is empty"):
        attacks.plot_roc({})
