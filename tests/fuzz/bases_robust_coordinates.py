"""Valid calls of the rules that look at one entry at a time, and of a rule by hand."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from bases_engine import init_rounds
from calls import Base

import fedjaxlite as fl
from fedjaxlite import robust


def behind_a_mean(rule: Any) -> None:
    """Puts a rule into rounds."""
    init_rounds(aggregator=fl.chain(fl.mean(), rule))


ROBUST_COORDINATES = {
    "robust.apply": Base(robust.apply, {"codecs": robust.mean(), "values": jnp.ones((4, 3)), "weights": np.ones(4)}),
    "robust.mean": Base(robust.mean, {}, use=behind_a_mean),
    "robust.median": Base(robust.median, {"weighted": False}, use=behind_a_mean),
    "robust.trimmed_mean": Base(robust.trimmed_mean, {"f": 1}, use=behind_a_mean, words={"f": ("trimmed_mean",)}),
    "robust.meamed": Base(robust.meamed, {"f": 1}, use=behind_a_mean, words={"f": ("meamed",)}),
    "robust.rlr": Base(robust.rlr, {"threshold": 2}, use=behind_a_mean, words={"threshold": ("rlr",)}),
    "robust.kappa_bound": Base(
        robust.kappa_bound, {"rule": "median", "n": 11, "f": 1}, words={"rule": ("nnm",), "f": ("2f",), "n": ("2f",)}
    ),
    "robust.least_kappa": Base(robust.least_kappa, {"n": 11, "f": 1}, words={"f": ("2f",), "n": ("2f",)}),
}
