"""Local differential privacy: every client noises its own update before anyone sees it.

    client k:   delta_k  <-  clip(delta_k) + noise for a change of 2 C: from any update to any other

Nobody has to be trusted, and that costs: the noise in the mean of K clients is sqrt(K) times that of a trusted server.

Sources:
  Kasiviswanathan, Lee, Nissim, Raskhodnikova, Smith (2011), "What Can We Learn Privately?",
  https://arxiv.org/abs/0803.0476.
  Balle, Wang (2018), "Improving the Gaussian Mechanism for Differential Privacy", https://arxiv.org/abs/1805.06530.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fedjaxlite as fl
from fedjaxlite.privacy.central import clipping
from fedjaxlite.privacy.central.noise import Spread, add_noise, spread
from fedjaxlite.privacy.mechanisms import Mechanism, Release

TRUST = (
    "Nobody is trusted: every client noises its own update before it leaves, so the server and everyone else see "
    "noised updates. Neighbors replace one client's data by any other; who takes part is not hidden, so sampling "
    "amplifies nothing."
)


def local_gaussian(*, clip_norm: Any, epsilon: float, delta: float) -> fl.Aggregator:
    """Every client clips its update in L2 and adds Gaussian noise for its own (epsilon, delta).

    Scalars beside the update are clipped to their declared bounds and noised with it: with p of them, update / C and
    scalars / bounds are one vector of norm at most sqrt(1 + p), noised as such.

    Args:
      clip_norm: C, the largest L2 norm of an update, finite and above 0, or a tracer.
      epsilon: of one report, above 0; infinity adds no noise.
      delta: of one report, in (0, 1).

    Returns:
      an Aggregator for a chain behind `fl.mean(...)`. The updates that leave it have no bound.

    Raises:
      TypeError, ValueError: for numbers out of range. When built: for clients that do not weigh 1, integers, masks, a
        second mechanism, scalars without bounds.
      ModuleNotFoundError: without dp-accounting, of the extra "privacy".

    Guarantees:
      One report is (epsilon, delta)-differentially private for any two updates (replace-one: two clipped updates differ
      by at most 2 C), exactly as the analytic Gaussian mechanism has it, for every epsilon. A client whose update is
      not finite sends the noise alone, with weight 1, so that nobody can tell. Noise comes from the run's noise key,
      another in every round and for every client. It is float32, which is close to Gaussian and not exactly so
      (Mironov 2012).

    Source: Balle, Wang (2018), https://arxiv.org/abs/1805.06530, theorem 8 and algorithm 1.

    Example:
      >>> fl.chain(fl.mean(), local_gaussian(clip_norm=1.0, epsilon=8.0, delta=1e-5)).name
      'chain(mean, local_gaussian)'
    """
    epsilon = _checked_epsilon(epsilon)
    delta = fl.checks.positive(delta=fl.checks.concrete("It is what the chain promises.", delta=delta))
    if not float(delta) < 1:
        raise ValueError(f"`delta` is {delta!r}; expected a number in (0, 1), well below 1 / (number of clients).")
    multiplier = 2.0 * _analytic_sigma(float(epsilon), float(delta))
    widths = lambda clip, bounds: spread(multiplier, clip, bounds)  # noqa: E731
    guarantee = {"epsilon": float(epsilon), "delta": float(delta)}
    return _codec("local_gaussian", clip_norm, guarantee, widths, order=2, draw=jax.random.normal, unit_std=1.0)


def local_laplace(*, clip_norm: Any, epsilon: float) -> fl.Aggregator:
    """Every client clips its update in L1 and adds Laplace noise for its own epsilon.

    For short vectors: a vector of d entries has an L1 norm of up to sqrt(d) times its L2 norm. Scalars beside the
    update are clipped and noised with it: with p of them, the joint vector's L1 norm is at most 1 + p.

    Args:
      clip_norm: C, the largest L1 norm of an update, finite and above 0, or a tracer.
      epsilon: of one report, above 0; infinity adds no noise.

    Returns:
      an Aggregator for a chain behind `fl.mean(...)`.

    Raises:
      TypeError, ValueError: as `local_gaussian`.

    Guarantees:
      One report is epsilon-differentially private for any two updates (they differ by at most 2 C in L1; the scale is
      2 C (1 + p) / epsilon). The others are those of `local_gaussian`; the tails of float32 noise end near 16 scales.

    Source: Dwork, McSherry, Nissim, Smith (2006), https://doi.org/10.1007/11681878_14, proposition 1.

    Example:
      >>> fl.chain(fl.mean(), local_laplace(clip_norm=1.0, epsilon=8.0)).name
      'chain(mean, local_laplace)'
    """
    epsilon = _checked_epsilon(epsilon)
    widths = lambda clip, bounds: spread(2.0 / float(epsilon), clip, bounds, order=1)  # noqa: E731
    guarantee = {"epsilon": float(epsilon), "delta": 0.0}
    root = math.sqrt(2.0)  # a Laplace variable of scale 1 has this standard deviation
    return _codec("local_laplace", clip_norm, guarantee, widths, order=1, draw=jax.random.laplace, unit_std=root)


def check_local(name: str, wire: fl.Wire) -> None:
    """Refuses the chains in which a client cannot protect itself: what would show beside the noise, or undo the clip.

    Raises:
      ValueError: as every mechanism for the order of the chain, and for clients that do not weigh 1.
    """
    clipping.refuse_order(name, wire)
    if len(jax.tree.leaves(wire.weight)) != 1 or wire.weight_cap != 1:
        raise ValueError(
            f"`{name}` noises updates and not weights, and the weights of this chain tell about clients. Put fl.mean() "
            "at the head and use a sampler without scale: then everybody weighs 1."
        )


def noise_key(client: fl.ClientInfo) -> jax.Array:
    """The key for noise that protects a client; outside of a run, where there is none, one made of its own key."""
    return jax.random.fold_in(client.key, 0) if client.noise is None else client.noise


def _codec(
    name: str,
    clip_norm: Any,
    guarantee: dict[str, float],
    widths: Callable[[Any, Any], Spread],
    *,
    order: int,
    draw: Callable[..., jax.Array],
    unit_std: float,
) -> fl.Aggregator:
    clip_norm = fl.checks.positive(
        clip_norm=clip_norm, remedy="It is the largest norm of an update; noise is scaled to it."
    )
    clip = clip_norm if fl.checks.is_traced(clip_norm) else float(clip_norm)

    def init(wire: fl.Wire) -> tuple[Any, fl.Wire]:
        check_local(name, wire)
        bounds = {scalar: float(wire.scalar_bounds[scalar]) for scalar in sorted(wire.scalars)}
        noise = widths(clip, bounds)
        releases = [Release(unit_std * noise.value, 2 * clip)]
        releases += [Release(unit_std * noise.scalars[scalar], 2 * bounds[scalar]) for scalar in bounds]
        mechanism = Mechanism(name, tuple(releases), TRUST, options=guarantee)
        state = {scalar: jnp.float32(bound) for scalar, bound in bounds.items()}
        return state, clipping.noised(wire, mechanism, fl.Bounds())

    def encode(state: Any, own: Any, message: fl.Message, client: fl.ClientInfo) -> tuple[fl.Message, Any]:
        value = clipping.clip(message.value, clip, order=order).value
        scalars = clipping.clip_scalars(message.scalars, state)
        # The weight is 1 also where the update was not finite: a zero would tell.
        clipped = fl.Message(value, jnp.ones_like(message.weight), scalars)
        return add_noise(clipped, widths(clip, state), noise_key(client), draw), own

    return fl.Aggregator(
        init,
        encode,
        prepare=lambda state, bounds: (state, fl.Bounds()),
        name=name,
        hparams={"clip_norm": clip_norm, **guarantee},
    )


def _checked_epsilon(epsilon: Any) -> float:
    fl.checks.concrete("It is what the chain promises.", epsilon=epsilon)
    epsilon = fl.checks.nonnegative(epsilon=epsilon, remedy="Infinity adds no noise.")
    if float(epsilon) == 0:
        raise ValueError("`epsilon` is 0; expected a number above 0: at 0 a report could tell nothing at all.")
    return float(epsilon)


def _analytic_sigma(epsilon: float, delta: float) -> float:
    """The least standard deviation of Gaussian noise for a change of 1 in L2."""
    if math.isinf(epsilon):
        return 0.0
    try:
        import dp_accounting
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            '`local_gaussian` needs dp-accounting, which the extra "privacy" installs: pip install '
            '"fedjaxlite[privacy]".'
        ) from error
    with np.errstate(all="ignore"):  # its search meets infinities on the way where epsilon is large
        return float(dp_accounting.get_sigma_gaussian(epsilon, delta))
