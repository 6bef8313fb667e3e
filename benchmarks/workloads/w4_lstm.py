"""W4: the character LSTM of McMahan et al. (2017), everyone in every round."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

import fedjaxlite as fl
from fedjaxlite.benchmarks.limits import w4_lstm as limit
from fedjaxlite.benchmarks.problem import Problem, Workload, Written, batches, dense_layers, packed, weights

_EMBED = 8
# clients, sequences, time steps, B, vocabulary, hidden
_SHAPES = {"full": (8, 40, 80, 4, 90, 256), "small": (4, 12, 80, 4, 90, 256), "tiny": (2, 4, 5, 2, 7, 3)}


def _limit_params(params: Any) -> limit.Params:
    layers = [params["lstm_0"], params["lstm_1"]]
    weights = [(layer["kernel"], layer["recurrent"], layer["bias"]) for layer in layers]
    return limit.Params(params["embedding"], weights, dense_layers({"dense_0": params["logits"]})[0])


class _Recurrent(nnx.Module):
    """The model as one writes it with Flax."""

    def __init__(self, vocab_size: int, hidden: int, *, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(vocab_size, _EMBED, rngs=rngs)
        self.lstm_0 = nnx.RNN(nnx.LSTMCell(_EMBED, hidden, rngs=rngs), rngs=rngs)
        self.lstm_1 = nnx.RNN(nnx.LSTMCell(hidden, hidden, rngs=rngs), rngs=rngs)
        self.logits = nnx.Linear(hidden, vocab_size, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        first: Any = self.lstm_0(self.embed(x))
        second: Any = self.lstm_1(first)
        return self.logits(second)


def _with_nnx(vocab_size: int, hidden: int, length: int) -> Written:
    model = fl.models.from_nnx(lambda rngs: _Recurrent(vocab_size, hidden, rngs=rngs), input_shape=(length,))

    def to_limit(params: Any) -> limit.Params:
        def layer(cell: Any) -> tuple[Any, Any, Any]:
            kernels = [cell[name]["kernel"] for name in ("ii", "if_", "ig", "io")]
            gates = [cell[name] for name in ("hi", "hf", "hg", "ho")]
            recurrent = jnp.concatenate([gate["kernel"] for gate in gates], axis=1)
            return jnp.concatenate(kernels, axis=1), recurrent, jnp.concatenate([gate["bias"] for gate in gates])

        layers = [layer(params[name]["cell"]) for name in ("lstm_0", "lstm_1")]
        logits = params["logits"]["kernel"], params["logits"]["bias"]
        return limit.Params(params["embed"]["embedding"], layers, logits)

    return Written(fl.losses.sequence_cross_entropy(model), weights(model), to_limit)


def _with_scan(params: limit.Params) -> Written:
    return Written(limit.plain_losses, params, lambda params: params)


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
        written={
            "nnx.RNN": _with_nnx(vocab_size, hidden, length),
            "lax.scan": _with_scan(_limit_params(weights(model))),
        },
    )


WORKLOAD = Workload("w4", "char-LSTM 2x256", build)
