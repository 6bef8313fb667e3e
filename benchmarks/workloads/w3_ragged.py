"""W3: logistic regression on many clients of very unlike sizes, everyone in every round."""

import statistics

import numpy as np

import fedjaxlite as fl
from fedjaxlite.benchmarks.limits import w3_ragged as limit
from fedjaxlite.benchmarks.problem import Problem, Workload, batches, dense_layers, images, packed, weights

_SHAPES = {"full": (500, 1000), "small": (100, 400), "tiny": (6, 25)}
_MEDIAN, _SIGMA, _BATCH = 20.0, 1.3, 10


def lognormal_sizes(num_clients: int, largest: int) -> np.ndarray:
    """Quantiles of a lognormal distribution with median 20 and sigma 1.3, cut to [1, largest], in mixed order."""
    normal = statistics.NormalDist()
    z = np.array([normal.inv_cdf((i + 0.5) / num_clients) for i in range(num_clients)])
    sizes = np.clip(np.round(_MEDIAN * np.exp(_SIGMA * z)), 1, largest).astype(np.int64)
    sizes[-1] = largest
    return np.random.default_rng(0).permutation(sizes)


def build(size: str) -> Problem:
    """500 clients with a median of 20 examples and a largest of 1,000; 60 features, 10 classes, B = 10, one epoch."""
    sizes = lognormal_sizes(*_SHAPES[size])
    population = packed(images(int(sizes.sum()), (60,)), sizes)
    model = fl.models.logistic(num_classes=10, input_shape=(60,))
    return Problem(
        loss_fn=fl.losses.cross_entropy(model),
        params=weights(model),
        population=population,
        sampler=fl.sampling.full(len(sizes)),
        rows=batches(population.offsets, range(len(sizes)), _BATCH),
        to_limit=lambda params: dense_layers(params)[0],
        plain_loss=limit.plain_loss,
        fast_loss=limit.fast_loss,
        learning_rate=0.05,
        lanes=(1, 4, 16, 64),
    )


WORKLOAD = Workload("w3", "logistic, ragged clients", build)
