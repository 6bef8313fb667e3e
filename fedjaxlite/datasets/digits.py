"""The small handwritten digits that come with scikit-learn."""

from typing import Any

import numpy as np

from fedjaxlite.data import host_arrays


def load() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """1,797 images of handwritten digits, always split the same way.

    Returns:
      `(train, test)`, 1,438 and 359 examples in a fixed random order, a fifth of every class in the test part:
      x float32 `[n, 8, 8, 1]` in [0, 1], y int32 `[n]` in [0, 10).

    Raises:
      ModuleNotFoundError: scikit-learn is not installed.

    Reference:
      Kaynak (1995), Methods of combining multiple classifiers and their applications to handwritten digit recognition;
      the test set of https://archive.ics.uci.edu/dataset/80

    Example:
      >>> import fedjaxlite as fl
      >>> train, test = fl.datasets.load("digits")
      >>> train["x"].shape, float(train["x"].max())
      ((1438, 8, 8, 1), 1.0)
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the data set 'digits' comes with scikit-learn; pip install scikit-learn.") from error
    bundle: Any = load_digits()
    x = (bundle["images"] / 16.0).astype(np.float32)[..., None]
    y = bundle["target"].astype(np.int32)
    rng = host_arrays.generator(0)
    order = rng.permutation(len(y))
    in_test = np.zeros(len(y), bool)
    for label in range(10):
        rows = order[y[order] == label]
        in_test[rows[: round(0.2 * len(rows))]] = True
    train, test = order[~in_test[order]], order[in_test[order]]
    return {"x": x[train], "y": y[train]}, {"x": x[test], "y": y[test]}
