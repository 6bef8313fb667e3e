"""Central differential privacy with correlated noise (DP-FTRL): noise that later rounds partly take back.

    client:     delta_k  <-  delta_k * min(1, C / ||delta_k||)
    server:     sum of delta_k + z C n_t,    where n_0 + ... + n_t stays small: a tree's noise, or a banded matrix's

No client has to be sampled at random: what counts is how often one client takes part, and how far apart. Under a
server that sums what it gets (FedAvg, momentum, any linear optimizer) the model carries the cumulative noise.

Source: Kairouz, McMahan, Song, Thakkar, Thakurta, Xu (2021), "Practical and Private (Deep) Learning without Sampling or
Shuffling", https://arxiv.org/abs/2103.00039; Choquette-Choo, Ganesh, McKenna, McMahan, Rush, Thakurta, Xu (2023),
"(Amplified) Banded Matrix Factorization", https://arxiv.org/abs/2306.08153.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import fedjaxlite as fl
from fedjaxlite.privacy.central import clipping
from fedjaxlite.privacy.central.gaussian import TRUST
from fedjaxlite.privacy.central.noise import spread
from fedjaxlite.privacy.correlated import noise_streams, toeplitz, tree
from fedjaxlite.privacy.mechanisms import Mechanism, Release

SquaredSensitivity = Callable[[int, int, int], float]


class CorrelatedState(NamedTuple):
    """What a codec of correlated noise carries from round to round. It is secret: noise can be computed from it.

    Attributes:
      round: int32 scalar, rounds done.
      noise: the stream's state.
      scalar_bounds: dict of float32 scalars, the bounds on the scalars that travel beside the update.
    """

    round: Any
    noise: Any
    scalar_bounds: Any


def tree_gaussian(
    *,
    clip_norm: Any,
    noise_multiplier: Any,
    num_rounds: int,
    restart_every: int | None = None,
    estimator: str = "honaker",
) -> fl.Aggregator:
    """Clips every client's update and adds the noise of a binary tree over the rounds (DP-FTRL).

    The model carries the noise of log2(t) nodes after t rounds, not of t. Any sampler goes: epsilon follows from how
    often one client takes part and how far apart, and `fl.sampling.cyclic` bounds both.

    Args:
      clip_norm: C, as in `privacy.gaussian`.
      noise_multiplier: z, the standard deviation of one node's noise over C; 0 or above, or a tracer.
      num_rounds: T, how many rounds the run may have. More are refused; where a caller's jit hides their
        number, they release nothing.
      restart_every: begin a new tree after so many rounds, at most T. Each tree's nodes then hold fewer rounds of a
        client, and the noise of every finished tree's root stays in the model. None for one tree.
      estimator: "honaker" uses all nodes below a sum, with up to half the variance for the same guarantee, and keeps
        log2(rounds of a tree) float32 copies of the update; "naive" keeps one key.

    Returns:
      an Aggregator for a chain behind `fl.mean(over=...)`, before `fl.quantize` and masks. Its metric `rounds_left`
      counts down from T.

    Raises:
      TypeError, ValueError: for what `privacy.gaussian` refuses, here and when built; numbers of rounds that are no
        ints of at least 1, a `restart_every` above `num_rounds`, an unknown estimator.

    Guarantees:
      One client changes the sum of a round by at most `clip_norm` in L2. All T rounds together are one Gaussian
      mechanism with noise multiplier z / sqrt(S), S the tree's squared sensitivity to what one client may take part in
      (`tree.squared_sensitivity`), also where each round's updates depend on what earlier rounds released. The
      cumulative noise has the variances of `tree.cumulative_variances` times (z C)^2, times 1 + p beside p scalars.
      Nodes are drawn once, whatever the number of devices, and a resumed run draws what it would have drawn. Rounds
      past T release zeros. Rounding of float32 sums is not covered.

    Source: Kairouz et al. (2021), https://arxiv.org/abs/2103.00039, algorithm 1 and appendix D; Honaker (2015),
    "Efficient use of differentially private binary trees".

    Example:
      >>> from fedjaxlite import privacy
      >>> noise = privacy.tree_gaussian(clip_norm=1.0, noise_multiplier=7.0, num_rounds=2000)
      >>> fl.chain(fl.mean(over=10), noise).name
      'chain(mean, tree_gaussian)'
    """
    num_rounds = fl.checks.positive_int(num_rounds=num_rounds)
    estimator = fl.checks.one_of(tree.ESTIMATORS, estimator=estimator)
    if restart_every is not None:
        restart_every = int(fl.checks.positive_int(restart_every=restart_every))
        if restart_every > num_rounds:
            raise ValueError(
                f"`restart_every` is {restart_every} for num_rounds={num_rounds}; expected at most num_rounds, or no "
                "tree would be completed. Leave it out for one tree."
            )
    if estimator == "naive":
        stream = noise_streams.naive_tree(restart_every=restart_every)
    else:
        stream = noise_streams.honaker_tree(num_rounds=num_rounds, restart_every=restart_every)

    def squared_sensitivity(max_participations: int, min_separation: int, rounds: int) -> float:
        return tree.squared_sensitivity(max_participations, min_separation, rounds, restart_every=restart_every)

    own = {"restart_every": restart_every, "estimator": estimator}
    return _codec("tree", stream, squared_sensitivity, clip_norm, noise_multiplier, num_rounds, own)


def banded_gaussian(*, clip_norm: Any, noise_multiplier: Any, num_rounds: int, bands: int) -> fl.Aggregator:
    """Clips every client's update and adds banded Toeplitz noise (matrix factorization with b bands).

    A client whose rounds are at least `bands` apart costs as much as in independent noise, for much less noise in the
    model. The sampler has to promise that separation. One band is independent noise.

    Args:
      clip_norm: C, as in `privacy.gaussian`.
      noise_multiplier: z, the standard deviation of the white noise over C; 0 or above, or a tracer.
      num_rounds: T, how many rounds the run may have. More are refused; where a caller's jit hides their
        number, they release nothing.
      bands: b, at most T, and at most the separation of two rounds of one client. More bands mean less noise, and
        b - 1 float32 copies of the update as state.

    Returns:
      an Aggregator for a chain behind `fl.mean(over=...)`, before `fl.quantize` and masks. Its metric `rounds_left`
      counts down from T.

    Raises:
      TypeError, ValueError: for what `privacy.gaussian` refuses, here and when built; numbers that are no ints of at
        least 1, more bands than rounds; when built, a sampler that does not promise a separation of `bands` rounds.

    Guarantees:
      One client changes the sum of a round by at most `clip_norm` in L2. All T rounds together are one Gaussian
      mechanism with noise multiplier z / sqrt(k) for a client in at most k rounds, at least `bands` apart, also where
      each round's updates depend on what earlier rounds released: every column of the strategy has norm 1. The noise
      of T rounds is C^-1 w for white noise w, with `toeplitz.optimal_coefficients(T, bands)` and scaled columns; the
      cumulative noise has the variances of `toeplitz.cumulative_variances` times (z C)^2, times 1 + p beside p scalars.
      White noise is drawn once a round, whatever the number of devices, and a resumed run draws what it would have
      drawn. Rounds past T release zeros. Rounding of float32 sums is not covered.

    Source: Choquette-Choo et al. (2023), https://arxiv.org/abs/2306.08153, theorem 2 and algorithm 9.

    Example:
      >>> from fedjaxlite import privacy
      >>> noise = privacy.banded_gaussian(clip_norm=1.0, noise_multiplier=1.0, num_rounds=100, bands=8)
      >>> fl.chain(fl.mean(over=10), noise).name
      'chain(mean, banded_gaussian)'
    """
    toeplitz.check_bands(num_rounds, bands)
    coefficients = toeplitz.optimal_coefficients(num_rounds, bands)

    def squared_sensitivity(max_participations: int, min_separation: int, rounds: int) -> float:
        return toeplitz.squared_sensitivity(
            coefficients,
            rounds,
            max_participations=max_participations,
            min_separation=min_separation,
            normalized_for=num_rounds,
        )

    stream = noise_streams.banded_inverse(coefficients, num_rounds=num_rounds)
    return _codec("banded", stream, squared_sensitivity, clip_norm, noise_multiplier, num_rounds, {"bands": bands})


def _codec(
    kind: str,
    stream: noise_streams.NoiseStream,
    squared_sensitivity: SquaredSensitivity,
    clip_norm: Any,
    noise_multiplier: Any,
    num_rounds: int,
    own: Mapping[str, Any],
) -> fl.Aggregator:
    name = f"{kind}_gaussian"
    z = clipping.check_noise_multiplier(noise_multiplier)
    norms = clipping.check_clip_norm(clip_norm, z)
    longest = clipping.total_norm(norms)
    options = {"squared_sensitivity": _up_to(name, num_rounds, squared_sensitivity), "num_rounds": num_rounds, **own}
    silent = not fl.checks.is_traced(z) and z == 0

    def init(wire: fl.Wire) -> tuple[CorrelatedState, fl.Wire]:
        clipping.refuse(name, wire)
        clipping.check_prefix(name, norms, wire.value)
        _check_separation(name, own.get("bands", 1), wire)
        bounds = {scalar: float(wire.scalar_bounds[scalar]) for scalar in sorted(wire.scalars)}
        widths = spread(z, longest, bounds)
        releases = (Release(widths.value), *(Release(widths.scalars[scalar], bounds[scalar]) for scalar in bounds))
        mechanism = Mechanism(kind, releases, TRUST, options=options)
        noise = () if silent else stream.init((wire.value, dict(wire.scalars)))
        state = CorrelatedState(jnp.int32(0), noise, {scalar: jnp.float32(b) for scalar, b in bounds.items()})
        return state, clipping.noised(wire, mechanism, prepare(state, wire.bounds)[1])

    def prepare(state: CorrelatedState, bounds: fl.Bounds) -> tuple[CorrelatedState, fl.Bounds]:
        return state, clipping.bounded(bounds, norms)

    def encode(state: Any, own: Any, message: fl.Message, client: fl.ClientInfo) -> tuple[fl.Message, Any]:
        del client
        value = clipping.clip(message.value, norms).value
        scalars = clipping.clip_scalars(message.scalars, state.scalar_bounds)
        return message._replace(value=value, scalars=scalars), own

    def decode(state: CorrelatedState, total: fl.Message, key: Any) -> tuple[fl.Message, CorrelatedState]:
        sums, noise = (total.value, dict(total.scalars)), state.noise
        if not silent:
            drawn, noise = stream.next(noise, state.round, key, sums)
            widths = spread(z, longest, state.scalar_bounds)
            of_leaves = jax.tree.map(lambda leaf: widths.value, total.value)
            sums = jax.tree.map(_add, sums, drawn, (of_leaves, dict(widths.scalars)))
        # The sensitivity is that of so many rounds: of a later one, nothing may be seen.
        counted = state.round < num_rounds
        value, scalars = jax.tree.map(lambda leaf: jnp.where(counted, leaf, jnp.zeros_like(leaf)), sums)
        return total._replace(value=value, scalars=scalars), state._replace(round=state.round + 1, noise=noise)

    def metrics(state: CorrelatedState) -> dict[str, Any]:
        return {"rounds_left": jnp.maximum(num_rounds - state.round, 0)}

    hparams = {"clip_norm": clip_norm, "noise_multiplier": noise_multiplier, "num_rounds": num_rounds, **own}
    return fl.Aggregator(
        init, encode, decode, prepare=prepare, name=name, hparams=hparams, metrics=metrics, num_rounds=num_rounds
    )


def _add(total: jax.Array, noise: jax.Array, width: Any) -> jax.Array:
    width = jnp.asarray(width, total.dtype)
    # Not `width > 0`: were the width not a number, the sum must not come out without noise.
    return jnp.where(width == 0, total, total + width * noise.astype(total.dtype))


def _up_to(name: str, num_rounds: int, squared_sensitivity: SquaredSensitivity) -> SquaredSensitivity:
    """The sensitivity of at most so many rounds; for more there is no noise, so there is no guarantee to compute."""

    def checked(max_participations: int, min_separation: int, rounds: int) -> float:
        if rounds > num_rounds:
            raise ValueError(
                f"`{name}` was made for num_rounds={num_rounds} and is asked about {rounds} rounds, of which the last "
                f"{rounds - num_rounds} release nothing. Make it with num_rounds={rounds}, or run {num_rounds} rounds."
            )
        return squared_sensitivity(max_participations, min_separation, rounds)

    return checked


def _check_separation(name: str, bands: int, wire: fl.Wire) -> None:
    """Refuses a sampler under which two rounds of one client can meet in the bands."""
    sampler = wire.participation
    separation = 1 if sampler is None else sampler.min_separation
    if separation >= bands:
        return
    size = None if sampler is None or wire.num_clients is None else round(sampler.expected_size(wire.num_clients))
    groups = "" if size is None or not wire.num_clients else f" (this needs {size * bands} clients)"
    promise = "nothing is known of the sampler" if sampler is None else f"{sampler.kind!r} promises {separation}"
    raise ValueError(
        f"`{name}(bands={bands})` needs two rounds of one client to be at least {bands} rounds apart, and {promise}. "
        f"Draw the cohorts with fl.sampling.cyclic({'cohort_size' if size is None else size}, {bands}){groups}, or use "
        f"at most {separation} bands."
    )
