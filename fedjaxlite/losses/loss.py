"""What a loss is: one number per example, alone or with a `LossAux`, and what is declared of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax

from fedjaxlite import checks
from fedjaxlite.directions import Direction, directions
from fedjaxlite.models.types import Model

PyTree = Any


class LossAux(NamedTuple):
    """What a loss can give beside the losses.

    Attributes:
      state: the model's new state (BatchNorm statistics), of the structure of `Variables.state`, or None.
      metrics: dict of float32 `[B]`, values per example such as "accuracy"; they are averaged like the losses. Which
        way those of one's own are better, `fedjaxlite.losses.declare` says.
      example_weight: float32 `[B]`, what each example counts for in the mean (number of tokens), or None for one each.
    """

    state: PyTree | None = None
    metrics: Mapping[str, jax.Array] = {}
    example_weight: jax.Array | None = None


@dataclass(frozen=True, eq=False)
class Loss:
    """A loss function that says what it is. Plain functions of the same signature serve as well.

    Attributes:
      fn: `fn(params, batch, key) -> [B]` or `([B], LossAux)`.
      cross_example: whether the loss of a row depends on other rows (BatchNorm). Such a loss has no per-example
        gradients, and is refused where privacy is promised to single examples.
      model: the Model inside, where there is one.
      name: for records and messages.
      better: "lower" or "higher" for metrics of `LossAux` that are not the library's own.
    """

    fn: Callable[[PyTree, Mapping[str, jax.Array], Any], Any]
    cross_example: bool = False
    model: Model | None = None
    name: str = "loss"
    better: Mapping[str, Direction] = field(default_factory=dict)

    def __call__(self, params: PyTree, batch: Mapping[str, jax.Array], key: Any = None) -> Any:
        """`[B]`, or `([B], LossAux)`; in evaluation mode for `key=None`."""
        return self.fn(params, batch, key)


def declare(
    fn: Callable[..., Any],
    *,
    cross_example: bool = False,
    model: Model | None = None,
    name: str | None = None,
    better: Mapping[str, Direction] | None = None,
) -> Loss:
    """A plain loss function with the facts that its code does not show.

    Args:
      fn: `fn(params, batch, key) -> [B]` or `([B], LossAux)`.
      cross_example: whether the loss of a row depends on other rows of the batch.
      model: the Model inside, for records.
      name: for records; the function's name by default.
      better: which way the metrics that it gives are better, such as {"mae": "lower"}; "loss", "accuracy" and
        "absolute_error" are known. A target, early stopping and the worst clients of a report ask for it.

    Returns:
      a Loss that calls `fn`.

    Raises:
      TypeError: if `fn` is no function. ValueError: if a direction is neither "lower" nor "higher".

    Example:
      >>> contrastive = declare(lambda params, batch, key: batch["x"] @ params, cross_example=True, name="contrastive")
      >>> contrastive.cross_example
      True
    """
    cross_example = checks.flag(cross_example=cross_example)
    checks.is_function_of("params", "batch", "key", fn=fn)
    if model is not None:
        checks.one_instance(Model, "a Model, such as fl.models.logistic(num_classes=10)", model=model)
    if name is not None:
        name = checks.text(name=name)
    own: str = getattr(fn, "__name__", type(fn).__name__)
    return Loss(fn, cross_example, model, own if name is None else name, directions("better", better))
