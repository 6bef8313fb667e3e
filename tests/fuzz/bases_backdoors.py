"""Valid calls of attacks on data and of backdoors."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bases_engine import ALGORITHM, BATCH, init_rounds
from calls import Base

import fedjaxlite as fl
from fedjaxlite import attacks

PATTERN = attacks.trigger_pattern((3,), size=1)
TEST = {**BATCH, "y": np.zeros(2, np.int32)}
WHO = {"bad": ("clients",)}
COMMON: dict[str, Any] = {"algorithm": ALGORITHM, "bad": [0, 2]}
STAMPED: dict[str, Any] = {**COMMON, "target": 1, "fraction": 0.5, "x": "x", "y": "y"}
FEATURES = {"x": ("feature",), "y": ("feature",)}


def start(algorithm: fl.Algorithm) -> None:
    """Puts an attacked algorithm into rounds."""
    init_rounds(algorithm)


def on_data(test: Any) -> None:
    """Computes on what was made."""
    jax.block_until_ready(jax.tree.map(jnp.asarray, test))


ATTACKS = {
    "label_flip": Base(
        attacks.label_flip,
        {**COMMON, "num_classes": 3, "mapping": {0: 1}, "fraction": 0.5, "y": "label"},
        use=start,
        words={**WHO, "y": ("feature", "labels")},
    ),
    "backdoor": Base(attacks.backdoor, {**STAMPED, "trigger": PATTERN}, use=start, words={**WHO, **FEATURES}),
    "dba": Base(attacks.dba, {**STAMPED, "trigger": PATTERN, "parts": 1}, use=start, words={**WHO, **FEATURES}),
    "edge_case": Base(
        attacks.edge_case, {**STAMPED, "examples": np.ones((2, 3), np.float32)}, use=start, words={**WHO, **FEATURES}
    ),
    "model_replacement": Base(attacks.model_replacement, {**COMMON, "boost": 2.0}, use=start, words=WHO),
    "neurotoxin": Base(attacks.neurotoxin, {**COMMON, "top": 0.1}, use=start, words=WHO),
    "trigger_pattern": Base(
        attacks.trigger_pattern, {"shape": (4, 4), "size": 2, "place": "top_left", "value": 1.0}, use=on_data
    ),
    "stamp": Base(attacks.stamp, {"x": np.ones((2, 3), np.float32), "trigger": PATTERN}),
    "split_trigger": Base(attacks.split_trigger, {"trigger": PATTERN, "parts": 1}),
    "triggered": Base(
        attacks.triggered,
        {"test": TEST, "trigger": PATTERN, "target": 1, "x": "x", "y": "y"},
        use=on_data,
        words=FEATURES,
    ),
}
"""By their names in `fl.attacks`."""
BACKDOORS = {f"attacks.{name}": base for name, base in ATTACKS.items()}
