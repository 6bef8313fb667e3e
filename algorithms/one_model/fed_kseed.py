"""FedKSeed: zero-order steps along directions that K shared seeds make, so that a client sends K scalars.

    client k:   y = w, then local steps with j drawn from 1 .. K, z = z(j) ~ N(0, I)
                    g = (f(y + eps z) - f(y - eps z)) / (2 eps)         a slope, by two evaluations
                    y = y - eta g z                 u_k[j] += eta g
                sends u_k, the K sums of its steps along each direction:  w - y = sum_j u_k[j] z(j)
    server:     s = s - mean_k u_k,     w = w_0 + sum_j s[j] z(j)

The same seed makes the same direction on both sides, so that models never cross: a client downloads s, and adds it to
the first model, which it has. 4,096 scalars are 16,384 bytes each way, whatever the model. Computation is the price, d
normal numbers for each direction, and speed: a step goes along one direction of d. The paper tunes models that are
pretrained.

Source: Qin, Chen, Qian, Ding, Li, Deng (2023), "Federated Full-Parameter Tuning of Billion-Sized Language Models with
Communication Cost under 18 Kilobytes", https://arxiv.org/abs/2312.06353, algorithm 1 (uniform draws, not FedKSeed-Pro).
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

import fedjaxlite as fl
from fedjaxlite.algorithms.pieces.length import local_length
from fedjaxlite.algorithms.pieces.local_steps import Gradient, Length, local_steps

_DRAW = 3
"""What a client's key is folded with for its draws; the view of its data takes 0 to 2."""


class KSeedState(NamedTuple):
    """The server's state.

    Attributes:
      params: w, the model: the first one and all steps since.
      sums: float32 `[K]`, s, how far it went along each direction.
      optimizer_state: the server optimizer's, for the sums.
    """

    params: Any
    sums: jax.Array
    optimizer_state: Any


class KSeedShared(NamedTuple):
    """What a client needs.

    Attributes:
      params: w, which a client makes of the first model and the sums, and does not download.
      sums: float32 `[K]`, what it does.
    """

    params: Any
    sums: jax.Array


class _Carry(NamedTuple):
    params: Any
    update: jax.Array
    sums: Any
    weight: jax.Array
    steps: jax.Array


class _Point(NamedTuple):
    params: Any
    direction: Any


def fed_kseed(
    loss_fn: Callable[..., Any],
    *,
    client_lr: Any,
    server_optimizer: optax.GradientTransformation | None = None,
    num_seeds: int = 4096,
    perturbation: Any = 5e-4,
    seed: int = 0,
    batch_size: int | None = 10,
    epochs: int | None = None,
    steps: int | None = None,
    shuffle: bool = True,
    lower: bool | Literal["auto"] = "auto",
) -> fl.Algorithm:
    """FedKSeed: a client's update is one number for each of K shared directions.

    Args:
      loss_fn: `(params, batch, key) -> [B]`, one loss per example, or `([B], LossAux)`. It is only evaluated.
      client_lr: eta, a number above 0 or a tracer. g z is the gradient in the mean, but its square is about d times as
        large, d being the number of parameters: rates are as many times below those of SGD.
      server_optimizer: optax optimizer that gets the mean of the clients' sums for a gradient; None is SGD with rate 1,
        which makes the mean of the clients' models the new model.
      num_seeds: K, directions in the pool.
      perturbation: eps, how far from the model the loss is evaluated, a number above 0 or a tracer.
      seed: of the pool: another int, other directions.
      batch_size: B; None is the full batch.
      epochs: passes over a client's data; 1 if neither is given.
      steps: a fixed number of local steps instead of epochs.
      shuffle: draw a new order every epoch; False keeps the stored order.
      lower: see `fedjaxlite.value_and_grad`.

    Returns:
      an `fl.Algorithm`. Updates are float32 `[K]` and may be clipped, noised, summed and masked as any other. A client
      weighs as many as it has examples; its info is "loss" and the loss's metrics (the mean of each two evaluations),
      and "local_steps". The server's step draws d normal numbers for each direction that a client of the round went
      along (for all K under a server optimizer with momentum), one direction after the other, in the memory of one. A
      real client does K d such work to make the model of the sums; a simulation spares it.

    Raises:
      TypeError, ValueError: for arguments out of range; when a run begins, for a model with statistics that are not
        trained (BatchNorm), which no direction reaches.

    Guarantees:
      The model is the first one and the sums along their directions (`kseed_model`), up to rounding. The slope is exact
      for a linear loss, up to rounding, whatever `perturbation` is.

    Source: Qin et al. (2023), https://arxiv.org/abs/2312.06353, algorithm 1.

    Example:
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> fed_kseed(loss, client_lr=0.1, num_seeds=16, steps=5).hparams["num_seeds"]
      16
    """
    num_seeds, seed = fl.checks.positive_int(num_seeds=num_seeds), fl.checks.nonnegative_int(seed=seed)
    client_lr, eps = fl.checks.positive(client_lr=client_lr), fl.checks.positive(perturbation=perturbation)
    fl.checks.is_function_of("params", "batch", "key", loss_fn=loss_fn)
    lower = fl.checks.one_of((True, False, "auto"), lower=lower)
    local = local_length(batch_size=batch_size, epochs=epochs, steps=steps, shuffle=shuffle)
    server = optax.sgd(1.0) if server_optimizer is None else server_optimizer
    fl.check_optimizer(server_optimizer=server)
    fl.local_sgd(loss_fn, client_optimizer=optax.sgd(client_lr), lower=lower, **local)  # refuses what it refuses

    def init(params: Any) -> KSeedState:
        if isinstance(params, fl.Variables):
            raise ValueError(
                "the params are `fedjaxlite.Variables` with a state that is not trained, and clients of fed_kseed send "
                "steps along directions alone. Use a model without such state, as with LayerNorm in BatchNorm's place."
            )
        sums = jnp.zeros((num_seeds,), jnp.float32)
        return KSeedState(params, sums, server.init(sums))

    def client_update(shared: KSeedShared, own: Any, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        loss = fl.lower(loss_fn, enable=lower, lanes=data.wave.num_lanes, platform=data.wave.platform)
        draws = jax.random.fold_in(key, _DRAW)

        def slope(at: _Point, batch: Any, mask: Any, key: Any) -> tuple[fl.BatchLoss, jax.Array]:
            return two_point_slope(lambda params: fl.batch_loss(loss, params, batch, mask, key), *at, eps)

        def step(carry: _Carry, gradient: Gradient) -> _Carry:
            j = jax.random.randint(jax.random.fold_in(draws, carry.steps), (), 0, num_seeds, jnp.int32)
            z = direction(carry.params, j, seed)
            seen, g = gradient(_Point(carry.params, z))
            moved = jnp.asarray(client_lr, jnp.float32) * g
            means = {"loss": seen.loss, **seen.metrics}
            sums = jax.tree.map(lambda total, mean: total + mean * seen.weight, carry.sums, means)
            update, params = carry.update.at[j].add(moved), along(carry.params, -moved, z)
            return _Carry(params, update, sums, carry.weight + seen.weight, carry.steps + 1)

        def start(shapes: fl.BatchLoss) -> _Carry:
            zeros = {"loss": jnp.float32(0.0), **{name: jnp.float32(0.0) for name in shapes.metrics}}
            update = jnp.zeros((num_seeds,), jnp.float32)
            return _Carry(shared.params, update, zeros, jnp.float32(0.0), jnp.int32(0))

        point = _Point(shared.params, direction(shared.params, jnp.int32(0), seed))
        carry = local_steps(data, slope, point, start, step, Length(**local))
        seen = jnp.where(carry.weight > 0, carry.weight, 1.0)
        info = {**{name: total / seen for name, total in carry.sums.items()}, "local_steps": carry.steps}
        return fl.ClientOutput(carry.update, data.num_examples, client_state=own, info=info)

    def server_update(state: KSeedState, aggregate: fl.Aggregate, key: jax.Array) -> KSeedState:
        del key
        sums, optimizer_state = fl.apply_delta(server, state.sums, aggregate.value, state.optimizer_state)
        return KSeedState(kseed_model(state.params, sums - state.sums, seed=seed), sums, optimizer_state)

    return fl.Algorithm(
        init,
        client_update,
        server_update,
        broadcast=lambda state: KSeedShared(state.params, state.sums),
        client_params=lambda shared, own: shared.params,
        resident=lambda shared: shared.params,
        name="fed_kseed",
        hparams={"client_lr": client_lr, "num_seeds": num_seeds, "perturbation": eps, "seed": seed, **local},
    )


def kseed_model(params: Any, sums: jax.Array, *, seed: int = 0) -> Any:
    """The model that sums along the directions of a pool lead to: what a client makes of the sums that it downloads.

    Args:
      params: the model that the sums begin at, pytree of floats.
      sums: float32 `[K]`.
      seed: of the pool, as in `fed_kseed`.

    Returns:
      pytree like `params`. Directions with a sum of zero cost nothing.

    Raises:
      TypeError, ValueError: for parameters that are no floats, sums that are no vector, a seed that is no int.

    Example:
      >>> moved = kseed_model(jnp.zeros(3), jnp.float32([0.0, 2.0]))
      >>> bool((moved == 2 * direction(moved, jnp.int32(1), 0)).all())
      True
    """
    fl.checks.float_leaves("params", params)
    params, seed = jax.tree.map(jnp.asarray, params), fl.checks.nonnegative_int(seed=seed)
    sums = jnp.asarray(fl.checks.real_array(sums=sums, shape="[K]", ndim=1)).astype(jnp.float32)
    if sums.ndim != 1 or not sums.size:
        raise ValueError(f"`sums` is {sums.dtype}{list(sums.shape)}; expected float32[K], one for each direction.")
    order = jnp.argsort(sums == 0, stable=True)  # those that moved come first

    def add(i: jax.Array, params: Any) -> Any:
        return along(params, sums[order[i]], direction(params, order[i], seed))

    return jax.lax.fori_loop(0, jnp.sum(sums != 0, dtype=jnp.int32), add, params)


def direction(params: Any, number: jax.Array, seed: int) -> Any:
    """The direction of a number in the pool of a seed: normal entries, a pytree like `params` in float32.

    Example:
      >>> direction({"w": jnp.zeros(2)}, jnp.int32(7), 0)["w"].shape
      (2,)
    """
    key = jax.random.fold_in(jax.random.key(seed), number)
    leaves, treedef = jax.tree.flatten(params)
    drawn = [jax.random.normal(jax.random.fold_in(key, i), jnp.shape(x), jnp.float32) for i, x in enumerate(leaves)]
    return treedef.unflatten(drawn)


def along(params: Any, length: Any, z: Any) -> Any:
    """A model, so far along a direction; leaves keep their dtypes."""
    return jax.tree.map(lambda w, d: (w.astype(jnp.float32) + length * d).astype(w.dtype), params, z)


def two_point_slope(
    evaluate: Callable[[Any], fl.BatchLoss], params: Any, z: Any, eps: Any
) -> tuple[fl.BatchLoss, jax.Array]:
    """How steep a loss is along z, (f(w + eps z) - f(w - eps z)) / (2 eps), and the mean of the two evaluations.

    Args:
      evaluate: `evaluate(params) -> BatchLoss`.
      params: w.
      z: pytree like `params`.
      eps: float32 scalar.

    Returns:
      `(BatchLoss, float32 scalar)`.

    Example:
      >>> line = lambda w: fl.BatchLoss(3 * w[0] + w[1], jnp.float32(1), {}, None)
      >>> round(float(two_point_slope(line, jnp.zeros(2), jnp.float32([1, 2]), 0.5)[1]), 3)
      5.0
    """
    eps = jnp.asarray(eps, jnp.float32)
    ahead, behind = (evaluate(along(params, length, z))._replace(state=None) for length in (eps, -eps))
    return jax.tree.map(lambda a, b: (a + b) / 2, ahead, behind), (ahead.loss - behind.loss) / (2 * eps)
