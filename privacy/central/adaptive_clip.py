"""The Gaussian mechanism with a clip norm that follows a quantile of the clients' norms.

    client k:   b_k = 1 if ||delta_k|| <= C else 0;  delta_k  <-  delta_k min(1, C / ||delta_k||)
    server:     sum of delta_k + N(0, (z_delta C)^2 I), divided by the expected number m of clients
                b = (sum of (b_k - 1/2) + N(0, sigma_b^2)) / m + 1/2
                C <- C exp(-eta (b - gamma))

Source: Andrew, Thakkar, McMahan, Ramaswamy (2021), "Differentially Private Learning with Adaptive Clipping",
https://arxiv.org/abs/1905.03871, algorithm 1.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import fedjaxlite as fl
from fedjaxlite.privacy.central import clipping
from fedjaxlite.privacy.central.gaussian import TRUST
from fedjaxlite.privacy.central.noise import Spread, add_noise, spread
from fedjaxlite.privacy.mechanisms import Mechanism, Release

BIT = "adaptive_clip_bit"
"""The name under which b - 1/2 travels among the scalars of a message."""

SMALLEST, LARGEST = 1e-12, 1e12
"""Where the clip norm stops, so that float32 holds it whatever the clients do."""


class AdaptiveState(NamedTuple):
    """What the mechanism keeps between rounds. All of it follows from noised sums, so it may be published.

    Attributes:
      clip_norm: float32 scalar, C of the coming round.
      last_clip_norm: float32 scalar, C of the round before.
      unclipped_fraction: float32 scalar, b of the round before: a noised estimate, which can leave [0, 1].
      cohort_size: float32 scalar, m, the fixed denominator of the chain's mean.
      scalar_bounds: dict of float32 scalars, the bounds on the algorithm's own scalars.
    """

    clip_norm: Any
    last_clip_norm: Any
    unclipped_fraction: Any
    cohort_size: Any
    scalar_bounds: Any


def adaptive_gaussian(
    *,
    noise_multiplier: Any,
    initial_clip_norm: Any = 0.1,
    target_quantile: Any = 0.5,
    clip_learning_rate: Any = 0.2,
    bit_noise_std: Any = None,
) -> fl.Aggregator:
    """Clips every client's update to a norm that follows the clients' own, and adds Gaussian noise to their sum.

    Whether a client's update was short enough travels beside it as b - 1/2 and is noised too. Its noise takes a small
    share of the guarantee, so that the noise on the update is slightly wider: the whole has `noise_multiplier`.

    Args:
      noise_multiplier: z of the whole, 0 or above, or a tracer. At 0 neither update nor bit is noised.
      initial_clip_norm: C of the first round, above 0 and finite, or a tracer. Start low: C grows as fast as it
        shrinks, and noise is scaled to it from the first round on.
      target_quantile: gamma in (0, 1], the share of clients whose updates should not be clipped. Shares are of m:
        where fewer clients report, b moves towards 1/2, so m should count those that are expected to report.
      clip_learning_rate: eta of the geometric update of C, above 0.
      bit_noise_std: sigma_b, the standard deviation of the noise on the sum of bits. None for m / 20, where m is the
        expected number of clients in a round.

    Returns:
      an Aggregator for a chain behind `fl.mean(over=m)`, before `fl.quantize`, whose range follows C, and masks. Its
      metrics are "clip_norm", C of the round, and "unclipped_fraction", the noised b. C stays in [1e-12, 1e12].

    Raises:
      TypeError, ValueError: for arguments out of range. When built: as `privacy.gaussian` does, and if the noise on the
        bit takes the whole guarantee, z >= 2 sigma_b.

    Guarantees:
      One client changes the sum of updates by at most C of the round in L2, exactly, and the sum of bits by at most 1/2
      (Guarantee 1). With z_delta = (z^-2 - (2 sigma_b)^-2)^-1/2 the noise has standard deviation z_delta C sqrt(1 + p)
      on every entry of the update's sum, z_delta B sqrt(1 + p) on each of p scalars of bound B, and sigma_b on the sum
      of bits; the whole is a Gaussian mechanism of noise multiplier z (Guarantee 2), in every round alike, since the
      bounds that the wire states are those of C alone. C is a function of noised sums of earlier rounds (Guarantee 3).
      What is said of floats at `privacy.gaussian` holds here.

    Source: Andrew et al. (2021), https://arxiv.org/abs/1905.03871, algorithm 1; theorem 1 for z_delta.

    Example:
      >>> from fedjaxlite import privacy
      >>> codec = privacy.adaptive_gaussian(noise_multiplier=1.0)
      >>> fl.chain(fl.mean(over=100), codec, fl.quantize(bits=16)).name
      'chain(mean, adaptive_gaussian, quantize)'
    """
    z = clipping.check_noise_multiplier(noise_multiplier)
    initial_clip_norm, clip_learning_rate = fl.checks.positive(
        initial_clip_norm=initial_clip_norm, clip_learning_rate=clip_learning_rate
    )
    first = initial_clip_norm if fl.checks.is_traced(initial_clip_norm) else float(initial_clip_norm)
    target_quantile = fl.checks.probability(target_quantile=target_quantile)
    if bit_noise_std is not None:
        remedy = "It is the standard deviation of the noise on the sum of bits; None is for a twentieth of the cohort."
        bit_noise_std = fl.checks.positive(bit_noise_std=bit_noise_std, remedy=remedy)
    silent = not fl.checks.is_traced(z) and z == 0

    def widths(clip_norm: Any, cohort_size: Any, scalar_bounds: Any) -> tuple[Spread, Any]:
        """The noise of update and scalars, and that of the bit."""
        if silent:
            return spread(0.0, clip_norm, scalar_bounds), 0.0
        bit = cohort_size / 20 if bit_noise_std is None else bit_noise_std
        bit = jnp.where(z == 0, 0.0, bit) if fl.checks.is_traced(z) else bit
        return spread(update_noise_multiplier(z, bit), clip_norm, scalar_bounds), bit

    def init(wire: fl.Wire) -> tuple[AdaptiveState, fl.Wire]:
        clipping.refuse("adaptive_gaussian", wire)
        _check_bit(wire)
        own = {name: float(wire.scalar_bounds[name]) for name in sorted(wire.scalars)}
        noise, bit = widths(first, wire.denominator, own)
        scalars = (Release(noise.scalars[name], own[name]) for name in own)
        mechanism = Mechanism("gaussian", (Release(noise.value), *scalars, Release(bit, 0.5)), TRUST)
        clip_norm, cohort_size = (jnp.asarray(x, jnp.float32) for x in (first, wire.denominator))
        float_bounds = {name: jnp.float32(bound) for name, bound in own.items()}
        state = AdaptiveState(clip_norm, clip_norm, jnp.float32(0.0), cohort_size, float_bounds)
        wire = clipping.noised(wire, mechanism, fl.Bounds(first, first))
        return state, wire._replace(
            scalars={**wire.scalars, BIT: jax.ShapeDtypeStruct((), jnp.float32)},
            scalar_bounds={**wire.scalar_bounds, BIT: 0.5},
        )

    def prepare(state: AdaptiveState, bounds: fl.Bounds) -> tuple[AdaptiveState, fl.Bounds]:
        # Not tightened by bounds of codecs before: the ratio of noise to sensitivity would then move with C.
        del bounds
        return state, fl.Bounds(state.clip_norm, state.clip_norm)

    def encode(state: AdaptiveState, own: Any, message: fl.Message, client: fl.ClientInfo) -> tuple[fl.Message, Any]:
        del client
        clipped = clipping.clip(message.value, state.clip_norm)
        scalars = clipping.clip_scalars(message.scalars, state.scalar_bounds)
        scalars[BIT] = clipped.fits.astype(jnp.float32) - 0.5
        return message._replace(value=clipped.value, scalars=scalars), own

    def decode(state: AdaptiveState, total: fl.Message, key: Any) -> tuple[fl.Message, AdaptiveState]:
        if not silent:
            noise, bit = widths(state.clip_norm, state.cohort_size, state.scalar_bounds)
            total = add_noise(total, Spread(noise.value, {**noise.scalars, BIT: bit}), key)
        fraction = total.scalars[BIT] / state.cohort_size + 0.5
        moved = state.clip_norm * jnp.exp(-clip_learning_rate * (fraction - target_quantile))
        moved = jnp.clip(moved, SMALLEST, LARGEST)
        scalars = {name: value for name, value in total.scalars.items() if name != BIT}
        new = state._replace(clip_norm=moved, last_clip_norm=state.clip_norm, unclipped_fraction=fraction)
        return total._replace(scalars=scalars), new

    hparams = {
        "noise_multiplier": noise_multiplier,
        "initial_clip_norm": initial_clip_norm,
        "target_quantile": target_quantile,
        "clip_learning_rate": clip_learning_rate,
        "bit_noise_std": bit_noise_std,
    }
    return fl.Aggregator(
        init, encode, decode, prepare=prepare, name="adaptive_gaussian", hparams=hparams, metrics=_metrics
    )


def update_noise_multiplier(noise_multiplier: Any, bit_noise_std: Any) -> Any:
    """z_delta, the noise multiplier of the update once the bit has taken its share of the guarantee.

    Args:
      noise_multiplier: z of the whole; a number or a tracer.
      bit_noise_std: sigma_b, the standard deviation of the noise on a sum of bits b - 1/2.

    Returns:
      (z^-2 - (2 sigma_b)^-2)^-1/2; not a number where a tracer hides that z >= 2 sigma_b, so that nothing runs on
      without noise.

    Raises:
      ValueError: if z >= 2 sigma_b, which leaves nothing for the update.

    Source: Andrew et al. (2021), https://arxiv.org/abs/1905.03871, theorem 1.

    Example:
      >>> round(update_noise_multiplier(1.0, 5.0), 7)
      1.0050378
    """
    if fl.checks.is_traced((noise_multiplier, bit_noise_std)):
        share = jnp.where(noise_multiplier == 0, 0.0, noise_multiplier / (2 * bit_noise_std))
        return noise_multiplier / jnp.sqrt(1 - share * share)
    if noise_multiplier >= 2 * bit_noise_std:
        raise ValueError(
            f"`noise_multiplier` is {noise_multiplier:g}, and noise of standard deviation {bit_noise_std:g} on the "
            f"clip bits alone allows no more than {2 * bit_noise_std:g}; expected less. Raise `bit_noise_std` above "
            f"{noise_multiplier / 2:g}, or make cohorts larger: its default is a twentieth of fl.mean(over=...)."
        )
    share = noise_multiplier / (2 * bit_noise_std)
    return noise_multiplier / (1 - share * share) ** 0.5


def _metrics(state: AdaptiveState) -> dict[str, Any]:
    return {"clip_norm": state.last_clip_norm, "unclipped_fraction": state.unclipped_fraction}


def _check_bit(wire: fl.Wire) -> None:
    if BIT in wire.scalars:
        raise ValueError(
            f"the algorithm has a scalar {BIT!r}, the name of the bit that `adaptive_gaussian` sends. Rename it."
        )
