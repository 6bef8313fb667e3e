"""W4: the character LSTM of McMahan et al. (2017), everyone in every round."""

from typing import Any

import numpy as np

import fedjaxlite as fl
from fedjaxlite.benchmarks.limits import w4_lstm as limit
from fedjaxlite.benchmarks.problem import Problem, Workload, batches, dense_layers, packed, weights

# clients, sequences, time steps, B, vocabulary, hidden
_SHAPES = {"full": (8, 40, 80, 4, 90, 256), "small": (4, 12, 80, 4, 90, 256), "tiny": (2, 4, 5, 2, 7, 3)}


def _limit_params(params: Any) -> limit.Params:
    layers = [params["lstm_0"], params["lstm_1"]]
    weights = [(layer["kernel"], layer["recurrent"], layer["bias"]) for layer in layers]
    return limit.Params(params["embedding"], weights, dense_layers({"dense_0": params["logits"]})[0])


def build(size: str) -> Problem:
    """8 clients of 40 sequences of 80 characters, two layers of 256, B = 4, one epoch: 80 steps a round."""
    num_clients, num_sequences, length, batch_size, vocab_size, hidden = _SHAPES[size]
    # No zeros: the loss takes 0 for padding, and every token is to count.
    text = np.random.default_rng(0).integers(1, vocab_size, (num_clients * num_sequences, length + 1), np.int32)
    features = {"x": np.ascontiguousarray(text[:, :-1]), "y": np.ascontiguousarray(text[:, 1:])}
    population = packed(features, np.full(num_clients, num_sequences))
    model = fl.models.char_lstm(vocab_size=vocab_size, hidden=hidden)
    return Problem(
        loss_fn=fl.losses.sequence_cross_entropy(model),
        params=weights(model),
        population=population,
        sampler=fl.sampling.full(num_clients),
        rows=batches(population.offsets, range(num_clients), batch_size),
        to_limit=_limit_params,
        plain_loss=limit.plain_loss,
        fast_loss=limit.fast_loss,
        learning_rate=0.5,
    )


WORKLOAD = Workload("w4", "char-LSTM 2x256", build)
