"""W2: the CNN of McMahan et al. (2017) on MNIST-shaped examples, everyone in every round."""

from typing import Any

import numpy as np

import fedjaxlite as fl
from fedjaxlite.benchmarks.limits import w2_cnn as limit
from fedjaxlite.benchmarks.problem import Problem, Workload, batches, dense_layers, images, packed, weights

# clients, examples, B, side of the images, filters, hidden
_SHAPES: dict[str, tuple[Any, ...]] = {
    "full": (4, 200, 20, 28, (32, 64), 512),
    "small": (2, 80, 20, 28, (32, 64), 512),
    "tiny": (2, 6, 3, 8, (2, 3), 4),
}


def build(size: str) -> Problem:
    """4 clients of 200 examples, B = 20, one epoch, SGD: 40 steps a round."""
    num_clients, num_examples, batch_size, side, filters, hidden = _SHAPES[size]
    population = packed(images(num_clients * num_examples, (side, side, 1)), np.full(num_clients, num_examples))
    model = fl.models.cnn(input_shape=(side, side, 1), filters=filters, hidden=hidden)
    return Problem(
        loss_fn=fl.losses.cross_entropy(model),
        params=weights(model),
        population=population,
        sampler=fl.sampling.full(num_clients),
        rows=batches(population.offsets, range(num_clients), batch_size),
        to_limit=lambda params: limit.Params(dense_layers(params, "conv_"), dense_layers(params)),
        plain_loss=limit.plain_loss,
        fast_loss=limit.fast_loss,
        learning_rate=0.05,
    )


WORKLOAD = Workload("w2", "MNIST CNN", build)
