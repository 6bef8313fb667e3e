"""W5: the CIFAR-10 setting of pfl-research's benchmarks: 1,000 users of 50 examples, cohorts of 50.

Granqvist et al. (2024), https://arxiv.org/abs/2404.06430: simple CNN with dropout, one local epoch, B = 10.
"""

from typing import Any

import numpy as np

import fedjaxlite as fl
from fedjaxlite.benchmarks.limits import w5_cifar as limit
from fedjaxlite.benchmarks.problem import Problem, Workload, batches, dense_layers, images, packed, weights

# users, cohort, examples, B, side of the images, filters, hidden
_SHAPES: dict[str, tuple[Any, ...]] = {
    "full": (1000, 50, 50, 10, 32, (32, 64), 128),
    "small": (50, 4, 50, 10, 32, (32, 64), 128),
    "tiny": (4, 2, 6, 3, 8, (2, 3), 4),
}


def build(size: str, dropout: tuple[float, float] = (0.25, 0.5)) -> Problem:
    """A cohort of 50 users of 50 examples, B = 10, one epoch, SGD at 0.1: 250 steps a round."""
    num_clients, cohort, num_examples, batch_size, side, filters, hidden = _SHAPES[size]
    population = packed(images(num_clients * num_examples, (side, side, 3)), np.full(num_clients, num_examples))
    model = fl.models.dropout_cnn(
        num_classes=10, input_shape=(side, side, 3), filters=filters, hidden=hidden, dropout=dropout
    )
    return Problem(
        loss_fn=fl.losses.cross_entropy(model),
        params=weights(model),
        population=population,
        sampler=fl.sampling.uniform(cohort),
        rows=batches(population.offsets, range(cohort), batch_size),
        to_limit=lambda params: limit.Params(dense_layers(params, "conv_"), dense_layers(params)),
        plain_loss=limit.plain_loss(dropout),
        fast_loss=limit.fast_loss(dropout),
        learning_rate=0.1,
    )


WORKLOAD = Workload("w5", "CIFAR CNN", build)
