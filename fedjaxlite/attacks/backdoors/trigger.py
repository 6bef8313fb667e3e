"""Triggers: patterns that are stamped on examples, their parts, and the test set on which success is accuracy."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.data.population import Population

CORNERS = ("top_left", "top_right", "bottom_left", "bottom_right")


class Trigger(NamedTuple):
    """A pattern that an example may carry; made by `trigger_pattern`, or by hand.

    Attributes:
      mask: bool, of one example's shape: where the pattern is.
      value: of that shape or a number, in the units of the examples: what stands there.
    """

    mask: Any
    value: Any


def trigger_pattern(
    shape: Sequence[int], *, size: int | Sequence[int] = 3, place: str | Sequence[int] | None = None, value: Any = 1.0
) -> Trigger:
    """A rectangle of one value, in a corner or anywhere.

    Args:
      shape: of one example: (height, width), (height, width, channels), or (length,) for signals and tokens.
      size: of the rectangle, an int or one for each of height and width.
      place: "top_left", "top_right", "bottom_left" or "bottom_right"; or the indices of its first pixel. None is the
        last corner.
      value: what stands there, in the units of the examples: 1.0 is white where pixels are from 0 to 1. A number, or
        one for each channel; may be traced.

    Returns:
      a Trigger.

    Raises:
      TypeError, ValueError: for another number of axes, or a rectangle that does not fit.

    Example:
      >>> trigger_pattern((3, 4), size=2, place="bottom_left").mask.astype(int).tolist()
      [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]
    """
    lengths = _ints("shape", shape)
    if not 1 <= len(lengths) <= 3:
        raise ValueError(
            f"`shape` has {len(lengths)} axes; expected (height, width), (height, width, channels) or (length,)."
        )
    axes = lengths[:2]
    sizes = _ints("size", size, len(axes), least=1)
    if any(s > n for s, n in zip(sizes, axes, strict=True)):
        raise ValueError(f"`size` is {checks.shown(size)}, more than examples of shape {list(lengths)} have room for.")
    first = _place(place, axes, sizes)
    mask = np.zeros(lengths, bool)
    mask[tuple(slice(begin, begin + s) for begin, s in zip(first, sizes, strict=True))] = True
    return Trigger(mask, _value(value, lengths))


def stamp(x: Any, trigger: Trigger) -> jax.Array:
    """Examples with a trigger on them.

    Args:
      x: `[..., *trigger.mask.shape]`; may be traced.
      trigger: a Trigger.

    Returns:
      an array like `x`; the trigger's value is cast to its dtype.

    Raises:
      TypeError, ValueError: for what is no Trigger, or examples of another shape.

    Example:
      >>> stamp(jnp.zeros((1, 2, 2)), trigger_pattern((2, 2), size=1)).tolist()
      [[[0.0, 0.0], [0.0, 1.0]]]
    """
    mask, value = checked(trigger)
    x = jnp.asarray(checks.real_array(shape="[..., *trigger.mask.shape]", narrow=True, x=x))
    if x.ndim < mask.ndim or x.shape[x.ndim - mask.ndim :] != mask.shape:
        raise ValueError(
            f"`trigger` has the shape {list(mask.shape)}, and examples are {list(x.shape[1:])}; expected the shape of "
            "one example, as fl.attacks.trigger_pattern(shape) makes it."
        )
    return jnp.where(jnp.broadcast_to(mask, x.shape), jnp.broadcast_to(value.astype(x.dtype), x.shape), x)


def split_trigger(trigger: Trigger, parts: int) -> tuple[Trigger, ...]:
    """A trigger in parts, which together are the whole.

    Args:
      trigger: a Trigger whose mask is concrete.
      parts: how many, at most as many as it has pixels.

    Returns:
      `parts` Triggers, whose pixels follow each other in reading order, as many each as can be: a 4 x 4 square in 4
      parts is its rows. Channels stay together.

    Raises:
      TypeError, ValueError: for what is no Trigger, or more parts than pixels.

    Example:
      >>> [part.mask.astype(int).tolist() for part in split_trigger(trigger_pattern((2, 2), size=2), 2)]
      [[[1, 1], [0, 0]], [[0, 0], [1, 1]]]
    """
    checked(trigger)
    whole = np.asarray(checks.concrete(**{"trigger.mask": trigger.mask}))
    parts = checks.positive_int(parts=parts)
    pixels = np.flatnonzero(whole.any(axis=-1) if whole.ndim == 3 else whole)
    if parts > len(pixels):
        raise ValueError(f"`parts` is {parts}, and the trigger has {len(pixels)} pixels; expected at most as many.")
    shape = whole.shape[:2]
    masks = []
    for own in np.array_split(pixels, parts):
        here = np.isin(np.arange(int(np.prod(shape))), own).reshape(shape)
        masks.append(whole & (here[..., None] if whole.ndim == 3 else here))
    return tuple(Trigger(mask, trigger.value) for mask in masks)


def triggered(
    test: Population | Mapping[str, Any], trigger: Trigger, target: int, *, x: str = "x", y: str = "y"
) -> dict[str, np.ndarray]:
    """The test set of a backdoor: examples of the other classes, with the trigger, and the target for a label.

    A model's accuracy on it is the attack's success: `fl.evaluate(model, fl.attacks.triggered(test, trigger, 0))`.

    Args:
      test: arrays by name, or a Population.
      trigger: a Trigger.
      target: the attacker's class.
      x: the feature that is stamped.
      y: the feature that holds labels, `[n]`.

    Returns:
      dict of arrays of the rows whose label is another.

    Raises:
      TypeError, ValueError: for features that are not there or of another shape; where all rows are of the target.

    Example:
      >>> test = {"x": np.zeros((3, 2, 2), np.float32), "y": np.int32([0, 1, 2])}
      >>> found = triggered(test, trigger_pattern((2, 2), size=1), target=1)
      >>> found["x"][:, 1, 1].tolist(), found["y"].tolist()
      ([1.0, 1.0], [1, 1])
    """
    features = test.features if isinstance(test, Population) else test
    if not isinstance(features, Mapping):
        raise TypeError(f"`test` is {checks.shown(test)}; expected arrays by name, or a Population.")
    target = checks.nonnegative_int(target=target)
    x, y = checks.text("It names a feature.", x=x, y=y)
    for argument, name in {"x": x, "y": y}.items():
        if name not in features:
            raise ValueError(f"`test` has no feature {name!r}, only {sorted(features)}; name it by `{argument}`.")
    labels = checks.as_array(y, features[y], "labels")
    if labels.ndim != 1:
        raise ValueError(f"the labels {y!r} have the shape {list(labels.shape)}; expected one a row, [n].")
    others = np.flatnonzero(labels != target)
    if not others.size:
        raise ValueError(f"`target` is {target}, as all labels of `test` are; success needs examples of other classes.")
    found = {name: np.asarray(array)[others] for name, array in features.items()}
    return {**found, x: np.asarray(stamp(found[x], trigger)), y: np.full_like(found[y], target)}


def checked(trigger: Any) -> tuple[jax.Array, jax.Array]:
    """A trigger's mask and its value, of the same shape.

    Raises:
      TypeError, ValueError: for what is no Trigger, or a value of another shape.
    """
    checks.one_instance(Trigger, "a Trigger, such as fl.attacks.trigger_pattern(shape)", trigger=trigger)
    checks.numeric_leaves("trigger", trigger)
    mask, value = jnp.asarray(trigger.mask), jnp.asarray(trigger.value)
    if mask.dtype != jnp.bool_:
        raise TypeError(f"`trigger.mask` is {mask.dtype}; expected bool, where the pattern is.")
    if value.shape not in ((), mask.shape):
        raise ValueError(
            f"`trigger.value` has the shape {list(value.shape)}; expected that of the mask, {list(mask.shape)}, or []."
        )
    return mask, jnp.broadcast_to(value, mask.shape)


def _ints(name: str, given: Any, count: int | None = None, least: int = 1) -> tuple[int, ...]:
    check = checks.positive_int if least else checks.nonnegative_int
    if isinstance(given, (list, tuple)):
        found = tuple(check(**{name: item}) for item in given)
    elif count is None:
        raise TypeError(f"`{name}` is {checks.shown(given)}; expected ints, such as (28, 28, 1).")
    else:
        found = (check(**{name: given}),) * count
    if count is not None and len(found) != count:
        raise ValueError(
            f"`{name}` is {checks.shown(given)}; expected {count} ints, one for each axis, or one for all."
        )
    return found


def _place(place: Any, axes: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[int, ...]:
    last = tuple(n - s for n, s in zip(axes, sizes, strict=True))
    if place is None:
        return last
    if isinstance(place, str):
        corner = checks.one_of(CORNERS, "Or give the indices of its first pixel.", place=place)
        if len(axes) != 2:
            raise ValueError(f"`place` is {place!r}, and examples have one axis; expected an index, or None.")
        return (last[0] if corner.startswith("bottom") else 0, last[1] if corner.endswith("right") else 0)
    first = _ints("place", place, len(axes), least=0)
    if any(begin > most for begin, most in zip(first, last, strict=True)):
        raise ValueError(f"`place` is {checks.shown(place)}; expected at most {list(last)}, so that the pattern fits.")
    return first


def _value(value: Any, lengths: tuple[int, ...]) -> Any:
    given = checks.real_array(shape="of a pixel's", narrow=True, value=value)
    if given.ndim == 0:
        return given
    if len(lengths) != 3 or given.shape != lengths[2:]:
        expected = f"a number, or {lengths[2]} of them" if len(lengths) == 3 else "a number"
        raise ValueError(f"`value` has the shape {list(given.shape)}; expected {expected}.")
    return jnp.broadcast_to(given, lengths) if checks.is_traced(given) else np.broadcast_to(given, lengths)
