"""What a metric is: something per batch that adds up, and what is made of the sum."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.directions import Direction, directions, one
from fedjaxlite.metrics.sums import total

PyTree = Any


class Metric(NamedTuple):
    """A metric: what a batch adds to it, and how the sum becomes a number.

    The same Metric measures a test set (`fl.evaluate`), every client (`fl.evaluate_clients`) and personal models, in
    batches of any size, under `jit` and `vmap`, and with the weights of a bootstrap.

    Attributes:
      name: of the result; `metric._replace(name="...")` is the same metric by another name.
      batch: `batch(outputs, targets, weight) -> tree`. `outputs` are the model's, `[B, ...]`; `targets` is the feature
        `y` of the batch (see the attribute `targets`); `weight` is float32 `[B]`, 0 in rows that are padding and may
        hold anything, NaN included: `fl.metrics.total(values, weight)` is the sum that minds it. With keep="sums" the
        tree holds sums over the batch, and zeros where all weights are 0; with keep="rows" an array `[B, ...]` a leaf.
      finish: with keep="sums", `finish(tree)` of the sum over all batches; with keep="rows", `finish(tree, weight)` of
        all rows `[n, ...]` and their weights `[n]`. Gives a scalar; a dict of scalars, which are then called
        "name_key"; or an array. What is undefined (a client without examples) is NaN.
      better: "lower" or "higher"; a dict of them by key where `finish` gives a dict; None where neither can be said,
        such as of a matrix.
      keep: "sums" in constant memory; "rows" for what is exact only once all rows are there, as ranks are.
      merge: `merge(tree, tree) -> tree` where sums do not simply add; a tree of zeros changes nothing. None adds, with
        what rounding loses kept aside.
      targets: the feature that `batch` gets; None gives it the batch as a dict.

    Example:
      A metric of one's own, the share of patients for whom a dose is within 10 % of the right one:

      >>> import numpy as np, fedjaxlite as fl
      >>> within = fl.metrics.Metric(
      ...     name="within_10_percent",
      ...     batch=lambda outputs, y, weight: (total(abs(outputs - y) < 0.1 * y, weight), weight.sum()),
      ...     finish=lambda sums: sums[0] / sums[1],
      ...     better="higher",
      ... )
      >>> model = fl.models.from_functions(lambda key: jnp.float32(1), lambda scale, x: scale * x)
      >>> data = {"x": np.float32([10, 20, 30]), "y": np.float32([10.5, 30, 31])}
      >>> found = fl.evaluate(fl.losses.squared_error(model), data, metrics=[within])(jnp.float32(1))
      >>> round(float(found["within_10_percent"]), 3)
      0.667
    """

    name: str
    batch: Callable[[Any, Any, jax.Array], PyTree]
    finish: Callable[..., Any]
    better: Direction | Mapping[str, Direction] | None
    keep: Literal["sums", "rows"] = "sums"
    merge: Callable[[PyTree, PyTree], PyTree] | None = None
    targets: str | None = "y"


def mean(name: str, fn: Callable[[Any, Any], jax.Array], *, better: Direction) -> Metric:
    """The mean over examples of a number of one's own.

    Args:
      name: of the metric.
      fn: `fn(outputs, y) -> [B]`, of whatever real dtype; bools count as 0 and 1.
      better: "lower" or "higher".

    Returns:
      a Metric: the mean under the weights of the examples, NaN without any.

    Raises:
      TypeError, ValueError: for a name or a direction that is none; when measured, for what is not `[B]`.

    Example:
      >>> import numpy as np, fedjaxlite as fl
      >>> far = fl.metrics.mean("far_off", lambda outputs, y: abs(outputs - y) > 5, better="lower")
      >>> far.finish(far.batch(np.float32([1, 2]), np.float32([1, 9]), np.float32([1, 1])))
      Array(0.5, dtype=float32)
    """
    name = checks.text(name=name)
    checks.is_function_of("outputs", "y", fn=fn)
    one("better", better)

    def batch(outputs: Any, y: Any, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
        values = jnp.asarray(fn(outputs, y))
        if values.shape != weight.shape:
            raise ValueError(
                f"the metric {name!r} gave values of shape {list(values.shape)} for a batch of {weight.shape[0]}; "
                "expected one number an example, [B]. Take the mean over the other axes."
            )
        return total(values, weight), total(jnp.ones_like(weight), weight)

    return Metric(name, batch, ratio, better)


def ratio(sums: tuple[jax.Array, jax.Array]) -> jax.Array:
    """The first sum over the second; NaN over 0."""
    return sums[0] / sums[1]


def weighted(metric: Metric, *, by: str) -> Metric:
    """A metric whose examples count by a feature of the data, such as a survey's weights, or whether a target is there.

    Args:
      metric: any Metric.
      by: the name of a feature `[n]` of numbers of at least 0, or of bools. Where it is 0, targets may be NaN.

    Returns:
      a Metric of the same name.

    Raises:
      TypeError: for what is no Metric or no name; ValueError when measured, where the data have no such feature.

    Example:
      >>> import numpy as np, fedjaxlite as fl
      >>> error = weighted(fl.metrics.mean_absolute_error(), by="count")
      >>> batch = {"y": np.float32([1, 2]), "count": np.float32([3, 1])}
      >>> float(error.finish(error.batch(np.float32([1, 4]), batch, np.float32([1, 1]))))
      0.5
    """
    checks.one_instance(Metric, "a Metric, such as fl.metrics.accuracy()", metric=metric)
    by = checks.text(by=by)

    def own(batch: Mapping[str, Any]) -> jax.Array:
        return jnp.asarray(feature(batch, by, metric.name), jnp.float32)

    def targets(batch: Mapping[str, Any]) -> Any:
        return batch if metric.targets is None else feature(batch, metric.targets, metric.name)

    def sums(outputs: Any, batch: Mapping[str, Any], weight: jax.Array) -> PyTree:
        # A product alone would carry the NaN of a padded row along.
        return metric.batch(outputs, targets(batch), jnp.where(weight == 0, 0.0, own(batch)) * weight)

    def rows(outputs: Any, batch: Mapping[str, Any], weight: jax.Array) -> PyTree:
        return metric.batch(outputs, targets(batch), weight), own(batch)

    def finish(rows: tuple[PyTree, jax.Array], weight: jax.Array) -> Any:
        return metric.finish(rows[0], jnp.where(weight == 0, 0.0, rows[1]) * weight)

    if metric.keep == "rows":
        return metric._replace(batch=rows, finish=finish, targets=None)
    return metric._replace(batch=sums, targets=None)


def feature(batch: Mapping[str, Any], name: str, of: str) -> Any:
    """A feature of a batch, refused by name where there is none."""
    if name not in batch:
        raise ValueError(
            f"the metric {of!r} reads the feature {name!r}; the data have {sorted(set(batch) - {'mask'})}."
        )
    return batch[name]


def check_metrics(metrics: Any) -> tuple[Metric, ...]:
    """Metrics as a tuple, refused where they are none, or share a name."""
    if isinstance(metrics, Metric) or not isinstance(metrics, (list, tuple)):
        raise TypeError(
            f"`metrics` is {checks.shown(metrics)}; expected a list of metrics, such as [fl.metrics.accuracy()]."
        )
    for index, metric in enumerate(metrics):
        where = f"metrics[{index}]"
        if not isinstance(metric, Metric):
            made = f"; call it: fl.metrics.{metric.__name__}()" if getattr(metric, "__module__", "").startswith(
                "fedjaxlite.metrics"
            ) and hasattr(metric, "__name__") else ""  # fmt: skip
            raise TypeError(
                f"`{where}` is {checks.shown(metric)}; expected a Metric{made or ', as fl.metrics has them'}."
            )
        checks.text(**{f"{where}.name": metric.name})
        checks.one_of(("sums", "rows"), **{f"{where}.keep": metric.keep})
        of_finish = ("sums",) if metric.keep == "sums" else ("rows", "weight")
        functions: dict[str, tuple[Any, tuple[str, ...]]] = {
            "batch": (metric.batch, ("outputs", "targets", "weight")),
            "finish": (metric.finish, of_finish),
        }
        functions |= {} if metric.merge is None else {"merge": (metric.merge, ("one", "other"))}
        for field, (function, arguments) in functions.items():
            checks.is_function_of(*arguments, **{f"{where}.{field}": function})
        if isinstance(metric.better, Mapping):
            directions(f"{where}.better", metric.better)
        elif metric.better is not None:
            one(f"{where}.better", metric.better)
    names = [metric.name for metric in metrics]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"`metrics` has {twice[0]!r} more than once; give one of them another name: metric._replace(name=...)."
        )
    return tuple(metrics)


def directions_of(metrics: Sequence[Metric]) -> dict[str, Direction]:
    """Which way the results of metrics are better, by their names, where that was said."""
    ways: dict[str, Direction] = {}
    for metric in metrics:
        if isinstance(metric.better, Mapping):
            ways |= {f"{metric.name}_{key}": way for key, way in metric.better.items()}
        elif metric.better is not None:
            ways[metric.name] = metric.better
    return ways


def by_name(metric: Metric, value: Any) -> dict[str, jax.Array]:
    """What `finish` gave, by the names of results."""
    if isinstance(value, Mapping):
        return {f"{metric.name}_{key}": jnp.asarray(one) for key, one in value.items()}
    try:
        return {metric.name: jnp.asarray(value)}
    except TypeError:
        raise TypeError(
            f"the metric {metric.name!r} finished with {checks.shown(value)}; expected a scalar, a dict of scalars or "
            "an array."
        ) from None
