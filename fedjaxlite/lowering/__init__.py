"""Convolutions, pools and scans in forms that are fast in a loop, with fast gradients, before differentiation.

A convolution whose kernel has a lane axis (one model a client) becomes a grouped convolution under `jax.vmap`, and
XLA on CPU has no fast path for it, nor for any convolution inside a loop. As patches and one matrix product the same
function takes about a tenth of the time there, or less. After differentiation it would be too late: the gradient of a
kernel is a convolution with a kernel as large as the image.

A scan that multiplies by the same matrix in every step (a recurrent layer) adds to the gradient of that matrix in every
step of its backward loop. Rewritten, it keeps the factors, and the gradient is one product after the loop.

What comes in: rewritings of a loss's jaxpr that keep its values; `interpreter.py` runs it, one file each says how.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
from jax.extend.core import primitives as p

from fedjaxlite.checks import is_callable, one_of
from fedjaxlite.lowering.convolution import convolution_rule
from fedjaxlite.lowering.interpreter import Rule, evaluate
from fedjaxlite.lowering.pooling import max_rule, sum_rule
from fedjaxlite.lowering.scans import scan_rule
from fedjaxlite.platforms import platform_of

__all__ = ["Rewrites", "lower", "should_lower"]

P = ParamSpec("P")
R = TypeVar("R")


class Rewrites(NamedTuple):
    """What `lower` replaces.

    Attributes:
      convolutions: convolutions, by patches and a matrix product.
      pools: maximum and sum (average) pools, by reshapes and slices.
      scans: scans in whose body a value that changes is multiplied by a matrix that does not, such as recurrent layers,
        by scans that leave to their loop only what has to be in it.
    """

    convolutions: bool
    pools: bool
    scans: bool


def should_lower(platform: str, lanes: int | None = None) -> Rewrites:
    """What is worth replacing on a platform.

    On CPU everything: rounds are loops, and in a loop XLA has neither a fast convolution nor a fast gradient of a
    pool. (Training steps in a scan on two cores: a CNN takes 9 times the processor time with convolutions, 14 times
    under four lanes; a layer of 3x3x64 or of one axis 20 times, a depthwise one 50 times.) Elsewhere only convolutions
    under more than one lane, which would be grouped convolutions: a choice by what is known of their gradients
    (https://github.com/jax-ml/jax/issues/13800), not by a measurement.

    Scans everywhere: their backward loop then neither reads nor writes the gradient of a matrix. (SGD steps of a
    character LSTM of two layers of 256 on two cores: a quarter of the time.)

    Args:
      platform: "cpu", "gpu", "tpu" ...; as `jax.Device.platform` names it.
      lanes: models that are trained side by side under `jax.vmap`; `None` where that is not known counts as several.

    Returns:
      Which kinds of operation to replace.

    Example:
      >>> should_lower("cpu", 1)
      Rewrites(convolutions=True, pools=True, scans=True)
      >>> should_lower("gpu", 1)
      Rewrites(convolutions=False, pools=False, scans=True)
      >>> should_lower("gpu")
      Rewrites(convolutions=True, pools=False, scans=True)
    """
    on_cpu = platform == "cpu"
    return Rewrites(convolutions=on_cpu or lanes is None or lanes > 1, pools=on_cpu, scans=True)


def lower(
    fn: Callable[P, R],
    *,
    enable: bool | str | Rewrites = "auto",
    platform: str | None = None,
    lanes: int | None = None,
) -> Callable[P, R]:
    """The same function with its convolutions, pools and scans in forms that are fast in a loop and in a gradient.

    `fn` is traced to a jaxpr, as `jax.jit` does, and evaluated anew. Bodies of `jit`, `scan`, `while_loop`, `cond`
    and `checkpoint` are rewritten too; functions with their own derivative rule (`custom_jvp`, `custom_vjp`) and
    every other primitive stay what they are. Apply it before `jax.grad`, not after.

    Replaced are convolutions of floats (strides, padding, dilation, feature groups, any number of spatial axes, any
    layout) and max and sum pools; kernels and overlapping windows of more than 64 slices are left alone.

    Scans (`jax.lax.scan`, `nnx.RNN`, Linen's `RNN`) are replaced where their body multiplies a value that changes from
    step to step by a matrix that does not. Products of the inputs alone are taken in front of the loop for all steps
    at once, several products of one value become one, and the gradients of matrices and of the biases added to them
    are one product and one sum after the loop. Left alone are scans of one step, scans with effects, and products
    whose factor and result, in one step, have more than twice the entries of their matrix: those would keep more than
    they save.

    Args:
      fn: a function of pytrees of arrays to a pytree of arrays, such as a loss.
      enable: "auto" asks `should_lower`; True replaces everything; False returns `fn` itself. A `Rewrites` says which
        kinds of operation to replace.
      platform: the platform for "auto", and for what a scan keeps: `data.wave.platform` in a client's update. By
        default that of the arguments where they lie on a device that was named, else the one that JAX runs on when
        `fn` is called.
      lanes: models side by side, for "auto"; see `should_lower`.

    Returns:
      A function with the signature of `fn`. It works under `grad`, `jvp`, `vmap`, `scan`, `checkpoint` and `jit`.

    Raises:
      TypeError: `fn` cannot be called.
      ValueError: `enable` is none of these.

    Guarantees:
      Values and derivatives agree with those of `fn` to rounding (1e-5 relative in float32); sums of products have
      the precision and the accumulation that the convolution asks for; among equal entries of a max pool the first has
      the gradient, as XLA gives it. The patches of a convolution are kept for its gradient: the size of the input
      times the kernel's entries over its stride. Of a scan of T steps, what is multiplied and the gradient of each
      product are kept for all steps, `[T, B, ...]`, and products taken in front; where its body is under
      `jax.checkpoint`, the rest of a step is computed again as before.

    Example:
      >>> import jax.numpy as jnp
      >>> def conv(x, kernel):
      ...     return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
      >>> x, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 8))
      >>> bool(jnp.allclose(lower(conv)(x, kernel), conv(x, kernel)))
      True
      >>> "conv_general_dilated" in str(jax.make_jaxpr(lower(conv, enable=True))(x, kernel))
      False
    """
    is_callable(fn=fn)
    if not isinstance(enable, Rewrites):
        enable = one_of(("auto", True, False), enable=enable)
    if enable is False:
        return fn

    @functools.wraps(fn)
    def lowered(*args: P.args, **kwargs: P.kwargs) -> R:
        on = platform or platform_of((args, kwargs))
        rewrites = enable if isinstance(enable, Rewrites) else Rewrites(True, True, True)
        if enable == "auto":
            rewrites = should_lower(on, lanes)
        rules = _rules(rewrites, on)
        if not rules or jax.config.values["jax_disable_jit"]:  # without compilation there is no jaxpr to rewrite
            return fn(*args, **kwargs)
        closed, shape = jax.make_jaxpr(fn, return_shape=True)(*args, **kwargs)
        results = evaluate(closed.jaxpr, closed.consts, jax.tree.leaves((args, kwargs)), rules)
        return jax.tree.unflatten(jax.tree.structure(shape), results)

    return lowered


def _rules(rewrites: Rewrites, platform: str) -> dict[Any, Rule]:
    convolutions: dict[Any, Rule] = {p.conv_general_dilated_p: convolution_rule}
    pools: dict[Any, Rule] = {p.reduce_window_max_p: max_rule, p.reduce_window_sum_p: sum_rule}
    rules = (convolutions if rewrites.convolutions else {}) | (pools if rewrites.pools else {})
    if rewrites.scans:
        rules[p.scan_p] = functools.partial(
            scan_rule, rules=rules, anew=platform != "cpu"
        )  # the rules hold in its body
    return rules
