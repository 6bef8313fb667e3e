"""flax.nnx modules as pure functions of parameters, state and key."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from fedjaxlite import checks
from fedjaxlite.models.calling import (
    accepted,
    as_variables,
    check_input,
    named,
    pick,
    plain_hparams,
    plain_shape,
    without_padding,
)
from fedjaxlite.models.masked_norm import mask_batch_norms, rows
from fedjaxlite.models.types import Model
from fedjaxlite.variables import Variables

PyTree = Any
_FILTERS = (nnx.Param, nnx.RngKey, nnx.RngCount, ...)
Path = tuple[Any, ...]


class _Abstract(NamedTuple):
    """A module without its numbers: the graph, and an abstract variable at every path of each kind."""

    graph: Any
    params: dict[Path, Any]
    keys: dict[Path, Any]
    counts: dict[Path, Any]
    state: dict[Path, Any]


def from_nnx(
    ctor: Callable[..., nnx.Module],
    *,
    input_shape: tuple[int, ...] | None = None,
    name: str | None = None,
    hparams: Mapping[str, Any] | None = None,
) -> Model:
    """A model from the constructor of a flax.nnx module.

    `nnx.Param`s are trainable; every other variable (BatchNorm statistics) is state, and the model's params are then
    `Variables(params, state)`. Random streams inside the module (dropout) are no part of either: each call derives
    them from `key`. A plain `nnx.BatchNorm` counts only the rows where `mask` holds; padding rows may hold NaN. If the
    module's `__call__` has an argument `mask` or `train`, it gets them.

    Args:
      ctor: `ctor(rngs) -> module`, called with an `nnx.Rngs`; the module's `__call__(x)` takes a batch `[B, ...]`. A
        module class whose only argument is `rngs` will do.
      input_shape: shape of one example; a batch of other examples is refused.
      name: for messages and records; the module's class name by default.
      hparams: for records.

    Returns:
      a Model. Params are nested dicts with string keys that follow the module's attributes.

    Raises:
      TypeError: if `ctor` is a module rather than a function that makes one, or makes something else.
      ValueError: when called with params that do not belong to the module, with an `x` of another shape, or in
        training without the `key` that dropout needs.

    Guarantees: `apply` is pure and deterministic for a given key; with `train=False` it does not depend on the key.

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> from fedjaxlite import models
      >>> model = models.from_nnx(lambda rngs: nnx.Linear(3, 2, rngs=rngs), input_shape=(3,))
      >>> params = model.init(jax.random.key(0))
      >>> model.apply(params, jax.numpy.ones((4, 3))).shape
      (4, 2)
    """
    input_shape, hparams = plain_shape(input_shape), plain_hparams(hparams)
    build, abstract, module = _inspect(ctor)
    label = named(name, type(module).__name__)
    takes = accepted(type(module).__call__, ("mask", "train"))
    stateful = bool(abstract.state)

    def init(key: Any) -> PyTree:
        _, params, _, _, state = nnx.split(build(nnx.Rngs(key)), *_FILTERS)
        return Variables(_nested(params), _nested(state)) if stateful else _nested(params)

    def apply(params: PyTree, x: PyTree, *, key: Any = None, train: bool = False, mask: Any = None) -> Any:
        check_input(x, input_shape, label)
        variables = as_variables(params, label) if stateful else Variables(params, {})
        if mask is not None and (stateful or "mask" in takes):
            x, mask = without_padding(x, mask)
        module = _merge(abstract, variables, _streams(abstract, key, train, label), label)
        module.train() if train else module.eval()
        with rows(mask):
            outputs = module(x, **pick({"mask": mask, "train": train}, takes))
        if not stateful:
            return outputs
        new = dict(nnx.to_flat_state(nnx.state(module)))
        return outputs, _nested({path: new[path] for path in abstract.state})

    return Model(init, apply, label, stateful, stateful, input_shape, hparams)


def _inspect(ctor: Callable[..., nnx.Module]) -> tuple[Callable[[nnx.Rngs], nnx.Module], _Abstract, nnx.Module]:
    """A constructor with masked BatchNorms, the module's abstract parts, and the abstract module itself."""
    if isinstance(ctor, nnx.Module):
        kind = type(ctor).__name__
        raise TypeError(
            f"`ctor` is a {kind} with its parameters already drawn; expected a function that makes one from `rngs`, "
            f"since `model.init(key)` draws them anew. Write `lambda rngs: {kind}(..., rngs=rngs)`."
        )
    checks.is_callable(ctor=ctor, remedy="Write `lambda rngs: MyModule(..., rngs=rngs)`.")
    # A class without a constructor seems to take every keyword, by its signature.
    bare = inspect.isclass(ctor) and ctor.__init__ is object.__init__
    keyword = not bare and "rngs" in accepted(ctor, ("rngs",))
    if not keyword:
        checks.is_function_of("rngs", ctor=ctor, remedy="Write `lambda rngs: MyModule(..., rngs=rngs)`.")

    def build(rngs: nnx.Rngs) -> nnx.Module:
        module = ctor(rngs=rngs) if keyword else ctor(rngs)
        if not isinstance(module, nnx.Module):
            raise TypeError(
                f"`ctor` made a {type(module).__name__}; expected a flax.nnx.Module. For a linen module use "
                "`from_linen`, for plain functions `from_functions`."
            )
        mask_batch_norms(module)
        return module

    module = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    graph, *kinds = nnx.split(module, *_FILTERS)
    params, keys, counts, state = (dict(nnx.to_flat_state(kind)) for kind in kinds)
    return build, _Abstract(graph, params, keys, counts, state), module


def _streams(abstract: _Abstract, key: Any, train: bool, name: str) -> dict[Path, Any]:
    """A key for every random stream of the module, each a fixed function of `key`."""
    if not abstract.keys:
        return {}
    if not train:
        key = jax.random.key(0)  # dropout draws nothing in evaluation; what else may draw is made deterministic
    elif key is None:
        raise ValueError(
            f"`{name}` draws random numbers in training (dropout) but was given no key; expected `key=`. Losses pass "
            "on the key they are given; `key=None` is evaluation."
        )
    made = {}
    for index, (path, stream) in enumerate(abstract.keys.items()):
        own = jax.random.fold_in(key, index)
        made[path] = jax.random.split(own, stream.shape) if stream.shape else own
    return made


def _merge(abstract: _Abstract, variables: Variables, streams: dict[Path, Any], name: str) -> nnx.Module:
    """The module with these numbers in it, all variables new: the caller's trace owns them."""
    values = dict(streams)
    values |= {path: jnp.zeros(count.shape, count.dtype) for path, count in abstract.counts.items()}
    values |= {path: _at(variables.params, path, "params", name) for path in abstract.params}
    values |= {path: _at(variables.state, path, "state", name) for path in abstract.state}
    kinds = (abstract.params, abstract.keys, abstract.counts, abstract.state)
    filled = (nnx.from_flat_state([(p, v.replace(values[p])) for p, v in kind.items()]) for kind in kinds)
    return nnx.merge(abstract.graph, *filled)


def _at(tree: PyTree, path: Path, what: str, name: str) -> Any:
    for step in path:
        try:
            tree = tree[str(step)]
        except (KeyError, TypeError, IndexError):
            where = checks.path_str(tuple(jax.tree_util.DictKey(str(p)) for p in path))
            raise ValueError(
                f"`{name}` has a parameter at {where} that the given {what} lack; expected the structure that "
                "`model.init` returns. Merge partitioned parameters before calling the model."
            ) from None
    return tree


def _nested(flat: Any) -> dict[str, Any]:
    """Nested dicts of plain arrays; list positions become strings, which every checkpoint format can hold."""
    nested: dict[str, Any] = {}
    for path, variable in flat.items() if isinstance(flat, dict) else nnx.to_flat_state(flat):
        node = nested
        for step in path[:-1]:
            node = node.setdefault(str(step), {})
        node[str(path[-1])] = variable.get_value()
    return nested
