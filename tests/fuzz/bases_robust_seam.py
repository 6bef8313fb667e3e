"""Valid calls of what rules are made of."""

from typing import Any

import jax
import jax.numpy as jnp
from bases_engine import init_rounds
from calls import Base

import fedjaxlite as fl


def _largest(state: Any, rows: fl.Rows, key: Any) -> tuple[Any, Any]:
    return jax.tree.map(lambda v: v.max(0), rows.values), state


def _as_they_are(state: Any, rows: fl.Rows, key: Any) -> tuple[fl.Rows, Any]:
    return rows, state


def _behind_a_mean(*codecs: fl.Aggregator) -> Any:
    return init_rounds(aggregator=fl.chain(fl.mean(), *codecs))


SEAM = {
    "rule": Base(fl.rule, {"fn": _largest, "name": "largest", "minimum": 2}, use=_behind_a_mean),
    "restack": Base(
        fl.restack,
        {"fn": _as_they_are, "name": "same", "minimum": 2},
        use=lambda codec: _behind_a_mean(codec, fl.robust.mean()),
    ),
    "robust.mean": Base(fl.robust.mean, {}, use=_behind_a_mean),
    "robust.apply": Base(
        fl.robust.apply,
        {
            "codecs": fl.robust.mean(),
            "values": {"w": jnp.ones((3, 2))},
            "weights": jnp.float32([1, 2, 3]),
            "present": jnp.array([True, True, False]),
            "ids": jnp.arange(3),
            "key": jax.random.key(0),
        },
    ),
}
