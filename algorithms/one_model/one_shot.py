"""One-shot averaging: every client trains to the end, once, and the server averages what they found.

    client k:   w_k = trained from the first model w_0 for as long as it takes              AVGM
                w_k = (w_k - r v_k) / (1 - r),  v_k trained likewise on r n_k of its examples     SAVGM
    server:     w   = sum_k n_k w_k / sum_k n_k,  over all clients of all rounds so far

The subsampled variant (SAVGM) takes out the bias of order 1 / n_k that a nonlinear estimate on n_k examples has and
averaging leaves: the bias of v_k is 1 / r times as large, so the combination has none of that order.

Every client trains from w_0, in whichever round it takes part; so the clients may come in cohorts, over as many rounds
as one likes, and the result is that of one round with all of them. A client that comes twice counts twice.

Source: Zhang, Duchi, Wainwright (2013), "Communication-Efficient Algorithms for Statistical Optimization",
https://arxiv.org/abs/1209.4129 (AVGM and SAVGM).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

import fedjaxlite as fl


class OneShotState(NamedTuple):
    """The server's state.

    Attributes:
      params: the mean model so far; the first model before any client took part.
      start: the first model, from which every client trains.
      weight: float32 scalar, the total weight of the clients so far.
    """

    params: Any
    start: Any
    weight: jax.Array


def one_shot(
    loss_fn: Callable[..., Any],
    *,
    client_optimizer: optax.GradientTransformation,
    subsample: float | None = None,
    batch_size: int | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    shuffle: bool = True,
    lower: bool | Literal["auto"] = "auto",
) -> fl.Algorithm:
    """One-shot averaging of models that clients trained to the end (AVGM), or its bias-corrected variant (SAVGM).

    Args:
      loss_fn: `(params, batch, key) -> [B]`, one loss per example, or `([B], LossAux)`.
      client_optimizer: optax optimizer of the local training.
      subsample: r, in (0, 1): the share of its examples on which a client trains a second time to take out the bias;
        None is AVGM. The ceil(r n_k) examples follow each other in the stored order, from a place drawn for the client:
        a sample without replacement if that order is random, as the paper's independent examples are. A client whose
        r n_k rounds up to n_k leaves the correction out.
      batch_size: B; None is the full batch.
      epochs: passes over a client's data, exactly one of this and `steps`: as many as it takes to the minimum.
      steps: local steps.
      shuffle: draw a new order every epoch; False keeps the stored order.
      lower: see `fedjaxlite.value_and_grad`.

    Returns:
      an `fl.Algorithm`. Take every client once: `fl.sampling.full` for one round, or `fl.sampling.replay`. A client
      weighs as many as it has examples; its info is that of `fed_avg`. The weight of a round is its aggregate's, so
      rounds add up rightly under `fl.weighted_mean()` and `fl.mean()`.

    Raises:
      TypeError, ValueError: for arguments out of range, or unless exactly one of `epochs` and `steps` is given.

    Source: Zhang et al. (2013), https://arxiv.org/abs/1209.4129.

    Example:
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> one_shot(loss, client_optimizer=optax.sgd(0.5), steps=100, subsample=0.5).name
      'one_shot'
    """
    epochs, steps = fl.checks.trip_count(epochs=epochs, steps=steps)
    local: dict[str, Any] = {"batch_size": batch_size, "epochs": epochs, "steps": steps, "shuffle": shuffle}
    train = fl.local_sgd(loss_fn, client_optimizer=client_optimizer, lower=lower, **local)
    if subsample is not None:
        subsample = fl.checks.probability(subsample=fl.checks.concrete(subsample=subsample))
        if subsample == 1:
            raise ValueError("`subsample` is 1; expected a number in (0, 1), or None for no correction.")

    def corrected(result: fl.LocalResult, start: Any, data: fl.ClientData) -> Any:
        """The delta of (w - r v) / (1 - r), with the r that the client's subsample has."""
        part = train(start, _some_of(data, subsample))
        size = jnp.ceil(jnp.float32(subsample) * data.num_examples.astype(jnp.float32))
        r = size / jnp.maximum(data.num_examples.astype(jnp.float32), 1.0)
        r = jnp.where(r < 1, r, 0.0)
        mixed = lambda d, s: (d - r.astype(d.dtype) * s) / (1 - r).astype(d.dtype)  # noqa: E731
        return fl.with_trainable(
            result.delta, jax.tree.map(mixed, fl.trainable(result.delta), fl.trainable(part.delta))
        )

    def client_update(start: Any, client_state: Any, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        del key  # local training takes its keys from the client's view
        result = train(start, data)
        delta = result.delta if subsample is None else corrected(result, start, data)
        info = {**result.metrics, "local_steps": result.num_steps}
        return fl.ClientOutput(delta, result.num_examples, client_state=client_state, info=info)

    def server_update(state: OneShotState, aggregate: fl.Aggregate, key: jax.Array) -> OneShotState:
        del key
        total = state.weight + aggregate.weight
        share = aggregate.weight / jnp.where(total > 0, total, 1.0)

        def mixed(old: jax.Array, start: jax.Array, delta: jax.Array) -> jax.Array:
            return old + share.astype(old.dtype) * (start - delta.astype(old.dtype) - old)

        return OneShotState(jax.tree.map(mixed, state.params, state.start, aggregate.value), state.start, total)

    return fl.Algorithm(
        lambda params: OneShotState(params, params, jnp.float32(0.0)),
        client_update,
        server_update,
        broadcast=lambda state: state.start,
        name="one_shot",
        hparams={"subsample": subsample, **local},
    )


def _some_of(data: fl.ClientData, share: Any) -> fl.ClientData:
    """A view of so large a share of a client's examples that follow each other, from a random first one."""
    size_of = lambda n: jnp.ceil(jnp.float32(share) * n.astype(jnp.float32)).astype(jnp.int32)  # noqa: E731
    size = size_of(data.num_examples)
    first = jax.random.randint(jax.random.fold_in(data.key, 3), (), 0, data.num_examples - size + 1)
    wave = data.wave._replace(num_examples=size_of(data.wave.num_examples))
    return replace(data, offset=data.offset + first, num_examples=size, wave=wave)
