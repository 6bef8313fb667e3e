"""The Gaussian mechanism on the sum of clipped updates: client-level DP-FedAvg.

    client k:   delta_k  <-  delta_k min(1, C / ||delta_k||)
    server:     sum of delta_k + N(0, (z C)^2 I), divided by the expected number of clients

Source: McMahan, Ramage, Talwar, Zhang (2018), "Learning Differentially Private Recurrent Language Models",
https://arxiv.org/abs/1710.06963, algorithm 1 with equal weights and the fixed-denominator estimator (section 3).
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

import fedjaxlite as fl
from fedjaxlite.privacy.central import clipping
from fedjaxlite.privacy.central.noise import Spread, add_noise, spread
from fedjaxlite.privacy.mechanisms import Mechanism, Release

TRUST = (
    "The server is trusted: it sees the sum of the clipped updates before the noise (and each update, unless a secure "
    "sum hides it). Whoever sees its models and the metrics of its aggregator sees noised sums only."
)


class Facts(NamedTuple):
    """What a mechanism reads off the wire when it is built.

    Attributes:
      scalar_bounds: dict of float32 scalars, the bounds on the scalars that travel beside the update.
      noise_scale: float32 scalar, the share of the noise that is drawn; below 1 only for an imagined larger cohort.
    """

    scalar_bounds: Any
    noise_scale: Any


def gaussian(*, clip_norm: Any, noise_multiplier: Any, noise_cohort_size: Any = None) -> fl.Aggregator:
    """Clips every client's update and adds Gaussian noise to their sum.

    Scalars that the algorithm sends beside the update are clipped to their declared bounds and noised with it: with p
    of them, update / C and scalars / bounds are one vector of norm at most sqrt(1 + p), noised as such.

    Args:
      clip_norm: C, the largest L2 norm of an update over all leaves, above 0; or a tree prefix of the update with one
        for each part (per-layer clipping: then C is the root of the sum of squares, and noise is the same everywhere).
        Infinity clips nothing and is allowed without noise only. Numbers may be tracers.
      noise_multiplier: z, the noise's standard deviation on the sum over C; 0 or above, or a tracer. At 0 nothing is
        added and epsilon is infinite.
      noise_cohort_size: simulate the noise of a larger cohort of this size: the noise on the *mean* is that of
        `noise_cohort_size` clients, so on this sum it is less by the ratio of the cohorts. A guarantee then holds for
        the imagined training run and not for this one; the mechanism is marked as extrapolated.

    Returns:
      an Aggregator for a chain behind `fl.mean(over=...)`, before `fl.quantize` and masks. Updates leave it in float32
      at least.

    Raises:
      TypeError, ValueError: for a clip norm that is not above 0, a negative or infinite noise multiplier, noise without
        a clip. When built: for clip norms that are no prefix of the update, a mean without a fixed denominator, a
        sampler that scales weights, clipping behind quantization, a second mechanism, scalars without bounds, and a
        `noise_cohort_size` below the cohort.

    Guarantees:
      One client changes the sum by at most `clip_norm` in L2, exactly, whatever it sends (Guarantee 1). The noise has
      standard deviation z C sqrt(1 + p) on every entry of the update's sum and z B sqrt(1 + p) on a scalar of bound B;
      the whole is a Gaussian mechanism of noise multiplier z (Guarantee 2). Noise is drawn once per sum, whatever the
      number of devices, independently for every leaf, round and codec (Guarantee 3). Adding or removing a client,
      or all of its data, is what is protected. Noise is float32, which is close to Gaussian and not exactly so
      (Mironov 2012); rounding of the float sum itself is not covered either. Discrete mechanisms close both gaps.

    Source: McMahan et al. (2018), https://arxiv.org/abs/1710.06963, algorithm 1; per layer: section 3, "per-layer
    clipping". The cohort of the noise: Granqvist et al. (2024), https://arxiv.org/abs/2404.06430.

    Example:
      >>> from fedjaxlite import privacy
      >>> fl.chain(fl.mean(over=10), privacy.gaussian(clip_norm=1.0, noise_multiplier=1.1), fl.quantize(bits=16)).name
      'chain(mean, gaussian, quantize)'
    """
    z = clipping.check_noise_multiplier(noise_multiplier)
    norms = clipping.check_clip_norm(clip_norm, z)
    if noise_cohort_size is not None:
        noise_cohort_size = fl.checks.positive(
            noise_cohort_size=noise_cohort_size, remedy="It is the imagined number of clients."
        )
    longest = clipping.total_norm(norms)
    silent = not fl.checks.is_traced(z) and z == 0

    def widths(scalar_bounds: Any, noise_scale: Any) -> Spread:
        return spread(z * noise_scale, longest, scalar_bounds)

    def init(wire: fl.Wire) -> tuple[Facts, fl.Wire]:
        clipping.refuse("gaussian", wire)
        clipping.check_prefix("gaussian", norms, wire.value)
        noise_scale = _noise_scale(wire.denominator, noise_cohort_size)
        bounds = {name: float(wire.scalar_bounds[name]) for name in sorted(wire.scalars)}
        noise = widths(bounds, noise_scale)
        releases = (Release(noise.value), *(Release(noise.scalars[name], bounds[name]) for name in bounds))
        extrapolated = noise_cohort_size is not None
        options = {"noise_cohort_size": noise_cohort_size, "noise_scale": noise_scale} if extrapolated else {}
        mechanism = Mechanism("gaussian", releases, TRUST, extrapolated, options)
        facts = Facts({name: jnp.float32(b) for name, b in bounds.items()}, jnp.asarray(noise_scale, jnp.float32))
        return facts, clipping.noised(wire, mechanism, prepare(facts, wire.bounds)[1])

    def prepare(state: Facts, bounds: fl.Bounds) -> tuple[Facts, fl.Bounds]:
        return state, clipping.bounded(bounds, norms)

    def encode(state: Facts, own: Any, message: fl.Message, client: fl.ClientInfo) -> tuple[fl.Message, Any]:
        del client
        value = clipping.clip(message.value, norms).value
        scalars = clipping.clip_scalars(message.scalars, state.scalar_bounds)
        return message._replace(value=value, scalars=scalars), own

    def decode(state: Facts, total: fl.Message, key: Any) -> tuple[fl.Message, Facts]:
        return total if silent else add_noise(total, widths(*state), key), state

    hparams = {"clip_norm": clip_norm, "noise_multiplier": noise_multiplier, "noise_cohort_size": noise_cohort_size}
    return fl.Aggregator(init, encode, decode, prepare=prepare, name="gaussian", hparams=hparams)


def _noise_scale(denominator: Any, noise_cohort_size: Any) -> Any:
    if noise_cohort_size is None:
        return 1.0
    if not fl.checks.is_traced((denominator, noise_cohort_size)) and noise_cohort_size < denominator:
        raise ValueError(
            f"`noise_cohort_size` is {noise_cohort_size!r} where the mean is over {denominator!r} clients; expected a "
            "cohort at least as large. Leave it out for the noise of the cohort that is simulated."
        )
    return denominator / noise_cohort_size
