"""Methods of many local steps between two exchanges, whose workers keep their optimizer's state."""

from typing import Any

import helpers
import optax

import fedjaxlite as fl
from fedjaxlite.algorithms.low_communication.di_lo_co import di_lo_co
from fedjaxlite.algorithms.low_communication.streaming_di_lo_co import streaming_di_lo_co
from methods.method import Method

# Not Adam: under the tests' strict promotion of dtypes Optax's does not trace.
INNER = optax.rmsprop(0.02, eps=0.1, momentum=0.9)


def _di_lo_co(**options: Any) -> fl.Algorithm:
    return di_lo_co(helpers.linear_loss, inner_optimizer=INNER, **options)


def _streaming(**options: Any) -> fl.Algorithm:
    return streaming_di_lo_co(helpers.linear_loss, inner_optimizer=INNER, **options)


METHODS = (
    Method("di_lo_co", lambda: _di_lo_co(batch_size=4, steps=3)),
    Method("di_lo_co/full batch", lambda: _di_lo_co(batch_size=None, epochs=2, outer_optimizer=optax.sgd(1.0))),
    Method("streaming_di_lo_co", lambda: _streaming(fragments=3, overlap=1, mixing=0.25, batch_size=4, steps=3)),
    Method("streaming_di_lo_co/full batch", lambda: _streaming(fragments=2, overlap=2, batch_size=None, steps=3)),
)
