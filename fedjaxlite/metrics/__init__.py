"""Metrics: sums over batches and a finish, the same for a test set, for every client and for personal models.

    metric.py          what a metric is; means of one's own, weights of examples
    classification.py  the class that a model decides for       ranking.py     areas under curves, by sorting or bins
    regression.py      numbers                                  probabilities.py   likelihood and calibration
    targets.py         outputs and targets in the forms that metrics read
    running.py         several metrics over batches             sums.py        sums that lose nothing to float32
    resampling.py      the bootstrap by weights

What comes in: what can be said of outputs and targets, one family of metrics a file. Nothing here knows a client.
"""

from fedjaxlite.metrics.classification import accuracy as accuracy
from fedjaxlite.metrics.classification import balanced_accuracy as balanced_accuracy
from fedjaxlite.metrics.classification import confusion_matrix as confusion_matrix
from fedjaxlite.metrics.classification import macro_f1 as macro_f1
from fedjaxlite.metrics.classification import top_k as top_k
from fedjaxlite.metrics.metric import Metric as Metric
from fedjaxlite.metrics.metric import mean as mean
from fedjaxlite.metrics.metric import weighted as weighted
from fedjaxlite.metrics.probabilities import expected_calibration_error as expected_calibration_error
from fedjaxlite.metrics.probabilities import negative_log_likelihood as negative_log_likelihood
from fedjaxlite.metrics.probabilities import perplexity as perplexity
from fedjaxlite.metrics.probabilities import reliability as reliability
from fedjaxlite.metrics.ranking import auprc as auprc
from fedjaxlite.metrics.ranking import auroc as auroc
from fedjaxlite.metrics.ranking import roc_curve as roc_curve
from fedjaxlite.metrics.regression import mean_absolute_error as mean_absolute_error
from fedjaxlite.metrics.regression import r2 as r2
from fedjaxlite.metrics.regression import root_mean_squared_error as root_mean_squared_error
from fedjaxlite.metrics.sums import total as total

__all__ = [
    "Metric",
    "accuracy",
    "auprc",
    "auroc",
    "balanced_accuracy",
    "confusion_matrix",
    "expected_calibration_error",
    "macro_f1",
    "mean",
    "mean_absolute_error",
    "negative_log_likelihood",
    "perplexity",
    "r2",
    "reliability",
    "roc_curve",
    "root_mean_squared_error",
    "top_k",
    "total",
    "weighted",
]
