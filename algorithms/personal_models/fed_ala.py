"""FedALA: each client learns, entry by entry, how much of the received model's top layers to take.

    client k:   u = v_k + (w - v_k) W_k on the top layers, u = w below them       v_k its model of last time
                M passes of  W_k = clip(W_k - eta grad f(u) (w - v_k), 0, 1)       on a share s of its examples
                v_k = u, trained for E epochs of SGD;  delta_k = w - v_k
    server:     w = server_optimizer(w, sum_k n_k delta_k / sum_k n_k)

W_k is 1 at first, which takes the received model as it is, and is kept from round to round; products are entry by
entry. In a client's first round v_k is w, and nothing is learned.

Source: Zhang, Hua, Wang, Song, Xue, Ma, Guan (2023), "FedALA: Adaptive Local Aggregation for Personalized Federated
Learning", https://arxiv.org/abs/2212.01197, algorithm 1. The paper trains W_k until its loss settles when a client
first learns it, and one pass in later rounds; here the number of passes is the same in all rounds.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

import fedjaxlite as fl
from fedjaxlite.algorithms.one_model.fed_avg import fed_avg
from fedjaxlite.algorithms.pieces.leaves import Predicate, check_chosen, check_predicates, describe, joined, split


class ClientState(NamedTuple):
    """What a client keeps.

    Attributes:
      mix: W_k in [0, 1], for the leaves of the top layers; None elsewhere.
      personal: its own model v_k, as it was trained in the last round that it took part in.
      joined: bool scalar, whether it ever trained; before that its model is the shared one of the moment.
    """

    mix: Any
    personal: Any
    joined: jax.Array


def fed_ala(
    loss_fn: Callable[..., Any],
    *,
    top: Predicate,
    eta: Any = 1.0,
    sample: Any = 0.8,
    mix_epochs: int = 1,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    batch_size: int | None = 10,
    epochs: int | None = None,
    steps: int | None = None,
    shuffle: bool = True,
    lower: bool | Literal["auto"] = "auto",
) -> fl.Algorithm:
    """Federated averaging from starts that each client mixes out of the shared model and its own.

    Args:
      loss_fn: `(params, batch, key) -> [B]`, one loss per example, or `([B], LossAux)`.
      top: `top(path, leaf) -> bool` chooses the leaves that are mixed, such as `last_layer(model)`: the paper's p
        highest layers. Of `fl.Variables`, a path begins with "params"; state is never mixed but received.
      eta: rate of W_k, above 0.
      sample: s in (0, 1], the share of its batches that a client learns W_k on in a pass, at least one batch. With a
        full batch it is all examples.
      mix_epochs: M, passes for W_k.
      client_optimizer: optax optimizer of the local steps; its state is fresh in every round.
      server_optimizer: optax optimizer that gets the mean delta for a gradient; None is SGD with rate 1.
      batch_size: B, for W_k too; None is the full batch.
      epochs: E, passes over a client's data; 1 if neither is given.
      steps: a fixed number of local steps instead of epochs.
      shuffle: draw a new order every epoch, others for W_k; False keeps the stored order.
      lower: see `fedjaxlite.value_and_grad`.

    Returns:
      an `fl.Algorithm`. `client_params` is v_k after its training; for a client that never trained, the shared model.
      The wire is FedAvg's. Info is FedAvg's, and "mix_loss", the loss's metrics so prefixed, and "mix_steps".

    Raises:
      TypeError, ValueError: for arguments out of range, or both `epochs` and `steps`; when rounds are built, if no
        trainable leaf is chosen.

    Source: Zhang et al. (2023), https://arxiv.org/abs/2212.01197, algorithm 1, equations 4 and 5.

    Example:
      >>> from fedjaxlite.algorithms.pieces.leaves import by_name
      >>> loss = lambda params, batch, key: (params["base"] + params["head"] - batch["x"]) ** 2 / 2
      >>> fed_ala(loss, top=by_name("head"), client_optimizer=optax.sgd(0.1)).name
      'fed_ala'
    """
    check_predicates(top=top)
    eta = fl.checks.positive(eta=eta)
    sample = fl.checks.probability(sample=sample)
    mix_epochs = fl.checks.positive_int(mix_epochs=mix_epochs)
    options: dict[str, Any] = {"batch_size": batch_size, "shuffle": shuffle, "lower": lower}
    base = fed_avg(
        loss_fn,
        client_optimizer=client_optimizer,
        server_optimizer=server_optimizer,
        epochs=epochs,
        steps=steps,
        **options,
    )
    learning: dict[str, Any] = {"client_optimizer": _boxed_sgd(eta), "epochs": mix_epochs, **options}
    train = fl.local_sgd(
        loss_fn,
        client_optimizer=client_optimizer,
        epochs=base.hparams["epochs"],
        steps=base.hparams["steps"],
        **options,
    )

    def init(params: Any) -> Any:
        check_chosen(params, _trained(top), "top")
        return base.init(params)

    def init_client(params: Any) -> ClientState:
        chosen = fl.trainable(split(params, _trained(top))[0])
        return ClientState(jax.tree.map(jnp.ones_like, chosen), params, jnp.bool_(False))

    def client_update(shared: Any, own: ClientState, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        del key  # local training takes its keys from the client's view
        old = _personal(shared, own)
        learn = fl.local_sgd(_mix_loss(loss_fn, shared, old), **learning)
        learned = learn(own.mix, _sampled(data, sample, batch_size))
        result = train(_mixed(shared, old, learned.params), data)
        info = {f"mix_{name}": value for name, value in learned.metrics.items()}
        return fl.ClientOutput(
            jax.tree.map(jnp.subtract, shared, result.params),
            data.num_examples,
            client_state=ClientState(learned.params, result.params, own.joined | (data.num_examples > 0)),
            info={**result.metrics, "local_steps": result.num_steps, **info, "mix_steps": learned.num_steps},
        )

    hparams = {**base.hparams, "top": describe(top), "eta": eta, "sample": sample, "mix_epochs": mix_epochs}
    return base._replace(
        init=init,
        init_client=init_client,
        client_params=_personal,
        client_update=client_update,
        name="fed_ala",
        hparams=hparams,
    )


def _trained(top: Predicate) -> Predicate:
    return lambda path, leaf: path[:1] != ("state",) and top(path, leaf)


def _personal(shared: Any, own: ClientState) -> Any:
    return jax.tree.map(lambda v, w: jnp.where(own.joined, v, w), own.personal, shared)


def _mixed(shared: Any, old: Any, mix: Any) -> Any:
    """u: the received model, its top layers mixed with the client's own."""
    none = lambda leaf: leaf is None  # noqa: E731
    blend = lambda m, w, v: None if m is None else v + (w - v) * m  # noqa: E731
    tops = jax.tree.map(blend, mix, fl.trainable(shared), fl.trainable(old), is_leaf=none)
    return fl.with_trainable(shared, joined(fl.trainable(shared), tops))


def _mix_loss(loss_fn: Callable[..., Any], shared: Any, old: Any) -> Callable[..., Any]:
    """The loss as a function of W_k, whose gradient is grad f(u) (w - v) entry by entry."""

    def fn(mix: Any, batch: Any, key: Any) -> Any:
        result = loss_fn(_mixed(shared, old, mix), batch, key)
        return (result[0], result[1]._replace(state=None)) if isinstance(result, tuple) else result

    return fl.losses.declare(fn, cross_example=bool(getattr(loss_fn, "cross_example", False)), name="mix")


def _boxed_sgd(eta: Any) -> optax.GradientTransformation:
    """SGD whose parameters are clipped to [0, 1] after each step."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        step = lambda g, p: jnp.clip(p - jnp.asarray(eta, p.dtype) * g, 0, 1) - p  # noqa: E731
        return jax.tree.map(step, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _sampled(data: fl.ClientData, sample: Any, batch_size: int | None) -> fl.ClientData:
    """A view with orders and draws of its own, in which a pass stops after a share of the batches."""
    view = replace(data, key=jax.random.fold_in(data.key, 3))
    if batch_size is None:
        return view
    share = jnp.asarray(sample, jnp.float32)
    return replace(view, work=data.work * share, wave=data.wave._replace(work=data.wave.work * share))
