"""FLTrust: clients are believed as far as they point where the server's own data point."""

from typing import Any

import jax

from fedjaxlite.wire.aggregator import Aggregator
from fedjaxlite.wire.robust.server_data import server_row
from fedjaxlite.wire.robust.server_data.server_row import Counts
from fedjaxlite.wire.rows import Rows
from fedjaxlite.wire.stacking import rule

PyTree = Any


def fl_trust(*, server: Any) -> Aggregator:
    """The mean of clients' messages by trust, each at the norm of the server's message; trust is ReLU of the cosine.

    With g_0 of the server, which trains on data of its own as one more client does (`server_client`):

        sum of ReLU(cos(g_k, g_0)) * g_k |g_0| / |g_k|   over   sum of ReLU(cos(g_k, g_0))

    The server's message decides and does not count. It must reach the rule as it is: put nothing before it that mixes
    messages (buckets, nearest neighbors).

    Args:
      server: the id of the server's client, `fl.robust.server_client(...).id`; an int, or a tracer.

    Returns:
      an Aggregator that ends a chain. Memory: K messages. A round in which nobody has trust, or without the server's
      message, changes nothing; `PassInfo.aggregator` counts both: "nobody_trusted" and "no_server".

    Raises:
      TypeError, ValueError: for what is no id. ValueError: when built, for means with weights.

    Guarantees:
      The result's norm is at most |g_0|, and it does not point away from g_0, whatever clients send and however many of
      them are bad. It scales with the server's message and not with the clients'. Equivariant to orthogonal maps and
      permutations.

    Source: Cao, Fang, Liu, Gong (2021), "FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping",
    https://arxiv.org/abs/2012.13995, algorithm 2.

    Example:
      >>> import fedjaxlite as fl, jax.numpy as jnp
      >>> x = jnp.float32([[8, 0], [0, 3], [-50, 0], [2, 0]])
      >>> fl.robust.apply(fl_trust(server=3), x).tolist()
      [2.0, 0.0]
    """
    server = server_row.checked(server)

    def fn(counted: Counts, rows: Rows, key: Any) -> tuple[PyTree, Counts]:
        del key
        beside = server_row.compared(rows, server)
        return server_row.mean_of(rows, beside, jax.nn.relu(beside.cosine), counted)

    made = rule(fn, name="fl_trust", hparams={"server": server}, init=lambda update: server_row.counts())
    return made._replace(metrics=server_row.told)
