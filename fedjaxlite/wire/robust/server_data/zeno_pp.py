"""Zeno++: clients are believed if the server's own data say that their step helps."""

from typing import Any

import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Aggregator
from fedjaxlite.wire.robust.server_data import server_row
from fedjaxlite.wire.robust.server_data.server_row import Counts
from fedjaxlite.wire.rows import Rows
from fedjaxlite.wire.stacking import rule

PyTree = Any


def zeno_pp(*, server: Any, rho: Any = 0.0, epsilon: Any = 0.0, rate: Any = 1.0) -> Aggregator:
    """The mean of the messages that the server's message says make its loss smaller, each at the server's norm.

    With v of the server, which trains on data of its own as one more client does (`server_client`), a message is
    brought to u of the same norm, and accepted if its estimated descent is large enough:

        rate <v, u> - rho |u|^2  >=  -rate * epsilon

    which is cos(v, u) >= rho / rate - epsilon / |v|^2. The source's server is asynchronous: it looks at one message at
    a time, and applies each that it accepts; here a round's are averaged. Its v and u are gradients; here they are the
    updates of a whole local training, so epsilon is in squared units of an update. The server's message decides and
    does not count; put nothing before the rule that mixes messages.

    Args:
      server: the id of the server's client, `fl.robust.server_client(...).id`; an int, or a tracer.
      rho: the weight of the norm; at least 0, or a tracer. Above `rate` nobody is accepted but for epsilon.
      epsilon: how much of an ascent is let pass; at least 0, or a tracer.
      rate: gamma, the learning rate of the source's score; above 0, or a tracer.

    Returns:
      an Aggregator that ends a chain. Memory: K messages. A round in which nobody is accepted, or without the server's
      message, changes nothing; `PassInfo.aggregator` counts both: "nobody_trusted" and "no_server".

    Raises:
      TypeError, ValueError: for arguments out of range. ValueError: when built, for means with weights.

    Guarantees:
      The result's norm is at most that of the server's message, however many clients are bad; with epsilon = 0 its
      cosine with the server's is at least rho / rate. Equivariant to orthogonal maps and permutations.

    Source: Xie, Koyejo, Gupta (2020), "Zeno++: Robust Fully Asynchronous SGD", https://arxiv.org/abs/1903.07020,
    algorithm 1, in rounds.

    Example:
      >>> import fedjaxlite as fl
      >>> x = jnp.float32([[8, 0], [0, 3], [-50, 0], [2, 0]])
      >>> fl.robust.apply(zeno_pp(server=3, rho=0.1), x).tolist()
      [2.0, 0.0]
    """
    server = server_row.checked(server)
    rho, epsilon = checks.nonnegative(rho=rho, epsilon=epsilon)
    rate = checks.positive(rate=rate)

    def fn(counted: Counts, rows: Rows, key: Any) -> tuple[PyTree, Counts]:
        del key
        beside = server_row.compared(rows, server)
        least, ascent = (jnp.asarray(x, jnp.float32) for x in (rho / rate, epsilon))
        # In cosines, since the square of a norm may be no number. No norm at all lets everyone pass, at scale zero.
        slack = ascent / beside.size / beside.size
        accepted = beside.cosine >= least - jnp.where(ascent > 0, slack, 0.0)
        return server_row.mean_of(rows, beside, accepted.astype(jnp.float32), counted)

    hparams = {"server": server, "rho": rho, "epsilon": epsilon, "rate": rate}
    made = rule(fn, name="zeno_pp", hparams=hparams, init=lambda update: server_row.counts())
    return made._replace(metrics=server_row.told)
