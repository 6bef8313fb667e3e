"""The Laplace mechanism on the sum of updates clipped in L1: pure epsilon, for short vectors.

    client k:   delta_k  <-  delta_k min(1, C / ||delta_k||_1)
    server:     sum of delta_k + Laplace of scale z C on every entry, divided by the expected number of clients

Source: Dwork, McSherry, Nissim, Smith (2006), "Calibrating Noise to Sensitivity in Private Data Analysis",
https://doi.org/10.1007/11681878_14, proposition 1.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

import fedjaxlite as fl
from fedjaxlite.privacy.central import clipping
from fedjaxlite.privacy.central.gaussian import TRUST
from fedjaxlite.privacy.central.noise import Spread, add_noise, spread
from fedjaxlite.privacy.mechanisms import Mechanism, Release


def laplace(*, clip_norm: Any, noise_multiplier: Any) -> fl.Aggregator:
    """Clips every client's update in L1 and adds Laplace noise to their sum.

    One round costs epsilon = 1 / noise_multiplier and no delta. A vector of d entries has an L1 norm of up to sqrt(d)
    times its L2 norm, so this is for short vectors (counts, histograms, a few parameters) and `gaussian` for models.
    Scalars that the algorithm sends beside the update are clipped to their declared bounds and noised with it: with p
    of them, update / C and scalars / bounds are one vector of L1 norm at most 1 + p, noised as such.

    Args:
      clip_norm: C, the largest L1 norm of an update over all leaves, above 0; or a tree prefix of the update with one
        for each part (then C is their sum). Infinity clips nothing and is allowed without noise only. May be tracers.
      noise_multiplier: the scale of the noise on the sum over C; 0 or above, or a tracer. At 0 nothing is added and
        epsilon is infinite.

    Returns:
      an Aggregator for a chain behind `fl.mean(over=...)`, before `fl.quantize` and masks; rounding then adds to the
      L1 norm, see `Wire.bounds.l1`. Updates leave it in float32 at least.

    Raises:
      TypeError, ValueError: as `privacy.gaussian` does.

    Guarantees:
      One client changes the sum by at most `clip_norm` in L1, exactly, whatever it sends (Guarantee 1). The noise has
      scale z C (1 + p) on every entry of the update's sum, of standard deviation sqrt(2) times that, and z B (1 + p)
      on a scalar of bound B; a round is (1 / z)-differentially private to adding or removing a client (Guarantee 2).
      Noise is drawn once per sum, whatever the number of devices, independently for every leaf, round and codec
      (Guarantee 3). Noise is float32: its tails end near 16 scales, and its low bits are not those of a Laplace
      variable (Mironov 2012); rounding of the float sum itself is not covered either.

    Source: Dwork et al. (2006), https://doi.org/10.1007/11681878_14, proposition 1.

    Example:
      >>> from fedjaxlite import privacy
      >>> fl.chain(fl.mean(over=10), privacy.laplace(clip_norm=1.0, noise_multiplier=2.0)).name
      'chain(mean, laplace)'
    """
    z = clipping.check_noise_multiplier(noise_multiplier)
    norms = clipping.check_clip_norm(clip_norm, z)
    longest = clipping.total_norm(norms, order=1)
    silent = not fl.checks.is_traced(z) and z == 0

    def init(wire: fl.Wire) -> tuple[Any, fl.Wire]:
        clipping.refuse("laplace", wire)
        clipping.check_prefix("laplace", norms, wire.value)
        bounds = {name: float(wire.scalar_bounds[name]) for name in sorted(wire.scalars)}
        scales = spread(z, longest, bounds, order=1)
        mechanism = Mechanism("laplace", _releases(scales, bounds), TRUST, options={"norm": "l1"})
        state = {name: jnp.float32(bound) for name, bound in bounds.items()}
        return state, clipping.noised(wire, mechanism, prepare(state, wire.bounds)[1])

    def prepare(state: Any, bounds: fl.Bounds) -> tuple[Any, fl.Bounds]:
        return state, clipping.bounded(bounds, norms, order=1)

    def encode(state: Any, own: Any, message: fl.Message, client: fl.ClientInfo) -> tuple[fl.Message, Any]:
        del client
        value = clipping.clip(message.value, norms, order=1).value
        return message._replace(value=value, scalars=clipping.clip_scalars(message.scalars, state)), own

    def decode(state: Any, total: fl.Message, key: Any) -> tuple[fl.Message, Any]:
        if silent:
            return total, state
        return add_noise(total, spread(z, longest, state, order=1), key, jax.random.laplace), state

    hparams = {"clip_norm": clip_norm, "noise_multiplier": noise_multiplier}
    return fl.Aggregator(init, encode, decode, prepare=prepare, name="laplace", hparams=hparams)


def _releases(scales: Spread, bounds: dict[str, float]) -> tuple[Release, ...]:
    root = math.sqrt(2.0)  # a Laplace variable of scale 1 has this standard deviation
    return (Release(root * scales.value), *(Release(root * scales.scalars[name], bounds[name]) for name in bounds))
