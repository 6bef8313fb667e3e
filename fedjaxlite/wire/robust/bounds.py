"""How far f of n clients can move a rule: what is proved."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Aggregator

NOT_PROVED = (
    "arc",
    "bucketing",
    "bulyan",
    "centered_clipping",
    "dnc",
    "fl_trust",
    "monna",
    "norm_filter",
    "one_of",
    "rlr",
    "stale_weights",
    "worker_momentum",
    "zeno_pp",
)
"""Rules, and what stands before one, without a proved kappa of their own."""


def kappa_bound(rule: str | Aggregator | Sequence[str | Aggregator], *, n: int, f: int | None = None) -> float | None:
    """The proved kappa of a rule that is (f, kappa)-robust.

    A rule F is (f, kappa)-robust for n messages if for every set S of n - f of them, which may be the honest ones,
    |F(all) - mean(S)|^2 <= kappa * (the mean over S of |x - mean(S)|^2). No rule has a kappa below `least_kappa`.

    With r = f / (n - 2f):

    | rule | kappa | proof |
    | --- | --- | --- |
    | `trimmed_mean` | 6 r (1 + r) | Allouah et al. (2023) |
    | `median`, `geometric_median` | 4 (1 + r)^2 | the same; the exact geometric median |
    | `krum` | 6 (1 + r) if `neighbors="byzfl"` | the same |
    | | (6 - 4 / (n - f - 1)) (n - f) / (n - 2f - 1) if not | by the same proof |
    | `multi_krum` | as `krum`, for m <= n - f | the least sums are below the honest mean sum |
    | `mda` | 8 f^2 / (n - f) | f pairs at most two diameters apart |
    | `meamed` | the less of 8 f^2 / (n - f) and 4 f / (n - f) (1 + 4 (1 + r)^2) | below |
    | `mean` | 0 for f = 0, else infinity | |
    | `nnm` before a rule | 8 f / (n - f) (kappa + 1) | Allouah et al. (2023) |
    | `arc` before a rule | kappa + 2 f / (n - 2f) | Allouah et al. (2025) |

    MeaMed, in one entry: its n - f values and S differ in at most f pairs, of which the one in S is no nearer to the
    median m; so it is off by at most the sum over these of 2 |x - m|, divided by n - f. Every |x - m| is at most the
    range of S, whose square is at most 2 (n - f) variances; or the squares sum to at most
    (n - f) (variance + (m - mean(S))^2), where the median's kappa bounds the last term.

    None of the others has a proved kappa: it would depend on a bound, on what the server knows, or on the state;
    `one_of` has that of the rule it takes.

    Args:
      rule: a rule's name, or the rule; or a sequence of what stands before it, and the rule: `["nnm", "median"]`.
      n: how many messages there are, more than 2f.
      f: how many of them may be bad; None is what the rules were made with.

    Returns:
      kappa; infinity where it is proved that there is none; None where nothing is proved. Rules that count weights have
      none: the definition counts clients.

    Raises:
      TypeError, ValueError: for a rule that this library does not have, for numbers that do not fit, and for a rule
        that was made for another `f`.

    Source: Allouah, Farhadkhani, Guerraoui, Gupta, Pinot and Stephan (2023), Fixing by Mixing: A Recipe for Optimal
    Byzantine ML under Heterogeneity, https://arxiv.org/abs/2302.01772; Allouah, Guerraoui, Gupta, Jellouli, Rizk and
    Stephan (2025), Adaptive Gradient Clipping for Robust Federated Learning, https://arxiv.org/abs/2405.14432.

    Example:
      >>> kappa_bound("trimmed_mean", n=11, f=1)
      0.7407407407407407
      >>> round(kappa_bound(["nnm", "median"], n=11, f=1), 3)
      4.751
      >>> kappa_bound("centered_clipping", n=11, f=1)
    """
    parts = (rule,) if isinstance(rule, (str, Aggregator)) or not isinstance(rule, Sequence) else tuple(rule)
    if not parts or not all(isinstance(part, (str, Aggregator)) for part in parts):
        raise TypeError(
            f"`rule` is {rule!r}; expected a rule's name, a rule, or what stands before a rule and the rule."
        )
    f = _bad(parts, f)
    _enough(n, f)
    kappa = _of_rule(parts[-1], n, f)
    for part in reversed(parts[:-1]):
        kappa = _behind(part, kappa, n, f)
    return kappa


def least_kappa(*, n: int, f: int) -> float:
    """The least kappa that an (f, kappa)-robust rule for n messages can have: f / (n - 2f).

    Args:
      n: how many messages there are, more than 2f.
      f: how many of them may be bad.

    Returns:
      f / (n - 2f).

    Raises:
      TypeError, ValueError: for numbers that do not fit.

    Source: Allouah et al. (2023), https://arxiv.org/abs/2302.01772.

    Example:
      >>> least_kappa(n=11, f=5)
      5.0
    """
    f = checks.nonnegative_int(f=f)
    _enough(n, f)
    return f / (n - 2 * f)


def _of_rule(part: str | Aggregator, n: int, f: int) -> float | None:
    name, hparams = _name(part), _hparams(part)
    r, share = f / (n - 2 * f), f / (n - f)
    if hparams.get("weighted") or name in NOT_PROVED:
        return None
    proved = {
        "mean": math.inf if f else 0.0,
        "trimmed_mean": 6 * r * (1 + r),
        "median": 4 * (1 + r) ** 2,
        "geometric_median": 4 * (1 + r) ** 2,
        "mda": 8 * f * share,
        "meamed": min(8 * f * share, 4 * share * (1 + 4 * (1 + r) ** 2)),
    }
    if name in ("krum", "multi_krum"):
        return _krum(name, hparams, n, f)
    if name not in proved:
        known = ", ".join(sorted((*proved, "krum", "multi_krum", "nnm", *NOT_PROVED)))
        raise ValueError(f"`rule` is {name!r}; expected one of fl.robust at the end: {known}.")
    return proved[name]


def _krum(name: str, hparams: Mapping[str, Any], n: int, f: int) -> float | None:
    """With q = n - 2f honest ones at least among those that a sum runs over, or one fewer."""
    m = hparams.get("m")
    if name == "multi_krum" and m is not None and m > n - f:
        return None
    if hparams.get("neighbors", "blanchard") == "byzfl":
        return 6 * (n - f) / (n - 2 * f)
    if n < 2 * f + 3:
        raise ValueError(
            f"`n` is {n}; expected at least 2f + 3 = {2 * f + 3} for `{name}` with the neighbors of its paper."
        )
    return (6 - 4 / (n - f - 1)) * (n - f) / (n - 2 * f - 1)


def _behind(part: str | Aggregator, kappa: float | None, n: int, f: int) -> float | None:
    name = _name(part)
    if name not in ("nnm", "arc", *NOT_PROVED):
        raise ValueError(f"`rule` has {name!r} before its end; expected `nnm` or `arc`, and a rule after them.")
    if kappa is None or name not in ("nnm", "arc"):
        return None
    if f == 0:  # the one makes every message the mean, the other changes nothing
        return 0.0 if name == "nnm" else kappa
    return 8 * f / (n - f) * (kappa + 1) if name == "nnm" else kappa + 2 * f / (n - 2 * f)


def _bad(parts: Sequence[str | Aggregator], f: int | None) -> int:
    made = {name: part["f"] for part, name in ((_hparams(p), _name(p)) for p in parts) if part.get("f") is not None}
    if f is None and not made:
        raise TypeError("`f` is None; expected how many messages may be bad, as no rule here was made with one.")
    bad: int = checks.nonnegative_int(f=next(iter(made.values())) if f is None else f)
    for name, own in made.items():
        if own != bad:
            raise ValueError(f"`f` is {bad}, and `{name}` was made with f={own}; expected the same in all.")
    return bad


def _enough(n: int, f: int) -> None:
    checks.positive_int(n=n)
    if n <= 2 * f:
        raise ValueError(f"`n` is {n}; expected more than 2f = {2 * f}: no rule withstands that half of all are bad.")


def _name(part: str | Aggregator) -> str:
    name = part if isinstance(part, str) else part.name
    return "mean" if name == "robust_mean" else name


def _hparams(part: str | Aggregator) -> Mapping[str, Any]:
    return {} if isinstance(part, str) else part.hparams
