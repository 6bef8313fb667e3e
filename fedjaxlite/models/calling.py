"""What the adapters share: which arguments a user's function takes, row masks, and checks of inputs and states."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.variables import Variables

PyTree = Any


def accepted(fn: Callable[..., Any], names: tuple[str, ...]) -> frozenset[str]:
    """Those of `names` that `fn` can be given as keywords; none where its signature cannot be read."""
    try:
        # A class with a metaclass (every flax.nnx module) shows the metaclass's signature.
        parameters = inspect.signature(fn.__init__ if inspect.isclass(fn) else fn).parameters
    except (TypeError, ValueError):
        return frozenset()
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return frozenset(names)
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return frozenset(name for name in names if name in parameters and parameters[name].kind in by_name)


def pick(options: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    """The entries of `options` whose names are in `names`."""
    return {name: value for name, value in options.items() if name in names}


def row_mask(mask: jax.Array, x: jax.Array, what: str) -> jax.Array:
    """A mask `[B]` as `[B, 1, ...]` of the rank of `x [B, ...]`."""
    if x.shape[0] != mask.shape[0]:
        raise ValueError(
            f"{what} got an input of shape {list(x.shape)} where the batch has {mask.shape[0]} rows, so it cannot know "
            "which of them are padding. Keep the batch axis first and apart up to this layer, or pass it `mask=` "
            f"yourself, of a shape that broadcasts to {list(x.shape)}."
        )
    return mask.reshape(mask.shape[0], *(1,) * (x.ndim - 1))


def without_padding(x: PyTree, mask: jax.Array) -> tuple[PyTree, jax.Array]:
    """Overwrites padding rows of `x` by its first real row, and gives a mask that marks at least one row.

    A masked mean is not enough: a NaN in a row that has no weight still reaches the gradient, as 0 * NaN.
    """
    mask = jnp.asarray(mask, bool)
    some = mask.any()
    first = jnp.argmax(mask)

    def clean(leaf: jax.Array) -> jax.Array:
        leaf = jnp.asarray(leaf)
        real = jnp.where(some, leaf[first], jnp.zeros_like(leaf[0]))
        return jnp.where(row_mask(mask, leaf, "the model"), leaf, real[None])

    return jax.tree.map(clean, x), mask | ~some


def check_input(x: PyTree, input_shape: tuple[int, ...] | None, name: str) -> None:
    """Refuses a batch whose examples are not of `input_shape`."""
    if input_shape is None:
        return
    shape = getattr(x, "shape", None)
    if shape is None or tuple(shape[1:]) != input_shape:
        raise wrong_input(x, input_shape, name)


def wrong_input(x: PyTree, input_shape: tuple[int, ...], name: str) -> ValueError:
    """The error for a batch that does not fit the model."""
    given = [list(leaf.shape) for leaf in jax.tree.leaves(x)]
    shown = given[0] if len(given) == 1 else given
    batch = ", ".join(map(str, ("B", *input_shape)))
    remedy = f"Build the model with `input_shape=` the shape of one example, or give it a batch [{batch}]."
    if len(given) == 1 and tuple(given[0]) == input_shape:
        remedy = "That is one example; give a batch of one, `x[None]`."
    built = f"`{name}` was built for examples of shape {list(input_shape)}"
    return ValueError(f"{built}, but x has shape {shown}. {remedy}")


def as_variables(params: PyTree, name: str) -> Variables:
    """The Variables of a model with state."""
    if not isinstance(params, Variables):
        raise TypeError(
            f"`{name}` has state, so its params are `fedjaxlite.Variables(params, state)`; got a "
            f"{type(params).__name__}. Pass what `model.init` returned, or put a trained part back by `with_trainable`."
        )
    return params


def same_state(new: PyTree, old: PyTree, name: str) -> PyTree:
    """The new state, refused where its structure, shapes or dtypes are not those of the old one."""
    checks.same_structure(
        new, old, what=f"the state that `{name}` returned", than="the state it was given",
        remedy="A model's state keeps its structure, shapes and dtypes, or it could not be carried from step to step.",
    )  # fmt: skip
    return new


def named(name: Any, default: str) -> str:
    """A model's name, or the default where none is given."""
    return default if name is None else checks.text("It is for messages and records.", name=name)


def plain_hparams(hparams: Any) -> dict[str, Any]:
    """A dict of what a record says of a model; nothing for None."""
    if hparams is not None and not isinstance(hparams, Mapping):
        raise TypeError(f"`hparams` is {checks.shown(hparams)}; expected a dict, or None.")
    return dict(hparams or {})


def plain_shape(input_shape: Any) -> tuple[int, ...] | None:
    """The shape of one example, as plain ints; None for any."""
    if input_shape is None:
        return None
    if not isinstance(input_shape, (tuple, list)):
        raise TypeError(
            f"`input_shape` is {checks.shown(input_shape)}; expected a tuple of ints, the shape of one example."
        )
    return tuple(checks.nonnegative_int(**{f"input_shape[{i}]": size}) for i, size in enumerate(input_shape))
