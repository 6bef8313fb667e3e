"""Synthetic(alpha, beta): classification in which every device has its own model and its own distribution."""

import numpy as np

from fedjaxlite import checks
from fedjaxlite.data import host_arrays
from fedjaxlite.data.population import Population


def load(
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    num_clients: int = 30,
    iid: bool = False,
    num_features: int = 60,
    num_classes: int = 10,
    seed: int = 0,
) -> tuple[Population, Population]:
    """Draws the synthetic data set of FedProx.

    Device k holds n_k = floor(exp(4 + 2 z)) + 50 examples (z standard normal) with y = argmax(W_k x + b_k), where

        u_k ~ N(0, alpha),   W_k, b_k ~ N(u_k, 1)
        B_k ~ N(0, beta),    v_k ~ N(B_k, 1)          beta: how much the devices' features differ
        x ~ N(v_k, S),       S diagonal, S_jj = j^-1.2

    As in the authors' program, alpha and beta are standard deviations, and one u_k centers both W_k and b_k. It so adds
    the same to every class's score and cancels in the argmax: alpha names the data set, and changes nothing; the models
    differ by their own N(0, 1). With `iid=True` all devices share W, b ~ N(0, 1), and v = 0. The first nine tenths of
    each device train, the rest test.

    Args:
      alpha: standard deviation of u_k, at least 0.
      beta: standard deviation of B_k, at least 0.
      num_clients: N.
      iid: one model and one distribution for all; alpha and beta do not matter then.
      num_features: length of x.
      num_classes: C.
      seed: int of at least 0. Device k is drawn from (seed, k) alone: it is the same for any number of devices.

    Returns:
      `(train, test)`, Populations of the same N devices: x float32 `[n, num_features]`, y int32 `[n]`.

    Raises:
      ValueError: arguments out of range.

    Reference:
      Li et al. (2020), Federated optimization in heterogeneous networks. https://arxiv.org/abs/1812.06127

    Example:
      >>> import fedjaxlite as fl
      >>> train, test = fl.datasets.load("synthetic", alpha=0.5, beta=0.5, num_clients=3, seed=1)
      >>> train.num_clients, train.client(0)["x"].shape[1]
      (3, 60)
    """
    alpha, beta = checks.nonnegative(alpha=alpha, beta=beta)
    num_clients, num_features, num_classes = checks.positive_int(
        num_clients=num_clients, num_features=num_features, num_classes=num_classes
    )
    spread = np.arange(1, num_features + 1) ** -0.6
    train, test = [], []
    for k in range(num_clients):
        rng = host_arrays.generator(seed, 1, k)
        size = int(np.exp(4 + 2 * rng.standard_normal())) + 50
        if iid:
            model = host_arrays.generator(seed, 0)
            center, mean = 0.0, np.zeros(num_features)
        else:
            model = rng
            center = alpha * rng.standard_normal()
            mean = beta * rng.standard_normal() + rng.standard_normal(num_features)
        weights = center + model.standard_normal((num_features, num_classes))
        bias = center + model.standard_normal(num_classes)
        x = mean + spread * rng.standard_normal((size, num_features))
        client = {"x": x.astype(np.float32), "y": np.argmax(x @ weights + bias, axis=1).astype(np.int32)}
        cut = int(0.9 * size)
        train.append({name: array[:cut] for name, array in client.items()})
        test.append({name: array[cut:] for name, array in client.items()})
    names = np.arange(num_clients)
    return Population.from_clients(train, names=names), Population.from_clients(test, names=names)
