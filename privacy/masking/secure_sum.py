"""Secure aggregation in a chain: integers first, then masks."""

from typing import Any

import fedjaxlite as fl
from fedjaxlite.privacy.masking.masks import mask


def secure_sum(
    *,
    bits: int = 16,
    rounding: str = "stochastic",
    neighbors: int | None = None,
    threshold: int | None = None,
    colluders: int = 0,
    masking: str = "faithful",
    min_survivors: int | None = None,
) -> fl.Aggregator:
    """Quantizes every update and masks it, so that the server learns the cohort's sum and no single update.

    It stands for `fl.quantize(bits=..., rounding=...), mask(...)` in a chain, which multiplies integer weights between
    the two; weights and scalars are masked with the update. A round in which too few clients are left is refused: its
    sum is zero.

    Args:
      bits: as in `fl.quantize`; the range is the wire's bound on an entry, so a clip stands before.
      rounding: likewise.
      neighbors: as in `mask`, like all that follow.
      threshold: t.
      colluders: c.
      masking: "faithful" or "algebraic".
      min_survivors: the fewest messages whose sum is opened.

    Returns:
      an Aggregator for `fl.chain`, of two parts; last in the chain.

    Raises:
      ValueError, TypeError: as `fl.quantize` and `mask` do; when built, where capacity x weight cap x levels could pass
        2^31 - 1.

    Guarantees:
      The sum is bit for bit that of `fl.quantize` alone, so masks cost no accuracy. Masks are simulated here, with keys
      that the simulator holds; see `mask` for what they would hide from a real server.

    Source: Bonawitz et al. (2017), https://eprint.iacr.org/2017/281; Bell et al. (2020),
      https://eprint.iacr.org/2020/704.

    Example:
      >>> import fedjaxlite as fl
      >>> fl.chain(fl.mean(), fl.clip_by_global_norm(1.0), secure_sum(bits=12)).name
      'chain(mean, clip_by_global_norm, quantize, mask)'
    """
    quantize = fl.quantize(bits=bits, rounding=rounding)
    hide = mask(
        neighbors=neighbors, threshold=threshold, colluders=colluders, masking=masking, min_survivors=min_survivors
    )
    hparams = {**quantize.hparams, **hide.hparams}
    return fl.Aggregator(init=_outside, role="mask", name="secure_sum", parts=(quantize, hide), hparams=hparams)


def _outside(wire: Any) -> Any:
    del wire
    raise ValueError(
        "`secure_sum` works inside of a chain, which multiplies weights between its two parts. Write "
        "fl.chain(fl.weighted_mean(weight_cap=...), fl.clip_by_global_norm(...), secure_sum(...))."
    )
