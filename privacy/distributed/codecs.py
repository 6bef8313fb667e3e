"""Distributed differential privacy: every client adds a share of the noise, in the integers that a secure sum adds up.

    client    clip -> rotate -> scale to a grid -> round -> add integer noise -> mod 2^32   ( -> mask)
    server    sum mod 2^32 -> signed -> scale back -> rotate back

The server needs no trust for the noise: it is in the sum before the server sees it. One object holds clip, rotation,
grid and noise, so that the sensitivity that the noise covers is that of the rounded integers.

Sources:
  Kairouz, Liu, Steinke (2021), "The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure
  Aggregation", https://arxiv.org/abs/2102.06387, algorithms 1 and 2.
  Agarwal, Kairouz, Liu (2021), "The Skellam Mechanism for Differentially Private Federated Learning",
  https://arxiv.org/abs/2110.04995, algorithm 1.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import fedjaxlite as fl
from fedjaxlite.privacy.central import clipping
from fedjaxlite.privacy.distributed import rotation
from fedjaxlite.privacy.distributed.discrete_grid import MARGIN, Grid, check_range, make_grid, rdp_of
from fedjaxlite.privacy.distributed.discrete_noise import NoiseTable, draw, noise_table, sampling_distance
from fedjaxlite.privacy.distributed.rounding import attempts, conditional_round
from fedjaxlite.privacy.mechanisms import Mechanism, Release

TRUST = (
    "Noise is added by the clients: the server sees who takes part and, behind a mask, the noised sum alone; without a "
    "mask it sees every message, with one client's share of the noise. At least {n} honest clients report, or the "
    "round is discarded. Neighbors replace one client's update by zeros; amplification by sampling protects against "
    "those who do not see who takes part."
)


def skellam(
    *,
    clip_norm: Any,
    noise_multiplier: float,
    bits: int,
    min_survivors: int,
    rotate: bool = True,
    beta: float = math.exp(-0.5),
) -> fl.Aggregator:
    """Clipped updates on an integer grid, with Skellam noise of every client in the sum.

    Skellam noise is closed under sums: that of n clients is Skellam noise of n times the variance. Scalars that the
    algorithm sends beside the update travel within the same vector: with p of them, update / C and scalars / bounds
    are one vector of norm at most sqrt(1 + p).

    The grid follows from the bits: the clip norm is c steps, the largest int with c + (largest noise of one client) <=
    2^(bits-1) - 1, where that noise has variance (z c)^2 / n and is cut where less than 2^-96 of it lies beyond.

    Args:
      clip_norm: C, the largest L2 norm of an update; a finite number above 0, or a tracer.
      noise_multiplier: z, the standard deviation of the noise in the sum of `min_survivors` clients, over C; a concrete
        number of at least 0. The effective multiplier is a little less, since rounding lengthens vectors.
      bits: of an entry on the wire before a mask, 2 to 20: integers from -(2^(bits-1) - 1) to 2^(bits-1) - 1.
      min_survivors: n, how many honest clients report in a round at least; each adds 1/n of the noise's variance. A
        round in which fewer report is discarded: its mean is zero and the metric `discarded` is 1.
      rotate: False leaves out the random rotation, and with it the padding to a power of two.
      beta: in [0, 1), the largest chance that a rounded vector is too long and is rounded again; see
        `rounding.rounded_norm_bound`. 0 never rounds again, at the price of a longer bound.

    Returns:
      an Aggregator for a chain behind `fl.mean(over=...)`, before masks. Its values are integers mod 2^32, one vector.

    Raises:
      TypeError, ValueError: for numbers out of range, a traced noise multiplier, bits that leave no step for the clip.
        When built: as every mechanism, for means without a fixed denominator, scaled weights, values that are
        integers already, a second mechanism, scalars without bounds; for fewer slots than `min_survivors`; and where
        capacity x largest entry could pass 2^31 - 1.

    Guarantees:
      The integers of one client, before noise, have an L2 norm of at most the bound that the noise is accounted for,
      whatever it sends. Every client that reports adds its noise, also one whose update was not finite. No sum can
      overflow. The sum holds Skellam noise of variance at least (z c)^2 in every entry; its Renyi divergences are
      `discrete_accounting.skellam_rdp` of the integers' own bounds. Neighbors: one client's update is replaced by zeros
      while it still adds noise. Clients that collude with the server do not count as survivors: their noise is known.
      The rotation's seed is public. Random bits are JAX's (threefry), which is no cryptographic generator.

    Source: Agarwal, Kairouz, Liu (2021), https://arxiv.org/abs/2110.04995, algorithm 1; rounding: Kairouz, Liu, Steinke
      (2021), https://arxiv.org/abs/2102.06387, theorem 1.

    Example:
      >>> from fedjaxlite import privacy
      >>> noise = skellam(clip_norm=1.0, noise_multiplier=1.0, bits=16, min_survivors=8)
      >>> fl.chain(fl.mean(over=10), noise).name
      'chain(mean, skellam)'
    """
    rotate = fl.checks.flag(rotate=rotate)
    return _codec(_Settings("skellam", clip_norm, noise_multiplier, bits, min_survivors, rotate, beta))


def discrete_gaussian(
    *,
    clip_norm: Any,
    noise_multiplier: float,
    bits: int,
    min_survivors: int,
    rotate: bool = True,
    beta: float = math.exp(-0.5),
) -> fl.Aggregator:
    """Clipped updates on an integer grid, with discrete Gaussian noise of every client in the sum.

    As `skellam`, whose arguments, results and guarantees are these too. Sums of discrete Gaussians are not quite
    discrete Gaussian: the accounting holds the difference (tau), which is nothing once a client's own noise has a
    variance of 2 or more in grid units, and makes epsilon useless well below: take more bits then, or `skellam`.

    Args:
      clip_norm: as in `skellam`.
      noise_multiplier: as in `skellam`; each client's sigma^2 is (z c)^2 / min_survivors.
      bits: as in `skellam`.
      min_survivors: as in `skellam`.
      rotate: as in `skellam`.
      beta: as in `skellam`.

    Returns:
      an Aggregator for a chain behind `fl.mean(over=...)`, before masks.

    Raises:
      TypeError, ValueError: as `skellam`.

    Guarantees:
      Those of `skellam`; the Renyi divergences are `discrete_accounting.discrete_gaussian_rdp` for the noise of
      `min_survivors` clients. More of them only add noise.

    Source: Kairouz, Liu, Steinke (2021), https://arxiv.org/abs/2102.06387, algorithms 1 and 2, proposition 14.

    Example:
      >>> noise = discrete_gaussian(clip_norm=1.0, noise_multiplier=1.0, bits=16, min_survivors=8)
      >>> fl.chain(fl.mean(over=10), noise).name
      'chain(mean, discrete_gaussian)'
    """
    rotate = fl.checks.flag(rotate=rotate)
    return _codec(_Settings("discrete_gaussian", clip_norm, noise_multiplier, bits, min_survivors, rotate, beta))


class Parts(NamedTuple):
    """A rotated vector on the wire, in pieces that tell the update's shapes.

    Attributes:
      entries: pytree like the update, uint32.
      rest: uint32 `[d - entries]`: scalars and padding; None where there are none.
    """

    entries: Any
    rest: Any


class State(NamedTuple):
    """What a distributed mechanism keeps.

    Attributes:
      seed: uint32 `[2]`, the round's public rotation.
      table: one client's noise.
      scalar_bounds: dict of float32 scalars.
      stretch: float32 scalar, the largest L2 norm of a rounded update over the clip norm.
      survivors: int32 scalar, the messages in the last round's sum.
    """

    seed: Any
    table: NoiseTable
    scalar_bounds: Any
    stretch: Any
    survivors: Any


class _Settings(NamedTuple):
    """The arguments of `skellam` and `discrete_gaussian`."""

    kind: str
    clip_norm: Any
    noise_multiplier: float
    bits: int
    min_survivors: int
    rotate: bool
    beta: float

    def grid(self, entries: int) -> Grid:
        """The grid of a vector of so many entries, scalars included."""
        return make_grid(
            self.kind,
            self.noise_multiplier,
            bits=self.bits,
            min_survivors=self.min_survivors,
            dim=rotation.padded_size(entries) if self.rotate else entries,
            beta=self.beta,
        )


def _codec(settings: _Settings) -> fl.Aggregator:
    numbers = settings._asdict()
    remedy = "The table of discrete noise and the grid follow from it. Build one chain for each value."
    fl.checks.concrete(remedy, noise_multiplier=settings.noise_multiplier, beta=settings.beta)
    settings = settings._replace(
        clip_norm=fl.checks.positive(clip_norm=settings.clip_norm, remedy="It is the largest L2 norm of an update."),
        rotate=fl.checks.flag(rotate=settings.rotate),
        **{name: fl.checks.positive_int(**{name: numbers[name]}) for name in ("bits", "min_survivors")},
        noise_multiplier=fl.checks.number(
            noise_multiplier=fl.checks.nonnegative(
                "0 switches the noise off.", noise_multiplier=settings.noise_multiplier
            )
        ),
        beta=fl.checks.fraction("It is the chance that one attempt at rounding is too long.", beta=settings.beta),
    )
    settings.grid(1)  # refuses now what it refuses for every model
    hparams = settings._asdict()
    name = hparams.pop("kind")
    if not fl.checks.is_traced(settings.clip_norm):
        settings = settings._replace(clip_norm=float(settings.clip_norm))

    def metrics(state: State) -> dict[str, jax.Array]:
        discarded = (state.survivors < settings.min_survivors).astype(jnp.int32)
        return {"survivors": state.survivors, "discarded": discarded}

    return fl.Aggregator(
        init=lambda wire: _init(settings, wire),
        begin=lambda state, cohort, key: state._replace(seed=jax.random.key_data(key)),
        prepare=lambda state, bounds: (state, fl.Bounds(state.stretch * settings.clip_norm)),
        encode=lambda state, own, message, client: (_encode(settings, state, message, client), own),
        decode=lambda state, total, key: _decode(settings, state, total),
        metrics=metrics,
        name=name,
        hparams=hparams,
    )


def _init(settings: _Settings, wire: fl.Wire) -> tuple[State, fl.Wire]:
    clipping.refuse(settings.kind, wire)
    grid = settings.grid(_size(wire.value) + len(wire.scalars))
    check_range(settings.kind, grid, bits=settings.bits, capacity=wire.capacity)
    bounds = {name: jnp.float32(wire.scalar_bounds[name]) for name in sorted(wire.scalars)}
    stretch = grid.l2 * _step(grid, len(bounds))
    table = noise_table(settings.kind, grid.local_variance)
    state = State(jnp.zeros((2,), jnp.uint32), table, bounds, jnp.float32(stretch), jnp.int32(0))
    mechanism = _mechanism(settings.kind, grid, _step(grid, len(bounds)) * settings.clip_norm, wire.capacity)
    return state, wire._replace(
        value=jax.eval_shape(lambda value: _parts(jnp.zeros((grid.dim,), jnp.uint32), value), wire.value),
        # Before a mask the chain makes the weight an integer too.
        weight=jax.ShapeDtypeStruct((), jnp.uint32 if wire.mask_ahead else jnp.float32),
        scalars={},
        group="mod32",
        bits=settings.bits,
        bounds=fl.Bounds(stretch * settings.clip_norm),
        noised=True,
        mechanisms=(*wire.mechanisms, mechanism),
    )


def _encode(settings: _Settings, state: State, message: fl.Message, client: fl.ClientInfo) -> fl.Message:
    scalars = clipping.clip_scalars(message.scalars, state.scalar_bounds)
    shares = [scalars[name] / state.scalar_bounds[name] for name in sorted(scalars)]
    value = clipping.clip(message.value, settings.clip_norm).value
    grid = settings.grid(_size(value) + len(shares))
    vector = rotation.flatten((rotation.flatten(value) / settings.clip_norm, shares), grid.dim)
    vector = vector / jnp.float32(_step(grid, len(shares)))
    vector = rotation.rotate(vector, _public(state.seed)) if settings.rotate else vector
    for_rounding, spare = jax.random.split(client.key)
    rounded = conditional_round(
        vector, largest=grid.clip, bound=grid.l2, key=for_rounding, max_attempts=attempts(settings.beta)
    )
    for_noise = spare if client.noise is None else client.noise  # None is outside of a run only
    noised = rounded + draw(state.table, for_noise, (grid.dim,))
    words = jax.lax.bitcast_convert_type(noised, jnp.uint32)
    # Everybody who reports weighs 1, also where the update was not finite: the noise that it adds counts.
    return fl.Message(_parts(words, value), jnp.float32(1.0), {})


def _decode(settings: _Settings, state: State, total: fl.Message) -> tuple[fl.Message, State]:
    survivors = jax.lax.bitcast_convert_type(total.weight.astype(jnp.uint32), jnp.int32)
    enough = survivors >= settings.min_survivors
    names, entries = sorted(state.scalar_bounds), _size(total.value.entries)
    grid = settings.grid(entries + len(names))
    signed = jax.tree.map(lambda leaf: jax.lax.bitcast_convert_type(leaf, jnp.int32), total.value)
    vector = rotation.flatten(signed) * jnp.float32(_step(grid, len(names)))
    vector = rotation.rotate_back(vector, _public(state.seed)) if settings.rotate else vector
    vector = jnp.where(enough, vector, 0.0)
    value = rotation.unflatten(vector[:entries] * settings.clip_norm, total.value.entries)
    scalars = {name: vector[entries + i] * state.scalar_bounds[name] for i, name in enumerate(names)}
    weight = jnp.where(enough, survivors, 0).astype(jnp.float32)
    return fl.Message(value, weight, scalars), state._replace(survivors=survivors)


def _step(grid: Grid, num_scalars: int) -> float:
    """A step of the grid as a share of the clip norm: the whole vector, scalars included, is sqrt(1 + p) of it long."""
    return math.sqrt(1 + num_scalars) / (grid.clip * MARGIN)


def _mechanism(kind: str, grid: Grid, unit: Any, capacity: int) -> Mechanism:
    options = {
        **grid._asdict(),
        "rdp": rdp_of(kind, grid),
        "step": unit,
        "sampling_distance": sampling_distance(float(capacity * grid.dim)),
    }
    release = Release(std=grid.std * unit, sensitivity=grid.l2 * unit)
    return Mechanism(kind, (release,), TRUST.format(n=grid.survivors), options=options)


def _size(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _parts(words: jax.Array, template: Any) -> Parts:
    entries = _size(template)
    return Parts(rotation.unflatten(words, template), words[entries:] if words.size > entries else None)


def _public(seed: jax.Array) -> jax.Array:
    return jax.random.wrap_key_data(seed, impl="threefry2x32")
