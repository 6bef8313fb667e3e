"""Gaussian: a bad client sends noise."""

from typing import Any

from fedjaxlite import checks
from fedjaxlite.attacks.alone.wrap import instead, noise_like
from fedjaxlite.attacks.who import as_bad
from fedjaxlite.protocol.algorithm import Algorithm


def gaussian(algorithm: Algorithm, bad: Any, *, stddev: Any) -> Algorithm:
    """Bad clients send Gaussian noise in place of their update, with nothing of what they have learned in it.

    Args:
      algorithm: any Algorithm. Client states, weights and scalars stay the honest ones.
      bad: who is bad: `attacks.pool`, `attacks.share`, or ids.
      stddev: of each entry, a finite number above 0 or a tracer; Blanchard et al. take 200.

    Returns:
      an Algorithm; the same one where nobody is bad. The noise follows from the client's key of the round.

    Raises:
      TypeError, ValueError: for arguments that do not fit.

    Source: Blanchard, El Mhamdi, Guerraoui, Stainer (2017), "Machine Learning with Adversaries: Byzantine Tolerant
    Gradient Descent", https://arxiv.org/abs/1703.02757, section 5 ("Gaussian").

    Example:
      >>> import fedjaxlite as fl, optax
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2
      >>> honest = fl.algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.1))
      >>> gaussian(honest, [3], stddev=200.0).hparams["gaussian"]
      {'bad': [3], 'stddev': 200.0}
    """
    who, stddev = as_bad(bad), checks.positive(stddev=stddev)
    send = lambda update, key: noise_like(update, stddev, key)  # noqa: E731
    return instead(algorithm, who, send, name="gaussian", hparams={"stddev": stddev})
