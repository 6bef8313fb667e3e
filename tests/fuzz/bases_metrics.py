"""Valid calls of metrics, evaluations of them, baselines and losses for tables, each of which mutations start from."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bases_engine import BATCH, KEY, LINEAR, ONE, ONE_LOGIT, PARAMS, PEOPLE, SGD, loss, use_loss
from calls import Base

import fedjaxlite as fl
from fedjaxlite import baselines, losses, metrics

NUMBER = fl.models.from_functions(lambda key: jnp.zeros(3), lambda params, x: x @ params, name="number")


def use_metric(metric: metrics.Metric) -> None:
    """Traces a metric on a batch of classes or of numbers, and its finish."""
    numbers = metric.name in ("r2", "mean_absolute_error", "root_mean_squared_error", "own")

    def run() -> Any:
        outputs = jnp.zeros((2,)) if numbers else jnp.zeros((2, 3))
        y: Any = jnp.zeros(2) if numbers else jnp.int32([0, 1])
        y = {"y": y, "count": jnp.ones(2)} if metric.targets is None else y
        kept = metric.batch(outputs, y, jnp.ones(2))
        return metric.finish(kept, jnp.ones(2)) if metric.keep == "rows" else metric.finish(kept)

    jax.eval_shape(run)


def simple(name: str, **arguments: Any) -> dict[str, Base]:
    return {f"metrics.{name}": Base(getattr(metrics, name), arguments, use=use_metric)}


METRICS: dict[str, Base] = {
    **simple("accuracy"),
    **simple("top_k", k=2),
    **simple("balanced_accuracy"),
    **simple("macro_f1"),
    **simple("confusion_matrix"),
    **simple("auroc"),
    **simple("auprc"),
    **simple("mean_absolute_error"),
    **simple("root_mean_squared_error"),
    **simple("r2"),
    **simple("negative_log_likelihood"),
    **simple("perplexity"),
    **simple("expected_calibration_error"),
    **simple("reliability"),
    "metrics.mean": Base(
        metrics.mean,
        {"name": "own", "fn": lambda outputs, y: abs(outputs - y), "better": "lower"},
        words={"fn": ("the metric",)},
    ),
    "metrics.weighted": Base(
        metrics.weighted,
        {"metric": metrics.mean_absolute_error(), "by": "count"},
        use=use_metric,
        words={"by": ("the feature",)},
    ),
    "metrics.roc_curve": Base(
        metrics.roc_curve,
        {"outputs": np.float32([0.1, 0.4, 0.8]), "labels": [0, 1, 1]},
        words={"outputs": ("labels",), "labels": ("outputs",)},
    ),
    "predict": Base(
        fl.predict,
        {"model": NUMBER, "data": BATCH},
        use=lambda f: f(jnp.zeros(3)),
        costly=True,
        words={"data": ("population", "feature"), "rounds": ("data",)},
    ),
    "baselines.central": Base(
        baselines.central,
        {"model_or_loss": loss, "params": PARAMS, "train": PEOPLE, "test": PEOPLE, "client_optimizer": SGD}
        | {"steps": 1, "key": KEY, "execution": ONE},
        costly=True,
        words={"model_or_loss": ("the loss function", "`loss`", "model"), "params": ("parameters",)},
    ),
    "baselines.local_only": Base(
        baselines.local_only,
        {"model_or_loss": loss, "params": PARAMS, "train": PEOPLE, "test": PEOPLE, "client_optimizer": SGD}
        | {"steps": 1, "key": KEY, "execution": ONE},
        costly=True,
        words={"model_or_loss": ("the loss function", "`loss`", "model"), "params": ("parameters",)},
    ),
    "baselines.leave_one_client_out": Base(
        baselines.leave_one_client_out,
        {"model_or_loss": loss, "params": PARAMS, "train": PEOPLE, "test": PEOPLE, "client_optimizer": SGD}
        | {"steps": 1, "key": KEY, "execution": ONE},
        costly=True,
        words={"model_or_loss": ("the loss function", "`loss`", "model"), "params": ("parameters",)},
    ),
    "losses.focal": Base(losses.focal, {"model": LINEAR}, use=use_loss),
    "losses.ordinal": Base(losses.ordinal, {"model": LINEAR}, use=use_loss),
    "losses.huber": Base(losses.huber, {"model": NUMBER}, use=use_loss, words={"missing": ("the feature",)}),
    "losses.quantile": Base(
        losses.quantile, {"model": ONE_LOGIT, "quantiles": [0.5]}, use=use_loss, words={"missing": ("the feature",)}
    ),
}
