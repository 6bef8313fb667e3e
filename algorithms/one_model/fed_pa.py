"""FedPA: federated posterior averaging. Clients sample their local posterior and send a covariance-corrected delta.

    client k:   local SGD from w; after a burn-in, the mean of every S iterates is one sample s_1 .. s_l
                delta_k = C^-1 (w - m),   m = mean of the samples
                C = r I + (1 - r) cov(s),   r = 1 / (1 + (l - 1) rho)
    server:     w = server_optimizer(w, mean of delta_k)

Clients whose posteriors are narrow pull harder, so that the fixed point is the mode of the product of the local
posteriors and not a mean of local modes. With rho = 0, C is the identity: federated averaging of averaged iterates. C
is never formed: each sample adds a rank-one term, and its inverse is applied by Sherman and Morrison's formula, in time
O(l^2 d) and memory O(l d) for d parameters.

Source: Al-Shedivat, Gillenwater, Xing, Rostamizadeh (2021), "Federated Learning via Posterior Averaging: A New
Perspective and Practical Algorithms", https://arxiv.org/abs/2010.05273, algorithms 2 to 4 and appendix C.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

import fedjaxlite as fl
from fedjaxlite.algorithms.pieces.length import local_length


class ServerState(NamedTuple):
    """The server's model, its optimizer's state, and the number of rounds that changed it.

    Attributes:
      params: the model.
      optimizer_state: the server optimizer's.
      round: int32 scalar; decides when clients begin to send corrected deltas.
    """

    params: Any
    optimizer_state: Any
    round: jax.Array


class _Shared(NamedTuple):
    params: Any
    sampling: jax.Array


class _Recorder(NamedTuple):
    inner: Any
    samples: Any
    step: jax.Array


def fed_pa(
    loss_fn: Callable[..., Any],
    *,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    rho: Any,
    num_samples: int,
    steps_per_sample: int,
    burn_in_steps: int = 0,
    burn_in_rounds: int = 0,
    batch_size: int | None = 10,
    epochs: int | None = None,
    steps: int | None = None,
    shuffle: bool = True,
    lower: bool | Literal["auto"] = "auto",
) -> fl.Algorithm:
    """Federated posterior averaging with samples from averaged SGD iterates (IASG).

    Args:
      loss_fn: `(params, batch, key) -> [B]`, one loss per example, or `([B], LossAux)`.
      client_optimizer: optax optimizer of the local steps, which is the sampler: SGD, maybe with momentum.
      server_optimizer: optax optimizer that gets the mean delta for a gradient; None is SGD with rate 1. Corrected
        deltas are longer than plain ones, by up to 1 + (num_samples - 1) rho, and want a smaller rate.
      rho: shrinkage, at least 0; 0 leaves the covariance out.
      num_samples: l, the most samples of a client, a static int. A lane holds that many models.
      steps_per_sample: S, iterates in the mean that is one sample.
      burn_in_steps: local steps before the first sample.
      burn_in_rounds: rounds in which clients send the plain delta of federated averaging.
      batch_size: B; None is the full batch, whose iterates are no samples, but serves tests.
      epochs: passes over a client's data; or
      steps: a fixed number of local steps; burn_in_steps + num_samples * steps_per_sample if neither is given.
      shuffle: draw a new order every epoch; False keeps the stored order.
      lower: see `fedjaxlite.value_and_grad`.

    Returns:
      an `fl.Algorithm`. A client takes as many whole samples as its steps allow, up to `num_samples`; one that gets
      none done sends the plain delta. Clients weigh as many as they have examples. Statistics that are not trained
      (BatchNorm) are averaged as they are. Its info is that of `fed_avg` and "samples".

    Raises:
      TypeError, ValueError: for arguments out of range, or both `epochs` and `steps`.

    Source: Al-Shedivat et al. (2021), https://arxiv.org/abs/2010.05273, algorithms 2 to 4.

    Example:
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> fed_pa(loss, client_optimizer=optax.sgd(0.1), rho=0.1, num_samples=4, steps_per_sample=5).name
      'fed_pa'
    """
    rho = fl.checks.number(rho=fl.checks.nonnegative(rho=rho))
    num_samples, steps_per_sample = fl.checks.positive_int(num_samples=num_samples, steps_per_sample=steps_per_sample)
    burn_in_steps, burn_in_rounds = fl.checks.nonnegative_int(
        burn_in_steps=burn_in_steps, burn_in_rounds=burn_in_rounds, remedy="0 is for none."
    )
    if epochs is None and steps is None:
        steps = burn_in_steps + num_samples * steps_per_sample
    local = local_length(batch_size=batch_size, epochs=epochs, steps=steps, shuffle=shuffle)
    server = optax.sgd(1.0) if server_optimizer is None else server_optimizer
    fl.check_optimizer(client_optimizer=client_optimizer, server_optimizer=server)
    train = fl.local_sgd(
        loss_fn,
        client_optimizer=_recording(client_optimizer, num_samples, steps_per_sample, burn_in_steps),
        lower=lower,
        **local,
    )

    def init(params: Any) -> ServerState:
        return ServerState(params, server.init(fl.trainable(params)), jnp.int32(0))

    def client_update(shared: _Shared, client_state: Any, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        del key  # local training takes its keys from the client's view
        result = train(shared.params, data)
        count = jnp.clip((result.num_steps - burn_in_steps) // steps_per_sample, 0, num_samples)
        start = fl.trainable(shared.params)
        corrected = posterior_delta(result.optimizer_state.samples, start, rho=rho, count=count)
        sampled = shared.sampling & (count > 0)
        part = jax.tree.map(lambda new, old: jnp.where(sampled, new, old), corrected, fl.trainable(result.delta))
        info = {**result.metrics, "local_steps": result.num_steps, "samples": jnp.where(sampled, count, 0)}
        update = fl.with_trainable(result.delta, part)
        return fl.ClientOutput(update, result.num_examples, client_state=client_state, info=info)

    def server_update(state: ServerState, aggregate: fl.Aggregate, key: jax.Array) -> ServerState:
        del key
        params, optimizer_state = fl.apply_delta(server, state.params, aggregate.value, state.optimizer_state)
        return ServerState(params, optimizer_state, state.round + 1)

    return fl.Algorithm(
        init,
        client_update,
        server_update,
        broadcast=lambda state: _Shared(state.params, state.round >= burn_in_rounds),
        client_params=lambda shared, client_state: shared.params,
        name="fed_pa",
        hparams={
            "rho": rho,
            "num_samples": num_samples,
            "steps_per_sample": steps_per_sample,
            "burn_in_steps": burn_in_steps,
            "burn_in_rounds": burn_in_rounds,
            **local,
        },
    )


def _recording(
    optimizer: optax.GradientTransformation, num_samples: int, steps_per_sample: int, burn_in_steps: int
) -> optax.GradientTransformation:
    """The same optimizer, which keeps the means of its iterates in its state."""

    def init(params: Any) -> _Recorder:
        samples = jax.tree.map(lambda leaf: jnp.zeros((num_samples, *leaf.shape), jnp.float32), params)
        return _Recorder(optimizer.init(params), samples, jnp.int32(0))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, inner = optimizer.update(updates, state.inner, params)
        iterate = optax.apply_updates(params, updates)
        late = state.step - burn_in_steps
        slot = jnp.where(late < 0, num_samples, late // steps_per_sample)  # past the end: dropped

        def add(samples: jax.Array, leaf: jax.Array) -> jax.Array:
            return samples.at[slot].add(leaf.astype(jnp.float32) / steps_per_sample, mode="drop")

        return updates, _Recorder(inner, jax.tree.map(add, state.samples, iterate), state.step + 1)

    return optax.GradientTransformation(init, update)


def posterior_delta(samples: Any, start: Any, *, rho: Any, count: Any = None) -> Any:
    """The product of an inverse shrinkage covariance of samples and the way from their mean to the start.

    Args:
      samples: pytree of floats `[l, ...]`.
      start: pytree of floats `[...]`.
      rho: shrinkage, at least 0.
      count: int32 scalar, how many of the l samples there are, from the first; all, if None.

    Returns:
      pytree like `start`: C^-1 (start - mean), with C = r I + (1 - r) cov of the samples (unbiased) and
      r = 1 / (1 + (count - 1) rho). Computed in float32.

    Source: Al-Shedivat et al. (2021), https://arxiv.org/abs/2010.05273, appendix C.

    Example:
      >>> samples = jnp.array([[0.0, 1.0], [2.0, 1.0]])
      >>> posterior_delta(samples, jnp.array([4.0, 3.0]), rho=1.0).round(3).tolist()
      [2.0, 4.0]
    """
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), start)
    origin, unravel = ravel_pytree(narrow)
    rows = jax.vmap(lambda one: ravel_pytree(one)[0].astype(jnp.float32))(samples)
    length = rows.shape[0]
    count = jnp.asarray(length if count is None else count, jnp.int32)
    rho = jnp.asarray(rho, jnp.float32)
    dot = partial(jnp.dot, precision="highest")  # errors of one step are carried through all that follow

    # With C = r A_t after t samples: A_t = A_{t-1} + gamma u u', u the new sample minus the old mean. `rows` turns from
    # samples into v_t = A_{t-1}^-1 u, one at a time; `factors` holds gamma / (1 + gamma u'v), zero where none is yet.
    def add_sample(carry: Any, index: jax.Array) -> tuple[Any, None]:
        rows, factors, mean, delta = carry
        number = (index + 1).astype(jnp.float32)
        gamma = rho * (number - 1.0) / number
        u = rows[index] - mean
        v = u - dot(factors * dot(rows, u), rows)
        inflation = 1.0 + gamma * dot(u, v)
        new = (
            rows.at[index].set(v),
            factors.at[index].set(gamma / inflation),
            mean + u / number,
            delta - ((gamma * dot(u, delta) + 1.0 / number) / inflation) * v,
        )
        return jax.tree.map(lambda a, b: jnp.where(index < count, a, b), new, carry), None

    first = (rows, jnp.zeros((length,), jnp.float32), rows[0], origin - rows[0])
    (_, _, _, delta), _ = jax.lax.scan(add_sample, first, jnp.arange(1, length, dtype=jnp.int32))
    scale = 1.0 + jnp.maximum(count - 1, 0).astype(jnp.float32) * rho
    return jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), unravel(delta * scale), start)
