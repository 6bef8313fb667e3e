"""Plain functions and flax.linen modules as a `Model`. For flax.nnx see `nnx_adapter`."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.models.calling import (
    accepted,
    as_variables,
    check_input,
    named,
    pick,
    plain_hparams,
    plain_shape,
    row_mask,
    same_state,
    without_padding,
)
from fedjaxlite.models.types import Model
from fedjaxlite.variables import Variables

PyTree = Any


def from_functions(
    init: Callable[[Any], Any],
    apply: Callable[..., Any],
    *,
    stateful: bool = False,
    cross_example: bool | None = None,
    input_shape: tuple[int, ...] | None = None,
    name: str | None = None,
    hparams: Mapping[str, Any] | None = None,
) -> Model:
    """A model from two plain functions: one's own JAX, Haiku, or Equinox (see the example).

    Args:
      init: `init(key) -> params`, any pytree of arrays; with `stateful`, `init(key) -> (params, state)`.
      apply: `apply(params, x) -> outputs`; with `stateful`, `apply(params, state, x) -> (outputs, new_state)`. It gets
        those of the keywords `key`, `train` and `mask` that its signature has.
      stateful: whether there is state that is not trained, such as running statistics.
      cross_example: whether in training the output of a row depends on other rows; by default it is assumed of
        stateful models. A model that takes `mask` and declares this finds its padding rows replaced by a real one.
      input_shape: shape of one example; a batch of other examples is refused.
      name: for messages and records; the name of `apply` by default.
      hparams: for records.

    Returns:
      a Model; with `stateful` its params are `Variables`.

    Raises:
      TypeError: if `init` or `apply` is no function, or a stateful one does not return a pair.
      ValueError: when called with an `x` of another shape than `input_shape`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjaxlite import models
      >>> model = models.from_functions(lambda key: {"w": jnp.zeros((3, 2))}, lambda params, x: x @ params["w"])
      >>> model.apply(model.init(jax.random.key(0)), jnp.ones((4, 3))).shape
      (4, 2)

      An Equinox module is a pytree, split into what is trained and the rest:

      >>> def equinox_model(ctor):                                         # ctor(key) -> eqx.Module
      ...     import equinox as eqx
      ...     _, static = eqx.partition(ctor(jax.random.key(0)), eqx.is_inexact_array)
      ...     return models.from_functions(
      ...         lambda key: eqx.filter(ctor(key), eqx.is_inexact_array),
      ...         lambda params, x: jax.vmap(eqx.combine(params, static))(x))
    """
    stateful = checks.flag(stateful=stateful)
    checks.is_function_of("key", init=init)
    checks.is_callable(apply=apply)
    label = named(name, getattr(apply, "__name__", type(apply).__name__))
    hparams, input_shape = plain_hparams(hparams), plain_shape(input_shape)
    cross_example = None if cross_example is None else checks.flag(cross_example=cross_example)
    takes = accepted(apply, ("key", "train", "mask"))
    crosses = stateful if cross_example is None else cross_example

    def model_init(key: Any) -> PyTree:
        made = init(key)
        return Variables(*_pair(made, label, "init", "(params, state)")) if stateful else made

    def model_apply(params: PyTree, x: PyTree, *, key: Any = None, train: bool = False, mask: Any = None) -> Any:
        check_input(x, input_shape, label)
        if crosses and mask is not None:
            x, mask = without_padding(x, mask)
        options = pick({"key": key, "train": train, "mask": mask}, takes)
        if not stateful:
            return apply(params, x, **options)
        variables = as_variables(params, label)
        made = apply(variables.params, variables.state, x, **options)
        outputs, state = _pair(made, label, "apply", "(outputs, new_state)")
        return outputs, same_state(state, variables.state, label)

    return Model(model_init, model_apply, label, stateful, crosses, input_shape, hparams)


def from_linen(
    module: Any,
    sample_input: Any,
    *,
    rngs: tuple[str, ...] = ("dropout",),
    name: str | None = None,
    hparams: Mapping[str, Any] | None = None,
) -> Model:
    """A model from a flax.linen module.

    The collection "params" is trainable; every other collection that `module.init` makes ("batch_stats") is state, and
    the model's params are then `Variables(params, state)`. Any `nn.BatchNorm` inside counts only the rows where `mask`
    holds; padding rows may hold NaN. If the module's `__call__` has an argument `train`, `deterministic`,
    `use_running_average` or `mask`, it gets them.

    Args:
      module: a `flax.linen.Module`, not bound to parameters.
      sample_input: an array or `jax.ShapeDtypeStruct` `[B, ...]`; only its shape and dtype are used.
      rngs: the random streams that the module draws from in training, each a fixed function of `key`.
      name: for messages and records; the module's class name by default.
      hparams: for records.

    Returns:
      a Model.

    Raises:
      TypeError: if `module` is no linen module.
      ValueError: when called with an `x` whose examples differ in shape from those of `sample_input`.

    Guarantees: `apply` is pure and deterministic for a given key; with `train=False` it does not depend on the key.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp
      >>> from fedjaxlite import models
      >>> model = models.from_linen(nn.Dense(2), jnp.ones((1, 3)))
      >>> model.apply(model.init(jax.random.key(0)), jnp.ones((4, 3))).shape
      (4, 2)
    """
    from flax import linen as nn

    if not isinstance(module, nn.Module):
        raise TypeError(
            f"`module` is a {type(module).__name__}; expected a flax.linen.Module. For flax.nnx use `from_nnx`, for "
            "plain functions `from_functions`."
        )
    hparams = plain_hparams(hparams)
    if not hasattr(sample_input, "shape") or not hasattr(sample_input, "dtype") or not len(sample_input.shape):
        raise TypeError(
            f"`sample_input` is {checks.shown(sample_input)}; expected a batch [B, ...], an array or a "
            "jax.ShapeDtypeStruct."
        )
    if not isinstance(rngs, (tuple, list)) or not all(isinstance(stream, str) for stream in rngs):
        raise TypeError(f"`rngs` is {checks.shown(rngs)}; expected names of random streams, such as ('dropout',).")
    linen = _Linen(module, sample_input, tuple(rngs), named(name, type(module).__name__))
    collections = [c for c in _shapes(linen) if c != "params"]
    stateful = bool(collections)

    def init(key: Any) -> PyTree:
        made = linen.variables(key)
        params = made.pop("params", {})
        return Variables(params, made) if stateful else params

    def apply(params: PyTree, x: Any, *, key: Any = None, train: bool = False, mask: Any = None) -> Any:
        check_input(x, input_shape, linen.name)
        variables = as_variables(params, linen.name) if stateful else Variables(params, {})
        made = linen.apply(variables, x, key, train, mask, collections)
        if not stateful:
            return made
        outputs, updates = _pair(made, linen.name, "apply", "(outputs, new_state)")
        return outputs, same_state({**variables.state, **updates}, variables.state, linen.name)

    input_shape = tuple(sample_input.shape[1:])
    return Model(init, apply, linen.name, stateful, stateful, input_shape, hparams)


def _shapes(linen: "_Linen") -> dict[str, Any]:
    x = linen.sample_input
    try:
        return jax.eval_shape(linen.variables, jax.random.key(0))
    except (TypeError, ValueError, IndexError, ZeroDivisionError) as error:
        raise ValueError(
            f"`{linen.name}` does not take a `sample_input` of {x.dtype}{list(x.shape)} ({error}). Give a batch of the "
            "examples that the module is for."
        ) from error


class _Linen(NamedTuple):
    """A linen module and how it is called."""

    module: Any
    sample_input: Any
    rngs: tuple[str, ...]
    name: str

    def flags(self, train: bool, mask: Any) -> dict[str, Any]:
        """The keywords that the module's `__call__` takes."""
        options = {"train": train, "deterministic": not train, "use_running_average": not train, "mask": mask}
        return pick(options, accepted(type(self.module).__call__, tuple(options)))

    def variables(self, key: Any) -> dict[str, Any]:
        """All collections, freshly drawn."""
        x = jnp.zeros(self.sample_input.shape, self.sample_input.dtype)
        streams = {stream: jax.random.fold_in(key, index) for index, stream in enumerate(("params", *self.rngs))}
        return dict(self.module.init(streams, x, **self.flags(False, None)))

    def apply(self, variables: Variables, x: Any, key: Any, train: bool, mask: Any, collections: list[str]) -> Any:
        """The module's outputs, with the updated collections where there are any."""
        if mask is not None and (collections or "mask" in self.flags(train, mask)):
            x, mask = without_padding(x, mask)
        given = {"params": variables.params, **variables.state}
        streams = (
            {}
            if key is None or not train
            else {stream: jax.random.fold_in(key, i) for i, stream in enumerate(self.rngs)}
        )
        with _masking_batch_norms(mask):
            return self.module.apply(given, x, rngs=streams, mutable=collections or False, **self.flags(train, mask))


def _masking_batch_norms(mask: Any) -> Any:
    """A context in which linen's BatchNorms count only the rows where `mask` holds."""
    from flax import linen as nn

    if mask is None:
        return nullcontext()

    def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        batch_norm = isinstance(context.module, nn.BatchNorm) and context.method_name == "__call__"
        if batch_norm and kwargs.get("mask") is None:
            kwargs = {**kwargs, "mask": row_mask(mask, args[0] if args else kwargs["x"], "BatchNorm")}
        return call(*args, **kwargs)

    return nn.intercept_methods(intercept)


def _pair(made: Any, name: str, which: str, expected: str) -> tuple[Any, Any]:
    if not isinstance(made, (tuple, list)) or len(made) != 2:
        raise TypeError(
            f"`{which}` of `{name}` returned a {type(made).__name__}; a model with state returns the pair {expected}. "
            "Return it, or build the model without `stateful=True`."
        )
    return made[0], made[1]
