"""Valid calls of the rules by distances, and of what stands before a rule."""

from typing import Any

from bases_engine import init_rounds, use_chain
from calls import Base

import fedjaxlite as fl
from fedjaxlite import robust


def before_a_rule(codec: Any) -> None:
    """Builds rounds with a codec of rows in front of the plain mean."""
    init_rounds(aggregator=fl.chain(fl.mean(), codec, robust.mean()))


def behind_a_mean(codec: Any) -> None:
    """Builds rounds with a rule."""
    use_chain(fl.chain(fl.mean(), codec))


ROBUST_DISTANCES: dict[str, Base] = {
    "robust.krum": Base(robust.krum, {"f": 1}, use=behind_a_mean, words={"f": ("krum",)}),
    "robust.multi_krum": Base(
        robust.multi_krum,
        {"f": 1, "m": 2},
        use=behind_a_mean,
        words={"f": ("multi_krum",), "m": ("multi_krum",), "neighbors": ("multi_krum",)},
    ),
    "robust.bulyan": Base(robust.bulyan, {"f": 0}, use=behind_a_mean, words={"f": ("bulyan",)}),
    "robust.mda": Base(robust.mda, {"f": 1}, use=behind_a_mean, words={"f": ("mda",)}),
    "robust.monna": Base(robust.monna, {"f": 1, "pivot": 0}, use=behind_a_mean, words={"f": ("monna",)}),
    "robust.nnm": Base(robust.nnm, {"f": 1}, use=before_a_rule, words={"f": ("nnm",)}),
    "robust.arc": Base(robust.arc, {"f": 1}, use=before_a_rule, words={"f": ("arc",)}),
    "robust.stale_weights": Base(robust.stale_weights, {"beta": 0.35, "scale": 1.0}, use=before_a_rule),
    "robust.bucketing": Base(robust.bucketing, {"size": 2}, use=before_a_rule),
}
"""By public name."""
