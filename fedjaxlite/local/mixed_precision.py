"""Losses computed in a narrow float type, with parameters, gradients and sums kept in float32."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import primitives as p

from fedjaxlite import checks
from fedjaxlite.losses import LossAux
from fedjaxlite.lowering.interpreter import Rule, evaluate
from fedjaxlite.variables import Variables, trainable, with_trainable

PyTree = Any
KEPT = ("y", "mask")
"""Features that keep their dtype: labels, and who is real."""


def floating_dtype(**named: Any) -> jnp.dtype[Any]:
    """The dtype that an argument names; refuses everything that is not floating.

    Args:
      **named: one dtype, under the name of the argument that it came as.

    Returns:
      the dtype.

    Raises:
      TypeError: for what is no dtype, or none of floats.

    Example:
      >>> floating_dtype(compute_dtype="bfloat16")
      dtype(bfloat16)
    """
    ((name, value),) = named.items()
    expected = "expected a floating dtype, such as jnp.bfloat16, or None to compute in the dtypes of the parameters."
    if isinstance(value, (jax.Array, np.ndarray, np.generic)):
        raise TypeError(f"`{name}` is {checks.shown(value)}; {expected}")
    try:
        dtype = jnp.dtype(value)
    except (TypeError, ValueError):
        raise TypeError(f"`{name}` is {value!r}; {expected}") from None
    if value is None or not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"`{name}` is {dtype.name if value is not None else value}; {expected}")
    return dtype


def narrowed(tree: PyTree, dtype: Any) -> PyTree:
    """The pytree with its wider floats cast to `dtype`; ints, bools, keys and floats as narrow stay what they are.

    Args:
      tree: pytree of arrays.
      dtype: a floating dtype.

    Returns:
      pytree of the same structure and shapes. Differentiation through it gives gradients in the dtypes of `tree`.

    Example:
      >>> {name: str(leaf.dtype) for name, leaf in narrowed({"w": jnp.ones(2), "id": jnp.arange(2)}, "float16").items()}
      {'id': 'int32', 'w': 'float16'}
    """
    dtype = jnp.dtype(dtype)

    def cast(leaf: Any) -> Any:
        leaf = jnp.asarray(leaf)
        wide = jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype.itemsize > dtype.itemsize
        return leaf.astype(dtype) if wide else leaf

    return jax.tree.map(cast, tree)


def compute_in(loss_fn: Callable[..., Any], compute_dtype: Any) -> Callable[..., Any]:
    """The loss function with float32 parameters and features cast to `compute_dtype` before it is called.

    Args:
      loss_fn: `(params, batch, key) -> [B]` or `([B], LossAux)`.
      compute_dtype: a floating dtype, or None for `loss_fn` itself.

    Returns:
      a function of the same signature. The trainable leaves and the float features except "y" are cast; the state of
      `Variables` goes in as it is and comes out in its own dtypes.

    Guarantees:
      Matrix products and convolutions of the loss, and so of its gradient, take operands of `compute_dtype`, those of
      wider floats too that the loss brings along: the float32 zeros that a recurrent layer of nnx starts from would
      make all its products float32. Their results have the dtype that they had. Left as they are: products that ask
      for a precision (`precision="highest"`), those of narrow operands that ask for a wide result, what lies within
      functions with a derivative rule of their own, and all where `jax.disable_jit` leaves no program to rewrite.

    Raises:
      TypeError: for a dtype that is not floating.

    Source: Micikevicius et al. (2018), https://arxiv.org/abs/1710.03740, section 3.1 (master weights in float32).

    Example:
      >>> loss_fn = compute_in(lambda params, batch, key: params * batch["x"], jnp.bfloat16)
      >>> loss_fn(jnp.float32(2.0), {"x": jnp.ones(3)}, None).dtype
      dtype(bfloat16)
    """
    if compute_dtype is None:
        return loss_fn
    dtype = floating_dtype(compute_dtype=compute_dtype)

    @functools.wraps(loss_fn)
    def cast(params: PyTree, batch: Mapping[str, Any], key: Any) -> Any:
        features = {name: leaf if name in KEPT else narrowed(leaf, dtype) for name, leaf in batch.items()}
        result = products(with_trainable(params, narrowed(trainable(params), dtype)), features, key)
        return _with_old_state_dtypes(result, params)

    products = _with_products_in(dtype, loss_fn)
    return cast


def _with_products_in(dtype: jnp.dtype[Any], fn: Callable[..., Any]) -> Callable[..., Any]:
    rules = {primitive: _product_rule(primitive, dtype) for primitive in (p.dot_general_p, p.conv_general_dilated_p)}

    def narrow(*args: Any) -> Any:
        if jax.config.values["jax_disable_jit"]:
            return fn(*args)
        closed, shape = jax.make_jaxpr(fn, return_shape=True)(*args)
        results = evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(args), rules)
        return jax.tree.unflatten(jax.tree.structure(shape), results)

    return narrow


def _product_rule(primitive: Any, dtype: jnp.dtype[Any]) -> Rule:
    """Operands in `dtype` where one is wider. The result is narrow first: so the products of the gradient are too."""

    def rule(avals: Sequence[Any], params: Mapping[str, Any]) -> Callable[..., Any] | None:
        dtypes = [aval.dtype for aval in avals]
        floats = all(jnp.issubdtype(own, jnp.floating) for own in dtypes)
        asked = params["precision"] not in (None, jax.lax.Precision.DEFAULT, (jax.lax.Precision.DEFAULT,) * 2)
        if asked or not floats or all(own.itemsize <= dtype.itemsize for own in dtypes):
            return None
        wide = params["preferred_element_type"] or jnp.promote_types(*dtypes)

        def product(*operands: Any) -> Any:
            bind = primitive.get_bind_params({**params, "preferred_element_type": dtype})
            return primitive.bind(*(leaf.astype(dtype) for leaf in operands), **bind).astype(wide)

        return product

    return rule


def _with_old_state_dtypes(result: Any, params: PyTree) -> Any:
    """Statistics of narrow activations may come out narrow; as the model's state they must not change their dtype."""
    aux = result[1] if isinstance(result, tuple) and len(result) == 2 else None
    if not isinstance(aux, LossAux) or not isinstance(params, Variables):
        return result
    if jax.tree.structure(aux.state) != jax.tree.structure(params.state):
        return result  # None, or a mistake that is told where states are assigned

    def restore(new: Any, old: Any) -> Any:
        new, old = jnp.asarray(new), jnp.asarray(old)
        both = jnp.issubdtype(new.dtype, jnp.floating) and jnp.issubdtype(old.dtype, jnp.floating)
        return new.astype(old.dtype) if both else new

    return result[0], aux._replace(state=jax.tree.map(restore, aux.state, params.state))
