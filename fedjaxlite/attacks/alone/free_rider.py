"""Free rider: a client that sends nothing it has learned, and gets the model all the same."""

from typing import Any

from fedjaxlite import checks
from fedjaxlite.attacks.alone.wrap import instead, noise_like
from fedjaxlite.attacks.who import as_bad
from fedjaxlite.protocol.algorithm import Algorithm


def free_rider(algorithm: Algorithm, bad: Any, stddev: Any = 0.0) -> Algorithm:
    """Bad clients send back the model that they were given: a delta of zero, plain or disguised by noise.

    They claim the weight of their examples, so that the mean moves as much less. The paper's disguise shrinks its noise
    over rounds, `stddev * t ** -gamma`; a client is not told the round, so it is constant here (gamma 0). The paper
    takes for `stddev` that of the first change of the global model.

    Args:
      algorithm: any Algorithm whose update is one of deltas. The simulation still computes the honest update, to keep
        the client's state and what the record tells of it; it is not sent.
      bad: who rides: `attacks.pool`, `attacks.share`, or ids.
      stddev: of each entry's noise, a number of at least 0 or a tracer; 0 sends zeros.

    Returns:
      an Algorithm; the same one where nobody is bad.

    Raises:
      TypeError, ValueError: for arguments that do not fit.

    Source: Fraboni, Vidal, Lorenzi (2021), "Free-rider Attacks on Model Aggregation in Federated Learning",
    https://arxiv.org/abs/2006.11901, section 3 (plain, and disguised by additive noise).

    Example:
      >>> import fedjaxlite as fl, optax
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2
      >>> honest = fl.algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.1))
      >>> free_rider(honest, fl.attacks.pool(range(3)), stddev=1e-3).name
      'free_rider(fed_avg)'
    """
    who, stddev = as_bad(bad), checks.nonnegative(stddev=stddev)
    if not checks.is_traced(stddev) and stddev == float("inf"):
        raise ValueError("`stddev` is inf; expected a finite number of at least 0.")
    send = lambda update, key: noise_like(update, stddev, key)  # noqa: E731
    return instead(algorithm, who, send, name="free_rider", hparams={"stddev": stddev})
