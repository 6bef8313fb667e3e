"""The evaluation that goes into a program: the loss and metrics of a client's model on its own examples."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.deploy.program.client_half import client_data
from fedjaxlite.deploy.program.leaves import leaves_of, unflattened
from fedjaxlite.deploy.program.template import Template, download_specs, undownloaded
from fedjaxlite.evaluation.central import fixed_key, loss_for
from fedjaxlite.evaluation.measuring import Measuring, measuring
from fedjaxlite.evaluation.per_client import measured
from fedjaxlite.metrics.metric import Metric

BATCH = 64
"""Rows at a time."""


def client_measure(
    template: Template, model_or_loss: Any, metrics: Sequence[Metric]
) -> tuple[Callable[..., tuple[Any, ...]], list[str]]:
    """What a client computes when it evaluates, and the names of the numbers that come out.

    Called with (*download, *state, *features in the order of their names, num_examples int32); returns float32 means
    over the client's examples, as `fl.evaluate_clients` gives them. The model is the client's own one where the
    algorithm has such.

    Args:
      template: of the run.
      model_or_loss: as `fl.evaluate_clients` takes it.
      metrics: likewise.

    Raises:
      TypeError, ValueError: as `fl.evaluate_clients`; for a metric that is an array; for an algorithm whose clients
        have no model of the parameters' shapes.
    """
    what = measuring(loss_for(model_or_loss, template.population.features), model_or_loss, metrics, None, None)
    shapes = _found(template, what)
    arrays = [name for name, leaf in shapes.items() if leaf.shape != ()]
    if arrays:
        raise ValueError(
            f"the metrics {arrays} are arrays, and what a device tells of its examples are single numbers. Leave them "
            "out, or measure them with fl.evaluate_clients where the data are."
        )
    names = sorted(shapes)

    def measure(*flat: Any) -> tuple[Any, ...]:
        values = _values(template, what, *flat)
        return tuple(jnp.asarray(values[name], jnp.float32) for name in names)

    return measure, names


def _values(template: Template, what: Measuring, *flat: Any) -> Any:
    num_down, num_state = len(download_specs(template)), len(leaves_of(template.state))
    state = unflattened(template.state, flat[num_down : num_down + num_state])
    *features, num_examples = flat[num_down + num_state :]
    shared, _ = undownloaded(template, flat[:num_down])
    key = fixed_key()  # evaluation draws nothing that matters
    view = client_data(template, features, num_examples, client=jnp.int32(0), key=key, noise=key)
    params = template.program.algorithm.client_params(shared, state.algorithm)
    algorithm = template.program.algorithm.name
    checks.same_structure(
        jax.eval_shape(lambda: params),
        template.params,
        what=f"the model of {algorithm}'s clients",
        than="the parameters",
        remedy="Give the algorithm `client_params(shared, client_state)`, or leave `evaluate` out.",
    )
    most = template.capacity if what.keeps_rows else None
    return dict(measured(what, params, view, BATCH, most).values)


def _found(template: Template, what: Measuring) -> dict[str, Any]:
    """The shapes of what is measured, by name."""
    capacity, features = template.capacity, template.population.features
    rows = [jax.ShapeDtypeStruct((capacity, *features[n].shape[1:]), features[n].dtype) for n in sorted(features)]
    flat = [*download_specs(template), *leaves_of(template.state), *rows]
    return jax.eval_shape(lambda *args: _values(template, what, *args), *flat, jax.ShapeDtypeStruct((), jnp.int32))
