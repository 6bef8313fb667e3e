"""Three natural tables, from the raw file to a report per client: the page's programs, held to scikit-learn."""

import contextlib
import io
from pathlib import Path
from typing import Any

import jax
import made_tables
import markdown_pages as markdown
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

import fedjaxlite as fl

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how_to" / "raw_file_to_report.md"
pytestmark = pytest.mark.whole


def programs() -> list[tuple[str, markdown.Block]]:
    """Each program of the page, and the block of what it prints."""
    found = markdown.blocks(PAGE)
    return [(block.text, found[i + 1]) for i, block in enumerate(found) if block.language == "python"]


def ran(place: int) -> dict[str, Any]:
    """The names that a program leaves, once its output was compared with the page's."""
    text, shown = programs()[place]
    assert len(text.strip().splitlines()) <= 25
    names: dict[str, Any] = {}
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(text, f"{PAGE.name}, program {place}", "exec"), names)
    markdown.assert_shown(said.getvalue(), shown, PAGE)
    return names


def by_hand(names: dict[str, Any], params: Any, client: int) -> tuple[np.ndarray, np.ndarray]:
    """A client's outputs and targets, by the model itself."""
    data = names["test"].client(client)
    with jax.numpy_rank_promotion("allow"):
        return np.asarray(names["model"].apply(params, data["x"], train=False), np.float64), np.asarray(data["y"])


def near(got: Any, expected: float) -> None:
    assert abs(float(got) - expected) < 1e-6 * max(1.0, abs(expected)), (got, expected)


def probabilities(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def test_heart_disease(tmp_path, monkeypatch) -> None:
    made_tables.heart_disease(tmp_path / "heart")
    monkeypatch.chdir(tmp_path)
    names = ran(0)
    report = names["report"]
    assert [str(name) for name in report.names] == [f"processed.{name}" for name in sorted(made_tables.HEART_SIZES)]
    params = names["rounds"].params(names["history"].state)
    for client in range(4):
        logits, y = by_hand(names, params, client)
        ill = probabilities(logits)[:, 1]
        near(report.metrics["auroc"][client], sklearn_metrics.roc_auc_score(y, ill))
        near(report.metrics["auprc"][client], sklearn_metrics.average_precision_score(y, ill))
        near(report.metrics["balanced_accuracy"][client], sklearn_metrics.balanced_accuracy_score(y, logits.argmax(1)))
        assert report.low["auroc"][client] < report.metrics["auroc"][client] < report.high["auroc"][client]


@pytest.mark.slow
def test_parkinsons(tmp_path, monkeypatch) -> None:
    made_tables.parkinsons(tmp_path / "parkinsons_updrs.data")
    monkeypatch.chdir(tmp_path)
    names = ran(1)
    report, params = names["shared"], names["rounds"].params(names["history"].state)
    assert len(report.names) == 42
    for client in (0, 20, 41):
        outputs, y = by_hand(names, params, client)
        near(report.metrics["mean_absolute_error"][client], sklearn_metrics.mean_absolute_error(y, outputs[:, 0]))
        rmse = sklearn_metrics.root_mean_squared_error(y, outputs[:, 0])
        near(report.metrics["root_mean_squared_error"][client], rmse)
        near(report.metrics["r2"][client], sklearn_metrics.r2_score(y, outputs[:, 0]))


@pytest.mark.slow
def test_intensive_care(tmp_path, monkeypatch) -> None:
    made_tables.intensive_care(tmp_path / "patient.csv.gz")
    monkeypatch.chdir(tmp_path)
    names = ran(2)
    report, params = names["report"], names["rounds"].params(names["history"].state)
    train, test = (names[part].features["uniquepid"] for part in ("train", "test"))
    assert not set(train.tolist()) & set(test.tolist())
    for client in range(report.num_examples.size):
        logits, y = by_hand(names, params, client)
        if len(set(y.tolist())) == 1:
            assert np.isnan(report.metrics["auroc"][client])
            continue
        near(report.metrics["auroc"][client], sklearn_metrics.roc_auc_score(y, logits[:, 1] - logits[:, 0]))
        near(report.metrics["negative_log_likelihood"][client], sklearn_metrics.log_loss(y, probabilities(logits)))
        near(report.metrics["macro_f1"][client], sklearn_metrics.f1_score(y, logits.argmax(1), average="macro"))
    assert isinstance(report, fl.ClientReport)
