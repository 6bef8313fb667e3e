"""Encoded images as pixels."""

import io
import os
from typing import Any

import numpy as np

from fedjaxlite import checks

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def channels_of(channels: Any) -> int | None:
    """The argument `channels` of a reader: 1, 3, 4 or None for those of the first image."""
    return None if channels is None else checks.one_of((1, 3, 4), channels=channels)


def pixels(image: Any, channels: int | None, what: str) -> np.ndarray:
    """An image as uint8 `[height, width, channels]`.

    Args:
      image: encoded bytes, a path, or an image of Pillow's.
      channels: 1, 3 or 4; None keeps what the image has, where that is one of these, and makes RGB of the rest.
      what: the image, for messages.

    Raises:
      ModuleNotFoundError: Pillow is not installed. ValueError: it is no image that Pillow reads.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("reading images needs Pillow; pip install pillow.") from error
    if isinstance(image, Image.Image):
        return _array(image, channels, what)
    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else os.fspath(image)) as opened:
            return _array(opened, channels, what)
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{what} is no image that Pillow reads ({error}).") from error


def as_floats(array: np.ndarray) -> np.ndarray:
    """Pixels of 0 to 255 as float32 in [0, 1], as all data sets here have them."""
    return array.astype(np.float32) / np.float32(255)


def _array(image: Any, channels: int | None, what: str) -> np.ndarray:
    if image.mode.startswith(("I", "F")):
        raise ValueError(
            f"{what} has mode {image.mode!r}, whose pixels are not 0 to 255; bring images to 8 bits a channel first."
        )
    mode = _MODES[channels] if channels else {"1": "L", "L": "L", "RGBA": "RGBA"}.get(image.mode, "RGB")
    array = np.asarray(image if image.mode == mode else image.convert(mode))
    return array.reshape(*array.shape[:2], -1)
