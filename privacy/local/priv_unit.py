"""PrivUnit: a client's update as a random direction near its own and a noised norm, with a pure epsilon.

    direction   V uniform on the cap {<v, u> >= gamma} of the sphere with probability p, else on the rest
    norm        one of k + 1 levels, by randomized response
    sent        (norm's estimate) V / m, with m = E <V, u>: unbiased

For large epsilon its error is far below that of Laplace or Gaussian noise on every entry.

Sources:
  Bhowmick, Duchi, Freudiger, Kapoor, Rogers (2018), "Protection Against Reconstruction and Its Applications in Private
  Federated Learning", https://arxiv.org/abs/1812.00984, algorithms 2 (PrivUnit2) and 4 (ScalarDP).
  Asi, Feldman, Talwar (2022), "Optimal Algorithms for Mean Estimation under Local Differential Privacy",
  https://arxiv.org/abs/2205.02466: the best p and gamma for an epsilon.
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fedjaxlite as fl
from fedjaxlite.privacy.central import clipping
from fedjaxlite.privacy.distributed import rotation
from fedjaxlite.privacy.local.local_dp import TRUST, check_local, noise_key
from fedjaxlite.privacy.mechanisms import Mechanism

CANDIDATES = 128
"""Candidates for an inner product in the cap; each passes with probability 0.3 at least, so all fail below 2^-60."""

OUTSIDE = 64
"""Candidates for one outside of it; each passes with probability 1/2 at least."""

SMALLEST = 2.0**-10
"""The least height of a cap, 1 - gamma, so that float32 can tell its points apart."""


class Cap(NamedTuple):
    """How a direction is randomized.

    Attributes:
      dim: d, of the sphere in R^d.
      gamma: the cap is {v: <v, u> >= gamma}; a float32.
      cap: q, the cap's share of the sphere.
      miss: 1 - p, the probability that the direction is not in the cap, in units of 2^-32.
      mean: m, the expected inner product of the random direction with the true one.
    """

    dim: int
    gamma: float
    cap: float
    miss: int
    mean: float

    @property
    def keep(self) -> float:
        """p, the probability of the cap."""
        return 1.0 - self.miss / 2**32

    @property
    def epsilon(self) -> float:
        """The log of the largest ratio of two densities at one point: log(p / q) - log((1 - p) / (1 - q))."""
        return math.log(self.keep / self.cap) - math.log((1 - self.keep) / (1 - self.cap))


@lru_cache(maxsize=64)
def best_cap(dim: int, epsilon: float) -> Cap:
    """The cap with the largest m, so the least error, for an epsilon.

    Args:
      dim: d of at least 3.
      epsilon: above 0.

    Returns:
      a Cap whose `epsilon` is at most the one given, by less than 1e-3 (or by what 2^-32 as the least chance to miss
      the cap leaves).

    Source: Bhowmick et al. (2018), https://arxiv.org/abs/1812.00984, algorithm 2 and lemma 4.1 (m); the exact ratio
      of densities and the search over all splits of epsilon: Asi, Feldman, Talwar (2022),
      https://arxiv.org/abs/2205.02466, section 3.

    Example:
      >>> cap = best_cap(100, 4.0)
      >>> cap.epsilon <= 4.0, round(cap.mean, 3)
      (True, 0.151)
    """
    caps = [_cap(dim, epsilon, share * epsilon) for share in np.linspace(0.0, 1.0, 101).tolist()]
    return max((cap for cap in caps if cap is not None), key=lambda cap: cap.mean)


def _cap(dim: int, epsilon: float, for_size: float) -> Cap | None:
    """The cap of the share 1 / (1 + exp(for_size)) of the sphere, with all that is left of epsilon for p.

    None where it is too small, which the half sphere of for_size = 0 never is.
    """
    from scipy import special

    alpha = (dim - 1) / 2
    gamma = float(np.float32(1.0 - 2.0 * special.betaincinv(alpha, alpha, 1.0 / (1.0 + math.exp(for_size)))))
    if 1.0 - gamma < SMALLEST:
        return None
    share = float(special.betainc(alpha, alpha, (1.0 - gamma) / 2.0))
    odds = math.exp(-epsilon) * (1.0 - share) / share
    miss = min(2**32 - 1, math.ceil(2**32 * odds / (1.0 + odds)))
    above = math.exp(alpha * math.log1p(-gamma * gamma) - float(special.betaln(0.5, alpha))) / (2.0 * alpha)
    keep = 1.0 - miss / 2**32
    return Cap(dim, gamma, share, miss, above * (keep / share - (1.0 - keep) / (1.0 - share)))


class Levels(NamedTuple):
    """How a number in [0, 1] is randomized.

    Attributes:
      top: k; the levels are 0, 1/k, ... 1.
      miss: the probability of another level than the number's own, in units of 2^-32; each is as likely.
    """

    top: int
    miss: int

    @property
    def epsilon(self) -> float:
        """The log of the ratio of the probabilities of the own level and of another."""
        return math.log((2**32 - self.miss) * self.top / self.miss)

    def estimate(self, level: Any) -> Any:
        """The number in [0, 1] whose expectation over the reported level is the number that was randomized."""
        other = self.miss / 2**32 / self.top
        keep = 1.0 - self.miss / 2**32
        return (level / self.top - other * (self.top + 1) / 2) / (keep - other)


def levels(epsilon: float) -> Levels:
    """Randomized response on k + 1 levels with k = exp(epsilon / 3), the paper's choice.

    Source: Bhowmick et al. (2018), https://arxiv.org/abs/1812.00984, algorithm 4 (ScalarDP) and lemma 4.4.

    Example:
      >>> levels(2.0).top, levels(2.0).epsilon <= 2.0
      (2, True)
    """
    top = min(2**16, math.ceil(math.exp(epsilon / 3)))
    return Levels(top, math.ceil(2**32 * top / (math.exp(epsilon) + top)))


def random_direction(cap: Cap, unit: jax.Array, key: jax.Array) -> jax.Array:
    """PrivUnit2: a random unit vector whose mean is `cap.mean` times the given one.

    Args:
      cap: from `best_cap`.
      unit: float32 `[d]` of norm 1.
      key: a secret key.

    Returns:
      float32 `[d]` of norm 1, up to rounding.

    Source: Bhowmick et al. (2018), https://arxiv.org/abs/1812.00984, algorithm 2, without the division by m.
    """
    choice, for_inner, for_rest = jax.random.split(key, 3)
    inside = jax.random.bits(choice, (), jnp.uint32) >= jnp.uint32(cap.miss)
    above, below = jax.random.split(for_inner)
    inner = jnp.where(inside, _inside(cap, above), _outside(cap, below))
    # The vector's part across `unit` is uniform there, whatever the part along it.
    across = jax.random.normal(for_rest, unit.shape, jnp.float32)
    across = across - jnp.sum(across * unit) * unit
    across = across / jnp.maximum(fl.global_norm(across), jnp.float32(1e-30))
    return inner * unit + jnp.sqrt(jnp.maximum(1.0 - inner * inner, 0.0)) * across


def _inside(cap: Cap, key: jax.Array) -> jax.Array:
    """An inner product of at least gamma, of density (1 - t^2)^((d-3)/2), by rejection of exponential candidates."""
    a, gamma = (cap.dim - 3) / 2, cap.gamma
    rate = exponential_rate(cap.dim, gamma)
    peak = min(1.0, max(gamma, (math.hypot(a, rate) - a) / rate))  # of the log of density over candidate density

    def log_ratio(t: jax.Array) -> jax.Array:
        drop = 0.0 if a == 0 else a * (jnp.log1p(-t * t) - math.log1p(-peak * peak))
        return drop + rate * (t - peak)

    for_size, for_test = jax.random.split(key)
    t = gamma + _exponential(for_size, (CANDIDATES,)) / rate
    inside = t < 1.0
    test = jax.random.uniform(for_test, (CANDIDATES,), jnp.float32)
    passed = inside & (test < jnp.exp(log_ratio(jnp.where(inside, t, gamma))))
    first = jnp.argmax(passed)
    return jnp.where(passed[first], t[first], gamma)


def exponential_rate(dim: int, gamma: float) -> float:
    """The rate of candidates above gamma, near that at which their density falls; more than 0.3 of them pass."""
    a = (dim - 3) / 2
    scale = math.sqrt(max(2 * a, 1.0))
    normal = (gamma * scale + math.sqrt((gamma * scale) ** 2 + 4)) / 2 * scale  # the best for a normal tail
    return max(normal, 2 * a * gamma / (1 - gamma * gamma), 1 / (1 - gamma))


def _exponential(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    # From 64 bits, so that the tail does not end where 24 bits of a float do.
    high, low = jax.random.bits(key, (2, *shape), jnp.uint32)
    fine = high.astype(jnp.float32) * 2.0**-32 + (low.astype(jnp.float32) + 0.5) * 2.0**-64
    return -jnp.log(jnp.minimum(fine, 1.0))


def _outside(cap: Cap, key: jax.Array) -> jax.Array:
    """An inner product below gamma: of uniform directions, the first one that is; at least half of them are."""
    along, across = jax.random.split(key)
    g = jax.random.normal(along, (OUTSIDE,), jnp.float32)
    rest = 2.0 * jax.random.gamma(across, (cap.dim - 1) / 2, (OUTSIDE,), jnp.float32)
    t = g / jnp.sqrt(g * g + rest)
    passed = t < cap.gamma
    first = jnp.argmax(passed)
    return jnp.where(passed[first], t[first], -cap.gamma)


def random_level(spec: Levels, share: jax.Array, key: jax.Array) -> jax.Array:
    """ScalarDP: an unbiased noisy version of a number in [0, 1]; a float32 scalar, not in [0, 1] itself."""
    for_rounding, for_choice, for_other = jax.random.split(key, 3)
    exact = jnp.clip(share, 0.0, 1.0) * spec.top
    low = jnp.minimum(jnp.floor(exact), spec.top - 1.0)
    level = low + (jax.random.uniform(for_rounding, (), jnp.float32) < exact - low).astype(jnp.float32)
    other = jax.random.randint(for_other, (), 0, spec.top).astype(jnp.float32)
    other = jnp.where(other >= level, other + 1.0, other)
    kept = jax.random.bits(for_choice, (), jnp.uint32) >= jnp.uint32(spec.miss)
    return spec.estimate(jnp.where(kept, level, other))


def priv_unit(*, clip_norm: Any, epsilon: float, norm_share: float = 0.2) -> fl.Aggregator:
    """Every client sends a random direction near that of its update, times a noised norm: epsilon-local privacy.

    Args:
      clip_norm: C, the largest L2 norm of an update, finite and above 0, or a tracer.
      epsilon: of one report, finite and above 0. It pays off from about 4 on; below, most of a report is noise.
      norm_share: the share of epsilon that the norm gets, in (0, 1); the direction gets the rest.

    Returns:
      an Aggregator for a chain behind `fl.mean(...)`.

    Raises:
      TypeError, ValueError: for numbers out of range. When built: as `local_gaussian`; for updates of fewer than 3
        entries, and for scalars, which have no share of epsilon.

    Guarantees:
      One report is epsilon-differentially private for any two updates: the ratio of the densities of a direction is at
      most `best_cap(...).epsilon`, that of the probabilities of a level `levels(...).epsilon`, and the two add up to at
      most epsilon. The report's mean is the clipped update. A client whose update is not finite reports the zero
      vector's noise, with weight 1. Directions are sampled in float32, whose normal variables end near 5.4 standard
      deviations: outside of an event of probability 1e-7.

    Source: Bhowmick et al. (2018), https://arxiv.org/abs/1812.00984, section 4.

    Example:
      >>> fl.chain(fl.mean(), priv_unit(clip_norm=1.0, epsilon=8.0)).name
      'chain(mean, priv_unit)'
    """
    clip_norm = fl.checks.positive(clip_norm=clip_norm, remedy="It is the largest L2 norm of an update.")
    fl.checks.concrete("The cap follows from it.", epsilon=epsilon, norm_share=norm_share)
    epsilon, norm_share = fl.checks.positive(epsilon=epsilon, norm_share=norm_share)
    if not 1e-6 <= epsilon <= 500:
        raise ValueError(
            f"`epsilon` is {epsilon!r}; expected a number from 1e-6 to 500, which is as good as no privacy."
        )
    if norm_share * epsilon < 1e-6:
        raise ValueError(
            f"`norm_share` is {norm_share!r}; expected a share of epsilon={epsilon!r} that is 1e-6 or more."
        )
    if not norm_share < 1:
        raise ValueError(f"`norm_share` is {norm_share!r}; expected a number in (0, 1): the direction needs the rest.")
    clip = clip_norm if fl.checks.is_traced(clip_norm) else float(clip_norm)
    for_norm = levels(norm_share * float(epsilon))
    cap_of = lambda entries: best_cap(entries, (1 - norm_share) * float(epsilon))  # noqa: E731

    def init(wire: fl.Wire) -> tuple[Any, fl.Wire]:
        check_local("priv_unit", wire)
        entries = _check_entries(wire)
        options = {"epsilon": float(epsilon), "delta": 0.0}
        longest = max(abs(for_norm.estimate(0)), abs(for_norm.estimate(for_norm.top))) / cap_of(entries).mean
        state = jnp.float32(longest)
        bounds = fl.Bounds(longest * clip, longest * clip)
        return state, clipping.noised(wire, Mechanism("priv_unit", (), TRUST, options=options), bounds)

    def encode(state: Any, own: Any, message: fl.Message, client: fl.ClientInfo) -> tuple[fl.Message, Any]:
        del state
        vector = rotation.flatten(clipping.clip(message.value, clip).value)
        norm = fl.global_norm(vector)
        first = jnp.zeros_like(vector).at[0].set(1.0)  # any direction serves a vector without one
        unit = jnp.where(norm > 0, vector / jnp.where(norm > 0, norm, 1.0), first)
        for_direction, for_level = jax.random.split(noise_key(client))
        cap = cap_of(vector.size)
        direction = random_direction(cap, unit, for_direction)
        length = clip * random_level(for_norm, norm / clip, for_level)
        value = rotation.unflatten(direction * (length / cap.mean), message.value)
        return fl.Message(value, jnp.ones_like(message.weight), message.scalars), own

    def prepare(state: Any, bounds: fl.Bounds) -> tuple[Any, fl.Bounds]:
        del bounds
        return state, fl.Bounds(state * clip, state * clip)

    hparams = {"clip_norm": clip_norm, "epsilon": epsilon, "norm_share": norm_share}
    return fl.Aggregator(init, encode, prepare=prepare, name="priv_unit", hparams=hparams)


def _check_entries(wire: fl.Wire) -> int:
    if wire.scalars:
        raise ValueError(
            f"`priv_unit` has no epsilon for scalars, and the algorithm sends {sorted(wire.scalars)}. Use "
            "privacy.local_gaussian, which noises them with the update."
        )
    entries = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(wire.value))
    if entries < 3:
        raise ValueError(
            f"`priv_unit` needs an update of at least 3 entries, got {entries}: caps are of the sphere in that many "
            "dimensions. Use privacy.local_laplace."
        )
    return entries
