"""How the windows of a convolution or a pool lie along the axes of an array, and how to cut them out."""

from collections.abc import Sequence
from typing import NamedTuple

from jax import Array, lax

MAX_SLICES = 64
"""An operation whose overlapping windows need more slices than this stays as it is: each is a piece to compile."""


class Span(NamedTuple):
    """The windows along one axis.

    Attributes:
      size: entries in a window.
      stride: entries from one window to the next.
      dilation: entries from one entry of a window to the next.
      number: windows along the axis.
      low: entries of padding in front; negative where entries are left out.
      high: entries of padding behind that the last window reaches; negative where no window reaches the end.
      interior: entries of padding between neighbors.
    """

    size: int
    stride: int
    dilation: int
    number: int
    low: int
    high: int
    interior: int

    @property
    def tiles(self) -> bool:
        """Whether the padded axis is the windows one after the other, so that a reshape cuts them out."""
        return self.dilation == 1 and (self.stride == self.size or self.number == 1)


def spans(
    shape: Sequence[int],
    sizes: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    base_dilation: Sequence[int],
    window_dilation: Sequence[int],
) -> tuple[Span, ...]:
    """The windows along each axis of an array, from XLA's parameters; all arguments have one entry an axis.

    Returns:
      One `Span` an axis, whose padding is cut to what the windows reach. `number` is 0 or less where no window fits.
    """

    def span(n: int, size: int, stride: int, pad: tuple[int, int], base: int, dilation: int) -> Span:
        length = (n - 1) * base + 1
        reach = (size - 1) * dilation + 1
        count = (pad[0] + length + pad[1] - reach) // stride + 1
        return Span(size, stride, dilation, count, pad[0], (count - 1) * stride + reach - pad[0] - length, base - 1)

    return tuple(map(span, shape, sizes, strides, padding, base_dilation, window_dilation))


def can_cut(windows: Sequence[Span]) -> bool:
    """Whether there is a window on every axis, and few enough slices to write out."""
    slices = sum(span.size for span in windows if not span.tiles)
    return all(span.number > 0 for span in windows) and slices <= MAX_SLICES


def pad(x: Array, windows: Sequence[Span], value: float) -> Array:
    """Pads and crops `x` to exactly what the windows reach; `windows` has one entry an axis."""
    config = [(span.low, span.high, span.interior) for span in windows]
    if all(entry == (0, 0, 0) for entry in config):
        return x
    return lax.pad(x, lax.full((), value, x.dtype), config)


def pieces(x: Array, axis: int, span: Span) -> list[Array]:
    """The first, second ... entry of every window along a padded axis: `span.size` arrays, `span.number` long there."""

    def piece(i: int) -> Array:
        start = i * span.dilation
        return lax.slice_in_dim(x, start, start + (span.number - 1) * span.stride + 1, span.stride, axis)

    return [piece(i) for i in range(span.size)]


def split(x: Array, windows: Sequence[Span]) -> tuple[Array, tuple[int, ...]]:
    """Cuts tiling windows out of a padded array by a reshape.

    Returns:
      The array with every axis of windows of more than one entry split in two, count and size; and the positions of
      the axes of sizes.
    """
    shape: list[int] = []
    inside: list[int] = []
    for span in windows:
        shape.append(span.number)
        if span.size > 1:
            inside.append(len(shape))
            shape.append(span.size)
    return lax.reshape(x, shape), tuple(inside)
