"""Image models of the federated-learning literature: logistic regression, the 2NN, and three CNNs.

Inputs are floats in [0, 1], `[B, height, width, channels]`; outputs are logits `[B, num_classes]`, without a softmax.
The papers leave the initialization open: kernels are Glorot uniform (Glorot and Bengio, 2010), biases zero.
"""

import math
from typing import Any

import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.models import vision_modules as modules
from fedjaxlite.models.calling import wrong_input
from fedjaxlite.models.nnx_adapter import from_nnx
from fedjaxlite.models.types import Model

_DIGITS = (8, 8, 1)
_SHAPE_REMEDY = "It is the shape of one example, such as (28, 28, 1), without the batch axis."


def logistic(*, num_classes: int = 10, input_shape: tuple[int, ...] = _DIGITS) -> Model:
    """Multinomial logistic regression, from zero weights: a convex problem with a reproducible start.

    Args:
      num_classes: number of logits.
      input_shape: shape of one example; the default is that of the digits data set.

    Returns:
      a Model from `[B, ...]` floats of `input_shape`, flattened or not, to logits `[B, num_classes]`.

    Raises:
      ValueError, TypeError: for sizes that are not positive ints; when called, for examples of another size.

    Example:
      >>> import jax
      >>> from fedjaxlite import models
      >>> model = models.logistic(num_classes=10)
      >>> models.num_params(model.init(jax.random.key(0)))
      650
    """
    num_classes = checks.positive_int(num_classes=num_classes)
    hparams = {"num_classes": num_classes, "input_shape": _shape(input_shape)}
    return _flat("logistic", (num_classes,), input_shape, hparams, zero_init=True)


def mlp(*, features: tuple[int, ...] = (200, 200, 10), input_shape: tuple[int, ...] = _DIGITS) -> Model:
    """A multilayer perceptron with ReLU; with the default features on MNIST, the 2NN of McMahan et al. (2017).

    For MNIST give `input_shape=(28, 28, 1)`: 199,210 parameters.

    Args:
      features: widths of the layers, the number of classes last.
      input_shape: shape of one example; the default is that of the digits data set.

    Returns:
      a Model from `[B, ...]` floats of `input_shape`, flattened or not, to logits `[B, features[-1]]`.

    Raises:
      ValueError, TypeError: for sizes that are not positive ints; when called, for examples of another size.

    Reference: McMahan et al. (2017), https://arxiv.org/abs/1602.05629

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjaxlite import models
      >>> model = models.mlp(features=(16, 10))
      >>> model.apply(model.init(jax.random.key(0)), jnp.zeros((5, 8, 8, 1))).shape
      (5, 10)
    """
    widths = _sizes("features", features, "Give the widths of the layers, the number of classes last: (200, 200, 10).")
    return _flat("mlp", widths, input_shape, {"features": widths, "input_shape": _shape(input_shape)})


def cnn(
    *,
    num_classes: int = 10,
    input_shape: tuple[int, int, int] = (28, 28, 1),
    filters: tuple[int, int] = (32, 64),
    hidden: int = 512,
) -> Model:
    """The MNIST CNN of McMahan et al. (2017): 1,663,370 parameters.

    Two 5x5 convolutions (SAME padding, 32 and 64 channels), each with ReLU and 2x2 max-pooling, a layer of 512 with
    ReLU, and the logits.

    Args:
      num_classes: number of logits.
      input_shape: height, width and channels of one example.
      filters: channels of the two convolutions.
      hidden: width of the layer before the logits.

    Returns:
      a Model from `[B, height, width, channels]` floats to logits `[B, num_classes]`.

    Raises:
      ValueError, TypeError: for sizes that are not positive ints, or an image too small for two poolings; when
        called, for examples of another shape.

    Reference: McMahan et al. (2017), https://arxiv.org/abs/1602.05629

    Example:
      >>> import jax
      >>> from fedjaxlite import models
      >>> models.num_params(jax.eval_shape(models.cnn().init, jax.random.key(0)))
      1663370
    """
    options: dict[str, Any] = {"filters": _sizes("filters", filters), "dense": (hidden, num_classes)}
    return _conv("cnn", num_classes, input_shape, options, kernel_size=5, padding="SAME", pools=(True,) * len(filters))


def dropout_cnn(
    *,
    num_classes: int = 62,
    input_shape: tuple[int, int, int] = (28, 28, 1),
    filters: tuple[int, int] = (32, 64),
    hidden: int = 128,
    dropout: tuple[float, float] = (0.25, 0.5),
) -> Model:
    """The EMNIST CNN of Reddi et al. (2021), with dropout: 1,206,590 parameters.

    Two 3x3 convolutions (no padding, 32 and 64 channels) with ReLU, 2x2 max-pooling, dropout 0.25, a layer of 128 with
    ReLU, dropout 0.5, and the logits. With `input_shape=(32, 32, 3), num_classes=10` it is the CIFAR-10 model that the
    benchmarks of pfl-research (Granqvist et al., 2024) train: 1,626,442 parameters.

    Args:
      num_classes: number of logits.
      input_shape: height, width and channels of one example.
      filters: channels of the two convolutions.
      hidden: width of the layer before the logits.
      dropout: the shares of units left out after the pooling and before the logits, in [0, 1).

    Returns:
      a Model from `[B, height, width, channels]` floats to logits `[B, num_classes]`. In training it needs a key.

    Raises:
      ValueError, TypeError: for sizes that are not positive ints, rates outside [0, 1), or an image too small; when
        called, for examples of another shape.

    Reference: Reddi et al. (2021), https://arxiv.org/abs/2003.00295; Granqvist et al. (2024),
      https://arxiv.org/abs/2404.06430

    Example:
      >>> import jax
      >>> from fedjaxlite import models
      >>> models.num_params(jax.eval_shape(models.dropout_cnn().init, jax.random.key(0)))
      1206590
    """
    if not isinstance(dropout, (tuple, list)) or len(dropout) != 2:
        given = checks.shown(dropout)
        raise ValueError(f"`dropout` is {given}; expected two rates, after the pooling and before the logits.")
    rates = tuple(checks.fraction(dropout=checks.concrete(dropout=rate)) for rate in dropout)
    options: dict[str, Any] = {
        "filters": _sizes("filters", filters), "dense": (hidden, num_classes), "dropout": rates
    }  # fmt: skip
    pools = (False,) * (len(filters) - 1) + (True,)
    return _conv("dropout_cnn", num_classes, input_shape, options, kernel_size=3, padding="VALID", pools=pools)


def cifar_cnn(
    *,
    num_classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    filters: tuple[int, int] = (64, 64),
    hidden: tuple[int, ...] = (384, 192),
    norm: str | None = None,
) -> Model:
    """The CIFAR-10 CNN of McMahan et al. (2017), after a TensorFlow tutorial: 1,756,426 parameters.

    Two 5x5 convolutions (SAME padding, 64 channels), each with ReLU and 2x2 max-pooling, layers of 384 and 192 with
    ReLU, and the logits. On the paper's 24x24 crops, `input_shape=(24, 24, 3)`, it has 1,068,298 parameters. The
    tutorial pools 3x3 with stride 2 and normalizes local responses; both are left out here.

    Args:
      num_classes: number of logits.
      input_shape: height, width and channels of one example.
      filters: channels of the two convolutions.
      hidden: widths of the layers before the logits.
      norm: None, "batch" (BatchNorm, whose statistics are state; see `losses.Loss.cross_example`) or "group"
        (GroupNorm, which looks at one example alone and so suits clients with unlike data: Hsieh et al., 2020), after
        each convolution.

    Returns:
      a Model from `[B, height, width, channels]` floats to logits `[B, num_classes]`; with BatchNorm its params are
      `Variables`.

    Raises:
      ValueError, TypeError: for sizes that are not positive ints, another `norm`, or an image too small for two
        poolings; when called, for examples of another shape.

    Reference: McMahan et al. (2017), https://arxiv.org/abs/1602.05629; Hsieh et al. (2020),
      https://arxiv.org/abs/1910.00189

    Example:
      >>> import jax
      >>> from fedjaxlite import models
      >>> model = models.cifar_cnn(input_shape=(24, 24, 3))
      >>> models.num_params(jax.eval_shape(model.init, jax.random.key(0)))
      1068298
    """
    norm = checks.one_of((None, "batch", "group"), norm=norm)
    widths = (*_sizes("hidden", hidden), num_classes)
    options: dict[str, Any] = {"filters": _sizes("filters", filters), "dense": widths, "norm": norm}
    return _conv(
        "cifar_cnn", num_classes, input_shape, options, kernel_size=5, padding="SAME", pools=(True,) * len(filters)
    )


def _flat(
    name: str, widths: tuple[int, ...], input_shape: tuple[int, ...], hparams: dict[str, Any], zero_init: bool = False
) -> Model:
    shape = _shape(input_shape)
    size = math.prod(shape)
    inner = from_nnx(lambda rngs: modules.Mlp(size, widths, zero_init=zero_init, rngs=rngs), name=name, hparams=hparams)

    def apply(params: Any, x: Any, *, key: Any = None, train: bool = False, mask: Any = None) -> Any:
        if math.prod(x.shape[1:]) != size:
            raise wrong_input(x, shape, name)
        _floats(x, name)
        return inner.apply(params, x, key=key, train=train, mask=mask)

    return inner._replace(apply=apply, input_shape=shape)


def _conv(
    name: str, num_classes: int, input_shape: tuple[int, ...], options: dict[str, Any], **architecture: Any
) -> Model:
    num_classes = checks.positive_int(num_classes=num_classes)
    shape = _shape(input_shape)
    options = {**options, "dense": _sizes("hidden", options["dense"])}
    if len(shape) != 3:
        raise ValueError(f"`input_shape` is {shape}; expected (height, width, channels) of one image.")
    spec = modules.ConvSpec(**options, **architecture)
    if min(modules.spatial_shape(shape, spec)) < 1:
        raise ValueError(
            f"`input_shape` is {shape}; expected an image large enough that the convolutions and poolings of `{name}` "
            "leave at least one pixel."
        )
    hparams = {**options, "num_classes": num_classes, "input_shape": shape}
    del hparams["dense"]
    hparams["hidden"] = spec.dense[:-1]
    inner = from_nnx(
        lambda rngs: modules.ConvNet(shape, spec, rngs=rngs), input_shape=shape, name=name, hparams=hparams
    )

    def apply(params: Any, x: Any, *, key: Any = None, train: bool = False, mask: Any = None) -> Any:
        _floats(x, name)
        return inner.apply(params, x, key=key, train=train, mask=mask)

    return inner._replace(apply=apply)


def _sizes(name: str, values: tuple[int, ...], remedy: str = "") -> tuple[int, ...]:
    if not isinstance(values, (tuple, list)) or not values:
        raise TypeError(f"`{name}` is {values!r}; expected a tuple of ints of at least 1. {remedy}".rstrip())
    return tuple(checks.positive_int(**{f"{name}[{i}]": value}, remedy=remedy) for i, value in enumerate(values))


def _shape(input_shape: tuple[int, ...]) -> tuple[int, ...]:
    return _sizes("input_shape", input_shape, _SHAPE_REMEDY)


def _floats(x: Any, name: str) -> None:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"`{name}` got x of dtype {x.dtype}; expected floats. Pixels of 0 to 255 become "
            "`x.astype(jnp.float32) / 255`."
        )
