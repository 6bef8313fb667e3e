"""The laws of an aggregator: first of its codecs alone, then inside rounds of an algorithm that only sends."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fedjaxlite as fl
from fedjaxlite.testing.algorithms import check_algorithm
from fedjaxlite.testing.codec_laws import check_codec, random_like
from fedjaxlite.testing.compare import Tolerance

PyTree = Any
_NUM_CLIENTS = 8
_ROUND_LAWS = ("layout", "order", "padding", "nonfinite", "steps", "resume")


def check_aggregator(
    aggregator: fl.Aggregator,
    template: PyTree,
    *,
    scale: float = 1.0,
    laws: Sequence[str] = _ROUND_LAWS,
    layouts: Sequence[fl.Execution] | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> None:
    """Holds an aggregator to the laws of this library.

    Codecs: `encode` gives what the wire says, for one client and vmapped; states keep their structure; the sum is
    exact in any order in the integers mod 2^32, and to the tolerance in floats; nothing sent is nothing received;
    decoding is linear in the total; a message obeys the bounds on the wire. Rounds: the laws of `check_algorithm`, with
    an algorithm whose clients send random updates of the template's shape and count their examples.

    Args:
      aggregator: a mean, or a chain that begins with one.
      template: pytree of arrays or shapes, what clients send; a few dozen numbers are enough.
      scale: standard deviation of the entries that are sent.
      laws: the laws of `check_algorithm` to run, out of `LAWS`; none for an empty list.
      layouts: executions to compare; `default_layouts()` if None.
      rtol: allowed difference relative to the largest entry of a leaf.
      atol: allowed absolute difference.

    Raises:
      AssertionError: at the first law that is broken, naming the law and the leaf.

    Example:
      >>> import jax.numpy as jnp
      >>> check_aggregator(fl.chain(fl.mean(), fl.clip_by_global_norm(1.0)), {"w": jnp.zeros(3)}, laws=[])
    """
    shapes = jax.eval_shape(lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), template))
    chain = aggregator if aggregator.role == "chain" else fl.chain(aggregator)
    check_codec(chain, shapes, _NUM_CLIENTS, scale, Tolerance(rtol, atol))
    if laws:
        sizes = np.arange(1, _NUM_CLIENTS + 1)
        owner = np.repeat(np.arange(_NUM_CLIENTS), sizes)
        population = fl.Population.from_arrays({"x": np.zeros(len(owner), np.float32)}, client_ids=owner)
        params = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        check_algorithm(
            _sender(shapes, scale),
            params,
            population,
            aggregator=aggregator,
            laws=laws,
            layouts=layouts,
            rtol=rtol,
            atol=atol,
        )


def _sender(shapes: PyTree, scale: float) -> fl.Algorithm:
    """An algorithm without learning: clients send random updates, the server adds them up."""

    def client_update(shared: Any, client_state: Any, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        del shared
        return fl.ClientOutput(random_like(shapes, key, scale), data.num_examples, client_state=client_state)

    def server_update(params: Any, aggregate: fl.Aggregate, key: jax.Array) -> Any:
        del key
        return jax.tree.map(lambda p, d: p - d.astype(p.dtype), params, aggregate.value)

    return fl.Algorithm(lambda params: params, client_update, server_update, params=lambda state: state, name="sender")
