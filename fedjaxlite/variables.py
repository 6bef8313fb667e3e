"""One pytree for a model that also has state that is not trained, such as the statistics of BatchNorm."""

from typing import Any, NamedTuple

PyTree = Any


class Variables(NamedTuple):
    """Trainable parameters and the state that travels with them.

    A model without such state has plain params; a model with state has `Variables`, so that one pytree crosses the
    wire either way. Only `params` is differentiated; `state` is assigned from `LossAux.state` after a step.

    Attributes:
      params: pytree of floats, what an optimizer changes.
      state: pytree of arrays, what the model itself changes when it is trained.
    """

    params: PyTree
    state: PyTree


def trainable(params: PyTree) -> PyTree:
    """The part that is differentiated.

    Args:
      params: a pytree, or `Variables`.

    Returns:
      `params.params` of `Variables`; anything else as it is.

    Example:
      >>> trainable(Variables({"w": 1.0}, {"mean": 0.0})), trainable({"w": 1.0})
      ({'w': 1.0}, {'w': 1.0})
    """
    return params.params if isinstance(params, Variables) else params


def with_trainable(params: PyTree, new: PyTree) -> PyTree:
    """The same variables with another trainable part.

    Args:
      params: a pytree, or `Variables`.
      new: pytree like `trainable(params)`.

    Returns:
      `Variables(new, params.state)` for `Variables`, else `new`.

    Example:
      >>> with_trainable(Variables({"w": 1.0}, {"mean": 0.0}), {"w": 2.0})
      Variables(params={'w': 2.0}, state={'mean': 0.0})
    """
    return params._replace(params=new) if isinstance(params, Variables) else new


def with_state(params: PyTree, state: PyTree | None) -> PyTree:
    """The same variables with another state.

    Args:
      params: a pytree, or `Variables`.
      state: pytree like `params.state`; None (what a loss without state gives) leaves everything as it is.

    Returns:
      pytree of the structure of `params`.

    Raises:
      TypeError: for a state where `params` has no place for one.

    Example:
      >>> with_state(Variables({"w": 1.0}, {"mean": 0.0}), {"mean": 3.0})
      Variables(params={'w': 1.0}, state={'mean': 3.0})
    """
    if state is None:
        return params
    if not isinstance(params, Variables):
        raise TypeError(
            f"the loss gave a state (`LossAux.state`), but the params are a {type(params).__name__} without a place "
            "for it; expected `fedjaxlite.Variables(params, state)`. Let the model's `init` return Variables, or leave "
            "`LossAux.state` at None."
        )
    return params._replace(state=state)
