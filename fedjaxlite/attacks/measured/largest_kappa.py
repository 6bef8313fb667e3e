"""The largest kappa of a rule that a search finds: how far so many bad messages move it, for any honest ones."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.attacks.measured.starts import start
from fedjaxlite.wire.robust.by_hand import apply
from fedjaxlite.wire.robust.tail import as_tail

FARTHEST = 1e3
LEAST_VARIANCE = 1e-2
"""The search stays where float32 tells a ratio from rounding: entries to a thousand, honest variances from 0.01."""


class Placement(NamedTuple):
    """Messages that move a rule.

    Attributes:
      kappa: float32 `[]`, |F - mean|^2 / variance of the honest messages.
      honest: float32 `[n - f, dim]`.
      bad: float32 `[f, dim]`.
    """

    kappa: jax.Array
    honest: jax.Array
    bad: jax.Array


def largest_kappa(
    rule: Any, *, n: int, f: int, dim: int = 2, tries: int = 64, steps: int = 100, key: Any = None
) -> Placement:
    """Searches for honest and bad messages that move a rule furthest from the honest mean, in honest deviations.

    A rule is (f, kappa)-robust if |F(x) - mean(S)|^2 is at most kappa times the mean over S of |x_i - mean(S)|^2, for
    any n - f of n messages S. So what is found is a lower bound of the rule's kappa, to be held against a proved upper
    one; nothing proves that there is no worse placement.

    All tries are one vmapped program. They start from scattered messages, from two points (which attain what no rule
    can be better than), from attacks along the mean and the deviations, and from copies. Each step tries to shift
    messages by random amounts, to lay one upon another, to move the bad ones nearer or farther, and to follow the
    slope where the rule has one that reverse-mode differentiation finds; and takes the best, if it is better.

    Args:
      rule: a rule of fl.robust, or a list of what stands before it and the rule.
      n: messages, bad ones among them.
      f: bad messages; what the rule was made for, or one more to see it break.
      dim: entries of a message.
      tries: searches side by side.
      steps: of each.
      key: of the search; None is `jax.random.key(0)`. What the rule itself draws is the same throughout.

    Returns:
      a Placement. Entries reach from -1000 to 1000, and the honest variance is 0.01 at least, so that a broken rule
      shows up as a kappa of thousands and not as infinity.

    Raises:
      TypeError, ValueError: for arguments that do not fit, and whatever the rule refuses.

    Source: Allouah et al. (2023), "Fixing by Mixing", https://arxiv.org/abs/2302.01772, definition 1.

    Example:
      >>> import fedjaxlite as fl
      >>> found = largest_kappa(fl.robust.mean(), n=5, f=1, tries=8, steps=5)
      >>> bool(found.kappa > 100), found.honest.shape
      (True, (4, 2))
    """
    tail = as_tail(rule)
    n, dim, tries, steps = checks.positive_int(n=n, dim=dim, tries=tries, steps=steps)
    f = checks.nonnegative_int(f=f)
    if f > n - 2:
        raise ValueError(f"`f` is {f} of n={n}; expected at most {n - 2}: two honest messages at least, which differ.")
    key = jax.random.key(0) if key is None else key
    checks.is_key(key=key)

    def kappa(x: jax.Array) -> jax.Array:
        honest = x[: n - f]
        mean = honest.mean(0)
        variance = jnp.square(honest - mean[None]).sum(1).mean()
        ratio = jnp.square(apply(tail, x) - mean).sum() / jnp.maximum(variance, LEAST_VARIANCE)
        return jnp.where((variance >= LEAST_VARIANCE) & jnp.isfinite(ratio), ratio, 0.0)

    climb = _climb(_with_slope(kappa, (n, dim)), n, f)

    def one(number: jax.Array) -> tuple[jax.Array, jax.Array]:
        begin, on = jax.random.split(jax.random.fold_in(key, number))
        x = _within(start(begin, number, n - f, f, dim))
        first = (x, jnp.float32(-1.0), jnp.zeros_like(x))
        return jax.lax.scan(climb, first, jax.random.split(on, steps))[0][:2]

    x, found = jax.jit(jax.vmap(one))(jnp.arange(tries, dtype=jnp.int32))
    best = found.argmax()
    return Placement(found[best], x[best, : n - f], x[best, n - f :])


def _climb(kappa_and_slope: Callable[..., tuple[jax.Array, jax.Array]], n: int, f: int) -> Any:
    """One step of a search, for a scan over keys; the rule stands in its program once, since it is what compiles."""

    def step(carry: tuple[jax.Array, jax.Array, jax.Array], key: jax.Array) -> tuple[Any, None]:
        x, _, slope = carry
        noise, rows, size, pair, far = jax.random.split(key, 5)
        spread = 10 ** jax.random.uniform(size, (), jnp.float32, -3.0, 0.5)
        some = jax.random.bernoulli(rows, jax.random.uniform(size), (n, 1))
        one, other = jax.random.randint(pair, (2,), 0, n)
        mean = x[: n - f].mean(0)
        stretch = 10 ** jax.random.uniform(far, (), jnp.float32, -1.0, 1.0)
        bad = (jnp.arange(n) >= n - f)[:, None]
        proposals = [
            x,
            x + jnp.where(some, spread, 0.0) * jax.random.normal(noise, x.shape, jnp.float32),
            x.at[one].set(x[other]),
            jnp.where(bad, mean[None] + stretch * (x - mean[None]), x),
            x + spread * slope,
        ]
        new = _within(jnp.stack(proposals))
        ratios, slopes = jax.vmap(kappa_and_slope)(new)
        best = ratios.argmax()
        return (new[best], ratios[best], slopes[best]), None

    return step


def _with_slope(kappa: Callable[..., jax.Array], shape: tuple[int, ...]) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """The ratio, and its direction of steepest ascent, of norm 1; of zeros where a rule loops until it is done."""
    both = jax.value_and_grad(kappa)
    try:
        jax.eval_shape(both, jax.ShapeDtypeStruct(shape, jnp.float32))
    except ValueError:
        return lambda x: (kappa(x), jnp.zeros_like(x))

    def with_direction(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        value, g = both(x)
        g = jnp.nan_to_num(g, nan=0.0, posinf=1.0, neginf=-1.0)
        norm = jnp.linalg.norm(g)
        return value, g / jnp.where(norm > 0, norm, 1.0)

    return with_direction


def _within(x: jax.Array) -> jax.Array:
    return jnp.clip(x, -FARTHEST, FARTHEST)
