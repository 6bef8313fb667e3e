"""Adaptive federated optimization: FedAvg whose server keeps momentum, or runs Adagrad, Adam or Yogi.

    clients:    as in FedAvg; Delta = the mean of the models' changes, which is minus the mean delta of this library
    FedAvgM     m = beta m + Delta                                              x = x + eta m
    the others  m = beta1 m + (1 - beta1) Delta                                 x = x + eta m / (sqrt(v) + tau)
    FedAdagrad  v = v + Delta^2
    FedYogi     v = v - (1 - beta2) Delta^2 sign(v - Delta^2)
    FedAdam     v = beta2 v + (1 - beta2) Delta^2

with m = 0 and v = tau^2 at the start, all products entry by entry. Unlike the optimizers of the same names for central
training there is no bias correction; tau sets how adaptive the server is, and the first steps are not of size eta.

Sources:
  Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan (2021), "Adaptive Federated Optimization",
  https://arxiv.org/abs/2003.00295, algorithm 2; defaults of appendix D.
  Hsu, Qi, Brown (2019), "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
  Classification", https://arxiv.org/abs/1909.06335, section 4 (FedAvgM).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import fedjaxlite as fl
from fedjaxlite.algorithms.one_model.fed_avg import fed_avg
from fedjaxlite.algorithms.pieces.schedules import checked_rate

_RULES = ("adagrad", "adam", "yogi")
_OPTIONS = ("batch_size", "epochs", "steps", "shuffle", "lower", "compute_dtype", "remat", "micro_batch_size")


class Moments(NamedTuple):
    """The state of `adaptive_server_optimizer`.

    Attributes:
      steps: int32 scalar, how many were taken; what a schedule is read at.
      mean: pytree like the trainable parameters, m; at least float32.
      square: likewise, v.
    """

    steps: jax.Array
    mean: Any
    square: Any


def adaptive_server_optimizer(
    rule: str, *, server_lr: Any, beta1: Any, beta2: Any = 0.0, tau: Any = 1e-3
) -> optax.GradientTransformation:
    """One of the three adaptive servers as an optax optimizer, for any algorithm that takes a `server_optimizer`.

    Args:
      rule: "adagrad", "adam" or "yogi".
      server_lr: eta, a number above 0 or an optax schedule of rounds.
      beta1: in [0, 1), the decay of the first moment.
      beta2: in [0, 1), the decay of the second one; "adagrad" does not use it.
      tau: above 0, the degree of adaptivity.

    Returns:
      an optax optimizer whose state is a `Moments`. Moments are at least float32, updates keep the leaves' dtypes.

    Raises:
      TypeError, ValueError: for arguments out of range.

    Source: Reddi et al. (2021), https://arxiv.org/abs/2003.00295, algorithm 2.

    Example:
      >>> server = adaptive_server_optimizer("adam", server_lr=0.1, beta1=0.0, beta2=0.0, tau=0.5)
      >>> update, _ = server.update(jnp.float32(2.0), server.init(jnp.float32(1.0)))
      >>> round(float(update), 6)  # -0.1 * 2 / (2 + 0.5)
      -0.08
    """
    rule = fl.checks.one_of(_RULES, rule=rule)
    beta1, beta2 = fl.checks.fraction(beta1=beta1, beta2=beta2)
    tau = fl.checks.positive(tau=tau)
    if not fl.checks.is_traced(tau) and tau**2 > fl.checks.LARGEST_FLOAT:
        raise ValueError(f"`tau` is {tau!r}; expected a number whose square a float32 holds, such as 1e-3.")
    server_lr = checked_rate(server_lr=server_lr)

    def square_of(v: jax.Array, squared: jax.Array) -> jax.Array:
        if rule == "adagrad":
            return v + squared
        if rule == "yogi":
            return v - (1 - beta2) * squared * jnp.sign(v - squared)
        return beta2 * v + (1 - beta2) * squared

    def init(params: Any) -> Moments:
        filled = lambda value: jax.tree.map(lambda p: jnp.full(jnp.shape(p), value, _wide(p)), params)  # noqa: E731
        return Moments(jnp.int32(0), filled(0.0), filled(tau**2))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Moments]:
        del params
        wide = jax.tree.map(lambda g: g.astype(_wide(g)), updates)
        mean = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state.mean, wide)
        square = jax.tree.map(lambda v, g: square_of(v, g * g), state.square, wide)
        rate = server_lr(state.steps) if callable(server_lr) else server_lr
        step = lambda m, v: -jnp.asarray(rate, m.dtype) * m / (jnp.sqrt(v) + tau)  # noqa: E731
        updates = jax.tree.map(lambda g, m, v: step(m, v).astype(g.dtype), updates, mean, square)
        return updates, Moments(state.steps + 1, mean, square)

    return optax.GradientTransformation(init, update)


def _wide(leaf: Any) -> Any:
    """The dtype of a leaf's moments: with a decay near 1, narrow floats would stop moving."""
    dtype = jnp.asarray(leaf).dtype
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32


def fed_avg_m(
    loss_fn: Callable[..., Any],
    *,
    client_optimizer: optax.GradientTransformation,
    server_lr: Any = 1.0,
    momentum: Any = 0.9,
    nesterov: bool = False,
    **options: Any,
) -> fl.Algorithm:
    """FedAvgM: federated averaging with momentum on the server.

    Args:
      loss_fn: `(params, batch, key) -> [B]`, one loss per example, or `([B], LossAux)`.
      client_optimizer: optax optimizer of the local steps.
      server_lr: eta, a number above 0 or an optax schedule of rounds.
      momentum: beta, in [0, 1); 0 is FedAvg.
      nesterov: Nesterov's form of the momentum.
      **options: `batch_size`, `epochs`, `steps`, `shuffle` and `lower` of `fed_avg`.

    Returns:
      an `fl.Algorithm`.

    Raises:
      TypeError, ValueError: for arguments out of range.

    Source: Hsu, Qi, Brown (2019), https://arxiv.org/abs/1909.06335, section 4.

    Example:
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> fed_avg_m(loss, client_optimizer=optax.sgd(0.1), momentum=0.9).name
      'fed_avg_m'
    """
    nesterov = fl.checks.flag(nesterov=nesterov)
    momentum = fl.checks.fraction(momentum=momentum)
    server_lr = checked_rate(server_lr=server_lr)
    hparams = {"server_lr": server_lr, "momentum": momentum, "nesterov": nesterov}
    server = optax.sgd(server_lr, momentum=momentum, nesterov=nesterov)
    return _preset("fed_avg_m", loss_fn, client_optimizer, server, hparams, options)


def fed_adagrad(
    loss_fn: Callable[..., Any],
    *,
    client_optimizer: optax.GradientTransformation,
    server_lr: Any,
    beta1: Any = 0.0,
    tau: Any = 1e-3,
    **options: Any,
) -> fl.Algorithm:
    """FedAdagrad: federated averaging with Adagrad on the server.

    Args:
      loss_fn: `(params, batch, key) -> [B]`, one loss per example, or `([B], LossAux)`.
      client_optimizer: optax optimizer of the local steps.
      server_lr: eta, a number above 0 or an optax schedule of rounds; it has to be tuned.
      beta1: in [0, 1); 0, as in the paper's experiments, is no momentum.
      tau: above 0, the degree of adaptivity; tau^2 is the first accumulator.
      **options: `batch_size`, `epochs`, `steps`, `shuffle` and `lower` of `fed_avg`.

    Returns:
      an `fl.Algorithm`.

    Raises:
      TypeError, ValueError: for arguments out of range.

    Source: Reddi et al. (2021), https://arxiv.org/abs/2003.00295, algorithm 2.

    Example:
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> fed_adagrad(loss, client_optimizer=optax.sgd(0.1), server_lr=0.1).name
      'fed_adagrad'
    """
    server = adaptive_server_optimizer("adagrad", server_lr=server_lr, beta1=beta1, tau=tau)
    hparams = {"server_lr": server_lr, "beta1": beta1, "tau": tau}
    return _preset("fed_adagrad", loss_fn, client_optimizer, server, hparams, options)


def fed_adam(
    loss_fn: Callable[..., Any],
    *,
    client_optimizer: optax.GradientTransformation,
    server_lr: Any,
    beta1: Any = 0.9,
    beta2: Any = 0.99,
    tau: Any = 1e-3,
    **options: Any,
) -> fl.Algorithm:
    """FedAdam: federated averaging with the paper's Adam on the server, without bias correction.

    Args:
      loss_fn: `(params, batch, key) -> [B]`, one loss per example, or `([B], LossAux)`.
      client_optimizer: optax optimizer of the local steps.
      server_lr: eta, a number above 0 or an optax schedule of rounds; it has to be tuned.
      beta1: in [0, 1), the decay of the first moment.
      beta2: in [0, 1), the decay of the second moment.
      tau: above 0, the degree of adaptivity; tau^2 is the first second moment.
      **options: `batch_size`, `epochs`, `steps`, `shuffle` and `lower` of `fed_avg`.

    Returns:
      an `fl.Algorithm`.

    Raises:
      TypeError, ValueError: for arguments out of range.

    Source: Reddi et al. (2021), https://arxiv.org/abs/2003.00295, algorithm 2.

    Example:
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> fed_adam(loss, client_optimizer=optax.sgd(0.1), server_lr=0.01).name
      'fed_adam'
    """
    server = adaptive_server_optimizer("adam", server_lr=server_lr, beta1=beta1, beta2=beta2, tau=tau)
    hparams = {"server_lr": server_lr, "beta1": beta1, "beta2": beta2, "tau": tau}
    return _preset("fed_adam", loss_fn, client_optimizer, server, hparams, options)


def fed_yogi(
    loss_fn: Callable[..., Any],
    *,
    client_optimizer: optax.GradientTransformation,
    server_lr: Any,
    beta1: Any = 0.9,
    beta2: Any = 0.99,
    tau: Any = 1e-3,
    **options: Any,
) -> fl.Algorithm:
    """FedYogi: federated averaging with Yogi on the server, whose second moment moves by bounded steps.

    Args:
      loss_fn: `(params, batch, key) -> [B]`, one loss per example, or `([B], LossAux)`.
      client_optimizer: optax optimizer of the local steps.
      server_lr: eta, a number above 0 or an optax schedule of rounds; it has to be tuned.
      beta1: in [0, 1), the decay of the first moment.
      beta2: in [0, 1), the decay of the second moment.
      tau: above 0, the degree of adaptivity; tau^2 is the first second moment.
      **options: `batch_size`, `epochs`, `steps`, `shuffle` and `lower` of `fed_avg`.

    Returns:
      an `fl.Algorithm`.

    Raises:
      TypeError, ValueError: for arguments out of range.

    Source: Reddi et al. (2021), https://arxiv.org/abs/2003.00295, algorithm 2.

    Example:
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> fed_yogi(loss, client_optimizer=optax.sgd(0.1), server_lr=0.01).name
      'fed_yogi'
    """
    server = adaptive_server_optimizer("yogi", server_lr=server_lr, beta1=beta1, beta2=beta2, tau=tau)
    hparams = {"server_lr": server_lr, "beta1": beta1, "beta2": beta2, "tau": tau}
    return _preset("fed_yogi", loss_fn, client_optimizer, server, hparams, options)


def _preset(
    name: str, loss_fn: Any, client_optimizer: Any, server_optimizer: Any, hparams: dict[str, Any], options: Any
) -> fl.Algorithm:
    if "server_optimizer" in options:
        raise TypeError(
            f"`{name}` got a `server_optimizer`, and sets its own. Leave it out, or use `fed_avg` with that optimizer."
        )
    fl.checks.options_of(name, options, _OPTIONS)
    algorithm = fed_avg(loss_fn, client_optimizer=client_optimizer, server_optimizer=server_optimizer, **options)
    return algorithm._replace(name=name, hparams={**hparams, **algorithm.hparams})
