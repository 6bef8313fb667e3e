"""Feature skew: clients who see the same things differently. Each wraps another partition."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fedjaxlite import checks
from fedjaxlite.data import host_arrays
from fedjaxlite.partition.partitioner import Partitioner


def feature_noise(base: Partitioner, *, std: float, feature: str = "x", seed: int = 0) -> Partitioner:
    """Adds Gaussian noise to one feature, more of it from client to client.

    Client i of N gets noise of variance `std ** 2 * (i + 1) / N`: the last one has standard deviation `std`. Values are
    not clipped back to the range they had.

    Args:
      base: who owns what, such as `iid(10)`.
      std: at least 0, in the feature's own units.
      feature: name of a float feature.
      seed: int of at least 0; a client's noise depends on the seed and its index alone.

    Returns:
      A `Partitioner` with a `transform`.

    Raises:
      TypeError: `base` is no partition; when applied, the feature is not float.
      ValueError: arguments out of range; when applied, there is no such feature.

    Reference:
      Li, Diao, Chen, He (2022), Federated learning on non-IID data silos. https://arxiv.org/abs/2102.02079

    Example:
      >>> import numpy as np
      >>> import fedjaxlite as fl
      >>> partition = fl.partition.feature_noise(fl.partition.iid(2), std=0.5)
      >>> fl.datasets.federate({"x": np.zeros((6, 4))}, partition).client(1)["x"].shape
      (3, 4)
    """
    std = checks.concrete(std=checks.nonnegative(std=std))
    if np.isinf(std):
        raise ValueError(f"`std` is {std}; expected a finite number of at least 0.")
    host_arrays.generator(seed)

    def noisy(array: np.ndarray, client: int, num_clients: int) -> np.ndarray:
        if array.dtype.kind != "f":
            raise TypeError(
                f"`feature_noise` adds to feature {feature!r} of dtype {array.dtype}; expected floats: convert it "
                "first, such as x.astype('float32') / 255."
            )
        scale = std * np.sqrt((client + 1) / num_clients)
        noise = scale * host_arrays.generator(seed, client).standard_normal(array.shape)
        return (array + noise).astype(array.dtype)

    params = {"base": repr(base), "std": std, "feature": feature, "seed": seed}
    return _around("feature_noise", base, params, feature, noisy)


def feature_rotation(
    base: Partitioner, *, angles: Sequence[float] = (0, 90, 180, 270), feature: str = "x"
) -> Partitioner:
    """Rotates every client's images by an angle of its own: client i by `angles[i % len(angles)]`.

    Multiples of 90 degrees are exact; others are interpolated linearly, with the corners filled with zeros.

    Args:
      base: who owns what, such as `iid(8)`.
      angles: degrees, counter-clockwise.
      feature: name of a feature of images `[n, height, width]` or `[n, height, width, channels]`; square ones for
        quarter turns.

    Returns:
      A `Partitioner` with a `transform`.

    Raises:
      TypeError: `base` is no partition.
      ValueError: no angles; when applied, the feature is missing or holds no such images.

    Reference:
      Ghosh, Chung, Yin, Ramchandran (2020), An efficient framework for clustered federated learning.
      https://arxiv.org/abs/2006.04088 (rotated MNIST).

    Example:
      >>> import fedjaxlite as fl
      >>> partition = fl.partition.feature_rotation(fl.partition.iid(1), angles=(90,))
      >>> fl.datasets.federate({"x": [[[1, 2], [3, 4]]]}, partition).client(0)["x"].tolist()
      [[[2, 4], [1, 3]]]
    """
    given = checks.as_array("angles", angles, "at least one finite angle in degrees, such as (0, 90)")
    if given.ndim != 1 or not given.size or given.dtype.kind not in "iuf" or not np.isfinite(given).all():
        raise ValueError(
            f"`angles` is {checks.shown(angles)}; expected at least one finite angle in degrees, such as (0, 90)."
        )
    turns = [float(a) for a in given]

    def rotated(array: np.ndarray, client: int, num_clients: int) -> np.ndarray:
        del num_clients
        angle = turns[client % len(turns)]
        if array.ndim not in (3, 4):
            raise ValueError(
                f"`feature_rotation` turns feature {feature!r} of shape {list(array.shape)}; expected images [n, "
                "height, width] or [n, height, width, channels]."
            )
        if angle % 90 == 0:
            quarter = np.rot90(array, int(angle // 90), axes=(1, 2))
            if quarter.shape != array.shape:
                raise ValueError(
                    f"a turn by {angle:g} degrees changes images of {array.shape[1]} x {array.shape[2]}; expected "
                    "square images: pad them first."
                )
            return quarter
        from scipy import ndimage

        return ndimage.rotate(array, angle, axes=(2, 1), reshape=False, order=1)

    params = {"base": repr(base), "angles": turns, "feature": feature}
    return _around("feature_rotation", base, params, feature, rotated)


def _around(
    name: str,
    base: Partitioner,
    params: Mapping[str, Any],
    feature: str,
    change: Callable[[np.ndarray, int, int], np.ndarray],
) -> Partitioner:
    """`base`, with one feature changed after whatever base itself changes."""
    checks.text(feature=feature)
    if not isinstance(base, Partitioner):
        raise TypeError(f"`base` is {base!r}; expected a partition such as fl.partition.iid(10).")

    def transform(features: dict[str, Any], client: int, num_clients: int) -> dict[str, Any]:
        if base.transform is not None:
            features = dict(base.transform(features, client, num_clients))
        if feature not in features:
            raise ValueError(f"`{name}` changes feature {feature!r}, but the features are {sorted(features)}.")
        return {**features, feature: change(np.asarray(features[feature]), client, num_clients)}

    return base._replace(name=name, params=params, transform=transform)
