"""W1: the 2NN of McMahan et al. (2017) on MNIST-shaped examples, everyone in every round."""

import numpy as np

import fedjaxlite as fl
from fedjaxlite.benchmarks.limits import w1_mlp as limit
from fedjaxlite.benchmarks.problem import Problem, Workload, batches, dense_layers, images, packed, weights

_SHAPES = {"full": (20, 600, 10, 200), "small": (8, 200, 10, 200), "tiny": (3, 8, 4, 5)}


def build(size: str) -> Problem:
    """20 clients of 600 examples, B = 10, one epoch, SGD: 1,200 steps a round."""
    num_clients, num_examples, batch_size, hidden = _SHAPES[size]
    side = 28 if size != "tiny" else 4
    population = packed(images(num_clients * num_examples, (side, side, 1)), np.full(num_clients, num_examples))
    model = fl.models.mlp(features=(hidden, hidden, 10), input_shape=(side, side, 1))
    return Problem(
        loss_fn=fl.losses.cross_entropy(model),
        params=weights(model),
        population=population,
        sampler=fl.sampling.full(num_clients),
        rows=batches(population.offsets, range(num_clients), batch_size),
        to_limit=dense_layers,
        plain_loss=limit.plain_loss,
        fast_loss=limit.fast_loss,
        learning_rate=0.05,
    )


WORKLOAD = Workload("w1", "2NN", build)
