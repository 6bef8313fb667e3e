"""The flax.nnx modules behind the image models."""

import math
from typing import NamedTuple

import jax
from flax import nnx

_GLOROT = nnx.initializers.glorot_uniform()


class Mlp(nnx.Module):
    """Dense layers with ReLU between them, on flattened examples."""

    def __init__(self, size: int, widths: tuple[int, ...], *, zero_init: bool = False, rngs: nnx.Rngs):
        kernel_init = nnx.initializers.zeros_init() if zero_init else _GLOROT
        sizes = (size, *widths)
        self.depth = len(widths)
        for index in range(self.depth):
            layer = nnx.Linear(sizes[index], sizes[index + 1], kernel_init=kernel_init, rngs=rngs)
            setattr(self, f"dense_{index}", layer)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, ...]` to `[B, widths[-1]]`."""
        x = x.reshape(x.shape[0], -1)
        for index in range(self.depth):
            x = getattr(self, f"dense_{index}")(x)
            if index < self.depth - 1:
                x = jax.nn.relu(x)
        return x


class ConvSpec(NamedTuple):
    """An architecture: convolutions, then dense layers.

    Attributes:
      filters: channels of the convolutions.
      dense: widths of the dense layers, the number of classes last.
      kernel_size: of every convolution, in pixels.
      padding: "SAME" or "VALID".
      pools: for every convolution, whether 2x2 max-pooling follows.
      norm: None, "batch" or "group", after every convolution.
      dropout: rates after the last convolution and before the logits.
    """

    filters: tuple[int, ...]
    dense: tuple[int, ...]
    kernel_size: int
    padding: str
    pools: tuple[bool, ...]
    norm: str | None = None
    dropout: tuple[float, float] = (0.0, 0.0)


def spatial_shape(input_shape: tuple[int, ...], spec: ConvSpec) -> tuple[int, int]:
    """Height and width after the convolutions, in pixels; below 1 where nothing is left."""
    height, width = input_shape[:2]
    for pool in spec.pools:
        if spec.padding == "VALID":
            height, width = height - spec.kernel_size + 1, width - spec.kernel_size + 1
        if pool:
            height, width = height // 2, width // 2
    return height, width


class ConvNet(nnx.Module):
    """Convolutions with ReLU, some with max-pooling, then dense layers."""

    def __init__(self, input_shape: tuple[int, ...], spec: ConvSpec, *, rngs: nnx.Rngs):
        self.spec = spec
        kernel = (spec.kernel_size, spec.kernel_size)
        channels = (input_shape[-1], *spec.filters)
        for index, features in enumerate(spec.filters):
            conv = nnx.Conv(channels[index], features, kernel, padding=spec.padding, kernel_init=_GLOROT, rngs=rngs)
            setattr(self, f"conv_{index}", conv)
            if spec.norm == "batch":
                setattr(self, f"norm_{index}", nnx.BatchNorm(features, momentum=0.9, rngs=rngs))
            if spec.norm == "group":
                groups = math.gcd(32, features)
                setattr(self, f"norm_{index}", nnx.GroupNorm(features, num_groups=groups, rngs=rngs))
        size = math.prod(spatial_shape(input_shape, spec)) * spec.filters[-1]
        sizes = (size, *spec.dense)
        for index, width in enumerate(spec.dense):
            setattr(self, f"dense_{index}", nnx.Linear(sizes[index], width, kernel_init=_GLOROT, rngs=rngs))
        for index, rate in enumerate(spec.dropout):
            if rate:
                setattr(self, f"dropout_{index}", nnx.Dropout(rate, rngs=rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, height, width, channels]` to `[B, dense[-1]]`."""
        for index, pool in enumerate(self.spec.pools):
            x = getattr(self, f"conv_{index}")(x)
            if self.spec.norm is not None:
                x = getattr(self, f"norm_{index}")(x)
            if pool:
                x = nnx.max_pool(x, (2, 2), (2, 2))
            x = jax.nn.relu(x)  # after pooling: the same function, on a quarter of the pixels
        x = self._dropped(0, x).reshape(x.shape[0], -1)
        last = len(self.spec.dense) - 1
        for index in range(last):
            x = jax.nn.relu(getattr(self, f"dense_{index}")(x))
        return getattr(self, f"dense_{last}")(self._dropped(1, x))

    def _dropped(self, index: int, x: jax.Array) -> jax.Array:
        return getattr(self, f"dropout_{index}")(x) if self.spec.dropout[index] else x
