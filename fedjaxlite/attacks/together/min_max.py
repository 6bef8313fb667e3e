"""Min-Max and Min-Sum: as far along a direction as distances to the honest messages allow, in closed form."""

from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.attacks.together.honest import honest_mean, honest_moments, norms, scaled, send, sides, total
from fedjaxlite.attacks.who import as_bad, told
from fedjaxlite.wire.aggregator import Aggregator
from fedjaxlite.wire.rows import Rows, Shares
from fedjaxlite.wire.stacking import restack

PyTree = Any
DIRECTIONS = ("std", "unit", "sign")


def min_max(bad: Any, direction: str = "std") -> Aggregator:
    """Bad clients send `mean + gamma p`, no farther from any honest message than two honest ones are from each other.

    p is the paper's perturbation of the honest mean: minus the standard deviations ("std"), minus the mean itself
    ("unit"), or minus its signs ("sign"). For each honest message the condition is a quadratic inequality in gamma;
    the attack takes the smallest of their largest roots, where the paper and its followers bisect.

    Args:
      bad: who is bad: `attacks.pool`, `attacks.share`, or ids.
      direction: "std", "unit" or "sign".

    Returns:
      an Aggregator that stands before a rule. Deviations are of h - 1 of h honest messages.

    Raises:
      TypeError, ValueError: for arguments that do not fit.

    Source: Shejwalkar, Houmansadr (2021), "Manipulating the Byzantine: Optimizing Model Poisoning Attacks and Defenses
    for Federated Learning", NDSS, https://doi.org/10.14722/ndss.2021.24498, section IV (AGR-agnostic).

    Example:
      >>> import fedjaxlite as fl, jax.numpy as jnp
      >>> messages = jnp.float32([[0.0], [1.0], [4.0], [0.0]])  # sends 0: 4 away from 4, as 0 and 4 are
      >>> round(float(fl.robust.apply([fl.attacks.min_max([3]), fl.robust.mean()], messages)[0]), 4)
      1.25
    """
    return _along("min_max", bad, direction, _within_the_widest_pair)


def min_sum(bad: Any, direction: str = "std") -> Aggregator:
    """Bad clients send `mean + gamma p` with squared distances that sum to no more than those of an honest message.

    The sum over honest messages is h |gamma p|^2 and what their own mean has, so that the largest gamma puts the bad
    message exactly as far from the mean as the farthest honest one: `gamma |p| = max |x_i - mean|`, without a search.

    Args:
      bad: who is bad: `attacks.pool`, `attacks.share`, or ids.
      direction: "std", "unit" or "sign", as in `min_max`.

    Returns:
      an Aggregator that stands before a rule. Deviations are of h - 1 of h honest messages.

    Raises:
      TypeError, ValueError: for arguments that do not fit.

    Source: Shejwalkar, Houmansadr (2021), as `min_max`.

    Example:
      >>> import fedjaxlite as fl, jax.numpy as jnp
      >>> messages = jnp.float32([[0.0], [2.0], [4.0], [9.0]])  # sends 0: 2 below the mean
      >>> float(fl.robust.apply([fl.attacks.min_sum([3]), fl.robust.mean()], messages)[0])
      1.5
    """
    return _along("min_sum", bad, direction, _as_the_farthest)


def _along(name: str, bad: Any, direction: str, length: Any) -> Aggregator:
    who = as_bad(bad)
    direction = checks.one_of(DIRECTIONS, direction=direction)

    def attack(state: PyTree, rows: Rows, key: Any) -> tuple[Rows, PyTree]:
        honest, lying = sides(who, rows, key)
        if direction == "std":
            mean, std = honest_moments(rows, honest)
            step = jax.tree.map(jnp.negative, std)
        else:
            mean = honest_mean(rows, honest)
            step = jax.tree.map(lambda m: -(jnp.sign(m) if direction == "sign" else m), mean)
        norm = norms(rows.shares, step)
        step = jax.tree.map(lambda s: s / jnp.where(norm > 0, norm, 1.0), step)
        away, unit = scaled(rows, honest, mean)
        far = unit * length(rows.shares, away, honest, step)
        return send(rows, lying, jax.tree.map(lambda m, s: m + far * s, mean, step)), state

    return restack(attack, name=name, hparams={"bad": told(who), "direction": direction})


def _as_the_farthest(shares: Shares, away: PyTree, honest: jax.Array, step: PyTree) -> jax.Array:
    del honest, step
    square = shares.add(total(jax.tree.map(lambda a: jnp.square(a).sum(1), away)))
    return jnp.sqrt(square.max())


def _within_the_widest_pair(shares: Shares, away: PyTree, honest: jax.Array, step: PyTree) -> jax.Array:
    """The largest t with |t step - away_i| at most the widest distance of a pair, for all honest i; |step| is 1."""
    product = lambda a: jnp.einsum("im,jm->ij", a, a, precision="highest")  # noqa: E731
    gram = shares.add(total(jax.tree.map(product, away)))
    along = lambda a, s: jnp.einsum("im,m->i", a, s, precision="highest")  # noqa: E731
    inner = -shares.add(total(jax.tree.map(along, away, step)))
    square = jnp.diagonal(gram)
    pairs = square[:, None] + square[None] - 2 * gram
    widest = jnp.where(honest[:, None] & honest[None], pairs, 0.0).max()
    # t^2 + 2 inner t + square - widest = 0, by the formula that does not cancel.
    room = jnp.maximum(widest - square, 0.0)
    root = jnp.sqrt(inner**2 + room)
    largest = jnp.where(inner > 0, room / jnp.where(inner > 0, inner + root, 1.0), root - inner)
    return jnp.where(honest, largest, jnp.inf).min(initial=jnp.inf)
