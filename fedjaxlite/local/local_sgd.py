"""What a client does with its data: local training by any optimizer, and exact gradients over all of it."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjaxlite import checks
from fedjaxlite.data.client_view import ClientData, num_repeats, repeat
from fedjaxlite.local.batch_loss import BatchLoss, LossRows, as_rows
from fedjaxlite.local.gradients import add_to, mean_of, no_sums, rows_and_grad, value_and_grad
from fedjaxlite.local.optimizer_check import check_optimizer
from fedjaxlite.variables import trainable, with_state, with_trainable

PyTree = Any


class LocalResult(NamedTuple):
    """What local training gives.

    Attributes:
      params: the trained model.
      delta: pytree like the parameters, where training started minus where it ended.
      num_steps: int32 scalar, local steps taken.
      num_examples: int32 scalar, the client's examples: the weight of federated averaging.
      metrics: dict of float32 scalars, the means over all examples seen of "loss" and of the loss's own metrics.
      optimizer_state: the client optimizer's last state; what a client keeps that goes on with it in its next round.
    """

    params: PyTree
    delta: PyTree
    num_steps: jax.Array
    num_examples: jax.Array
    metrics: Mapping[str, jax.Array]
    optimizer_state: Any


def local_sgd(
    loss_fn: Callable[..., Any],
    *,
    client_optimizer: optax.GradientTransformation,
    batch_size: int | None,
    epochs: Any = None,
    steps: Any = None,
    shuffle: bool = True,
    lower: bool | Literal["auto"] = "auto",
    compute_dtype: Any = None,
    remat: bool | Callable[..., Any] = False,
    micro_batch_size: int | None = None,
    chunk_size: int = 256,
) -> Callable[..., LocalResult]:
    """Local training by any optax optimizer: the loop inside federated averaging and most of its relatives.

    Args:
      loss_fn: `(params, batch, key) -> [B]` or `([B], LossAux)`.
      client_optimizer: an optax optimizer; its state starts fresh in every call that is given none.
      batch_size: B, or None for the full batch (the paper's B = infinity); full batches are exact for ragged clients
        and computed by accumulation over chunks.
      epochs: passes over the data; or
      steps: number of local steps. Exactly one of the two.
      shuffle: False keeps the stored order.
      lower: see `value_and_grad`.
      compute_dtype: such as `jnp.bfloat16`, the dtype of activations; parameters and gradients keep theirs. See
        `value_and_grad`.
      remat: True, or a policy of `jax.checkpoint_policies`: activations are computed again instead of kept. See
        `value_and_grad`.
      micro_batch_size: rows at a time of a batch, whose gradient they add up to; memory against speed. See
        `value_and_grad`. In a full batch the smaller of it and `chunk_size`.
      chunk_size: rows at a time in a full batch; memory against speed, no effect on the result beyond rounding.

    Returns:
      `run(params, data, correct=None, optimizer_state=None) -> LocalResult`. `correct(grads, params) -> grads` changes
      each step's gradient: FedProx adds its proximal term there, SCAFFOLD its control variates. `optimizer_state` is
      what the client optimizer starts from: the `LocalResult.optimizer_state` of an earlier call, which a client that
      keeps it has in its state; None is a fresh one. `run` refuses one that is not of the structure, shapes and dtypes
      of `client_optimizer.init`. Keys come from `data`.

    Raises:
      TypeError, ValueError: for arguments out of range; for a loss that is not one number per example.

    Source: McMahan, Moore, Ramage, Hampson, Agüera y Arcas (2017), https://arxiv.org/abs/1602.05629, algorithm 1,
    ClientUpdate.
    """
    shuffle = checks.flag(shuffle=shuffle)
    check_optimizer(client_optimizer=client_optimizer)
    if batch_size is not None:
        batch_size = checks.positive_int(batch_size=batch_size)
    if (epochs is None) == (steps is None):
        raise ValueError(f"`epochs` is {epochs!r} and `steps` is {steps!r}; expected exactly one of them.")
    epochs, steps = checks.trip_count(epochs=epochs, steps=steps)
    chunk_size = checks.positive_int(chunk_size=chunk_size)
    options: dict[str, Any] = {"lower": lower, "compute_dtype": compute_dtype, "remat": remat}
    value_and_grad(loss_fn, micro_batch_size=micro_batch_size, **options)  # refuses now what it refuses
    if batch_size is None and getattr(loss_fn, "cross_example", False):
        raise ValueError(
            "`batch_size` is None and the loss is declared cross_example: a full batch is accumulated over chunks, "
            "which would compute batch statistics per chunk. Give a batch_size."
        )
    if batch_size is None:
        chunk_size = chunk_size if micro_batch_size is None else min(chunk_size, micro_batch_size)
    else:
        options["micro_batch_size"] = micro_batch_size

    def run(
        params: PyTree,
        data: ClientData,
        correct: Callable[[PyTree, PyTree], PyTree] | None = None,
        optimizer_state: Any = None,
    ) -> LocalResult:
        start = params
        init = _starts_from(optimizer_state, client_optimizer)
        given: dict[str, Any] = {"lanes": data.wave.num_lanes, "platform": data.wave.platform, **options}

        def update(carry: _Carry, rows: LossRows, grads: PyTree) -> _Carry:
            params = carry.params
            grads = grads if correct is None else correct(grads, params)
            updates, opt_state = client_optimizer.update(grads, carry.opt_state, trainable(params))
            params = with_trainable(params, optax.apply_updates(trainable(params), updates))
            params = params if rows.state is None else with_state(params, rows.state)
            # Row by row: over the batch they are summed once, after the loop.
            return _Carry(params, opt_state, jax.tree.map(jnp.add, carry.sums, _sums(rows)))

        if batch_size is None:
            gradient = value_and_grad(loss_fn, **given)

            def whole(params: PyTree) -> tuple[LossRows, PyTree]:
                reduced, grads = full_gradient(gradient, params, data, chunk_size=chunk_size)
                return as_rows(reduced), grads

            carry = _first_carry(params, init, jax.eval_shape(whole, params)[0])
            count = steps if epochs is None else epochs
            carry = repeat(data, count, lambda _, c: update(c, *whole(c.params)), carry)
            num_steps = num_repeats(data, count)
        else:
            of_batch = rows_and_grad(loss_fn, **given)
            plan = data.batches(batch_size=batch_size, epochs=epochs, steps=steps, shuffle=shuffle)
            shapes = jax.eval_shape(lambda: of_batch(params, *plan.batch(jnp.int32(0)), data.key))[0]
            carry = _first_carry(params, init, shapes)
            carry = plan.scan(lambda c, batch, mask, key: update(c, *of_batch(c.params, batch, mask, key)), carry)
            num_steps = plan.num_steps
        sums = {name: rows.sum() for name, rows in carry.sums.items()}
        weight = sums.pop(_WEIGHT)
        metrics = {name: total / jnp.where(weight > 0, weight, 1.0) for name, total in sums.items()}
        delta = jax.tree.map(jnp.subtract, start, carry.params)
        return LocalResult(carry.params, delta, num_steps, data.num_examples, metrics, carry.opt_state)

    return run


_WEIGHT = ""  # no name that a loss could give a metric


class _Carry(NamedTuple):
    params: PyTree
    opt_state: Any
    sums: dict[str, jax.Array]


def _sums(rows: LossRows) -> dict[str, jax.Array]:
    return {"loss": rows.losses, **rows.metrics, _WEIGHT: rows.weight}


def _first_carry(params: PyTree, init: Callable[[PyTree], Any], shapes: LossRows) -> _Carry:
    sums = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), _sums(shapes))
    return _Carry(params, init(trainable(params)), sums)


def _starts_from(optimizer_state: Any, client_optimizer: Any) -> Callable[[PyTree], Any]:
    """The optimizer's `init`, or what gives the kept state instead, once it is seen to fit."""
    if optimizer_state is None:
        return client_optimizer.init

    def kept(params: PyTree) -> Any:
        checks.same_structure(
            optimizer_state,
            jax.eval_shape(client_optimizer.init, params),
            what="`optimizer_state`",
            than="`client_optimizer.init(trainable(params))`",
            remedy="Start with that one, and keep `LocalResult.optimizer_state`.",
        )
        return jax.tree.map(jnp.asarray, optimizer_state)

    return kept


def full_gradient(
    gradient: Callable[..., tuple[BatchLoss, PyTree]], params: PyTree, data: ClientData, *, chunk_size: int = 256
) -> tuple[BatchLoss, PyTree]:
    """The exact gradient over all of a client's examples, accumulated over chunks of rows.

    Args:
      gradient: from `value_and_grad`.
      params: the model.
      data: the client's view.
      chunk_size: rows at a time.

    Returns:
      `(BatchLoss, gradient)` of the mean loss over the client's examples; zeros for a client without examples.
      `BatchLoss.state` is None: statistics of a whole client do not accumulate over chunks.
    """
    checks.is_function_of("params", "batch", "mask", "key", gradient=gradient)
    checks.one_instance(ClientData, "a client's view, such as fl.client_view(population, 0, key=...)", data=data)
    chunk_size = min(checks.positive_int(chunk_size=chunk_size), data.wave.max_size)
    plan = data.with_work(1.0).batches(batch_size=chunk_size, epochs=1, shuffle=False)
    template = jax.eval_shape(lambda: gradient(params, *plan.batch(jnp.int32(0)), data.key))
    if not (isinstance(template, tuple) and len(template) == 2 and isinstance(template[0], BatchLoss)):
        raise TypeError("`gradient` gave no (BatchLoss, gradient); expected what `value_and_grad(loss_fn)` returns.")
    add = lambda sums, batch, mask, key: add_to(sums, *gradient(params, batch, mask, key))  # noqa: E731
    return mean_of(plan.scan(add, no_sums(template)), template)
