"""DiLoCo: workers take many steps of an optimizer whose state they keep, and the server one of Nesterov momentum.

    worker k:   w_k = w;  H times:  w_k, s_k = inner_optimizer(w_k, s_k, grad f_k(w_k))     s_k stays at the worker
                delta_k = w - w_k
    server:     w = outer_optimizer(w, mean of delta_k)

The paper's inner optimizer is AdamW and its outer one Nesterov momentum of rate .7 and momentum .9, in optax's form

    v = delta + .9 v,   w = w - .7 (delta + .9 v).

Known methods are special cases. With H = 1 and an inner SGD it is Nesterov momentum on the mean gradient; with an
outer SGD of rate 1 it is federated averaging whose clients keep their optimizers; with one worker and an outer SGD, it
is Lookahead; and where the inner optimizer has no state, federated averaging with a server optimizer.

Sources:
  Douillard, Feng, Rusu, Chhaparia, Donchev, Kuncoro, Ranzato, Szlam, Shen (2023), "DiLoCo: Distributed
  Low-Communication Training of Language Models", https://arxiv.org/abs/2311.08105, algorithm 1.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

import fedjaxlite as fl
from fedjaxlite.algorithms.one_model.fed_avg import fed_avg_of
from fedjaxlite.algorithms.pieces.length import local_length


def di_lo_co(
    loss_fn: Callable[..., Any],
    *,
    inner_optimizer: optax.GradientTransformation,
    outer_optimizer: optax.GradientTransformation | None = None,
    batch_size: int | None = 10,
    steps: int | None = None,
    epochs: int | None = None,
    shuffle: bool = True,
    lower: bool | Literal["auto"] = "auto",
    compute_dtype: Any = None,
    remat: bool | Callable[..., Any] = False,
    micro_batch_size: int | None = None,
) -> fl.Algorithm:
    """DiLoCo: an inner optimizer that each worker keeps, and an outer one along the mean of what they did.

    Args:
      loss_fn: `(params, batch, key) -> [B]`, one loss per example, or `([B], LossAux)`.
      inner_optimizer: optax optimizer of the local steps, the paper's is AdamW. Its state is the worker's own and goes
        on in its next round, so a schedule of rates inside counts the worker's steps and not those of a round.
      outer_optimizer: optax optimizer that gets the mean delta for a gradient; None is the paper's,
        `optax.sgd(0.7, momentum=0.9, nesterov=True)`.
      batch_size: B; None is the full batch.
      steps: H, local steps of a round; the paper's is 500.
      epochs: passes over a worker's data instead of steps; 1 if neither is given.
      shuffle: draw a new order every epoch; False keeps the stored order.
      lower: see `fedjaxlite.value_and_grad`.
      compute_dtype: such as `jnp.bfloat16`, the dtype of activations; the model and both optimizers keep theirs.
      remat: whether activations are computed again instead of kept; or a policy of `jax.checkpoint_policies`.
      micro_batch_size: rows of a batch at a time; the step is still that of the whole batch.

    Returns:
      an `fl.Algorithm`. A worker sends its delta and keeps the inner optimizer's state: for AdamW two models. Workers
      weigh as many as they have examples; `fl.mean` gives the paper's equal weights. One that is not there in a round
      finds its state as it left it. Its info is that of `fed_avg`.

    Raises:
      TypeError, ValueError: for arguments out of range, or both `epochs` and `steps`.

    Source: Douillard et al. (2023), https://arxiv.org/abs/2311.08105, algorithm 1.

    Example:
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> di_lo_co(loss, inner_optimizer=optax.adamw(1e-3), batch_size=10, steps=500).name
      'di_lo_co'
    """
    local = local_length(batch_size=batch_size, epochs=epochs, steps=steps, shuffle=shuffle)
    fl.check_optimizer(inner_optimizer=inner_optimizer)
    outer = optax.sgd(0.7, momentum=0.9, nesterov=True) if outer_optimizer is None else outer_optimizer
    fl.check_optimizer(outer_optimizer=outer)
    run = fl.local_sgd(
        loss_fn,
        client_optimizer=inner_optimizer,
        lower=lower,
        compute_dtype=compute_dtype,
        remat=remat,
        micro_batch_size=micro_batch_size,
        **local,
    )

    def client_update(shared: Any, kept: Any, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        del key  # local training takes its keys from the client's view
        result = run(shared, data, None, kept)
        info = {**result.metrics, "local_steps": result.num_steps}
        return fl.ClientOutput(result.delta, result.num_examples, client_state=result.optimizer_state, info=info)

    hparams = dict(local)
    if compute_dtype is not None:  # the two others leave the numbers as they are
        hparams["compute_dtype"] = str(jnp.dtype(compute_dtype))
    return fed_avg_of(run, server_optimizer=outer)._replace(
        client_update=client_update,
        init_client=lambda params: inner_optimizer.init(fl.trainable(params)),
        name="di_lo_co",
        hparams=hparams,
    )
