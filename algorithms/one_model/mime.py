"""Mime and MimeLite: clients apply the server's optimizer, with statistics that stay as they are during local work.

    client k:   y = x;  for each batch z:  y = y - eta U(g, s)
                Mime:      g = grad f_k(y; z) - grad f_k(x; z) + c        c: mean gradient of the clients at x
                MimeLite:  g = grad f_k(y; z)
    server:     s = V(mean of the full gradients grad f_k(x), s),   x = mean of y

U is the step of any optax optimizer with frozen state s, V the change of that state, its step thrown away.

The paper's c takes an exchange of its own before the local work. With `exchanges=1` c is the mean gradient of the round
before, at the model of the round before, and the first round only measures it. With `exchanges=2` it is the paper's: a
round of the paper is two rounds here, one that measures c and one that trains.

Source: Karimireddy, Jaggi, Kale, Mohri, Reddi, Stich, Suresh (2020), "Mime: Mimicking Centralized Stochastic Algorithms
in Federated Learning", https://arxiv.org/abs/2008.03606, algorithm 1.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

import fedjaxlite as fl
from fedjaxlite.algorithms.pieces.length import local_length


class ServerState(NamedTuple):
    """The server's model and what it tells the clients beside it.

    Attributes:
      params: the model.
      statistics: the base optimizer's state, the paper's s.
      control: pytree like the trainable parameters, the paper's c; empty for MimeLite.
      measuring: bool scalar, whether the next round measures c; empty unless an update takes two exchanges.
      optimizer_state: the server optimizer's.
    """

    params: Any
    statistics: Any
    control: Any
    measuring: Any
    optimizer_state: Any


class _Shared(NamedTuple):
    params: Any
    statistics: Any
    control: Any
    measuring: Any


def mime(
    loss_fn: Callable[..., Any],
    *,
    base_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    batch_size: int | None = 10,
    epochs: int | None = None,
    steps: int | None = None,
    shuffle: bool = True,
    lower: bool | Literal["auto"] = "auto",
    exchanges: Literal[1, 2] = 1,
) -> fl.Algorithm:
    """Mime: the server's optimizer on the clients, and gradients corrected by a control variate.

    Args:
      loss_fn: `(params, batch, key) -> [B]`, one loss per example, or `([B], LossAux)`.
      base_optimizer: the optax optimizer that is mimicked, with its rate, such as `optax.sgd(0.1, momentum=0.9)`.
      server_optimizer: optax optimizer that gets the mean delta for a gradient; None is SGD with rate 1, the paper's.
      batch_size: B; None is the full batch.
      epochs: passes over a client's data; 1 if neither is given.
      steps: a fixed number of local steps instead of epochs.
      shuffle: draw a new order every epoch; False keeps the stored order.
      lower: see `fedjaxlite.value_and_grad`.
      exchanges: 1, with a control variate that is one round old; or 2, the paper's, where even rounds measure and odd
        rounds train. Under partial participation the paper's two exchanges are with the same clients: use a sampler
        `s._replace(sample=lambda key, r, people: s.sample(key, r // 2, people))`.

    Returns:
      an `fl.Algorithm`. With one exchange the update is {"delta", "gradient"}, with two it is the gradient in one round
      and the delta in the next. Clients weigh as many as they have examples; `fl.mean` gives the paper's equal weights.
      A round in which nobody reports changes nothing. Its info is that of `fed_avg`.

    Raises:
      TypeError, ValueError: for arguments out of range, or both `epochs` and `steps`.

    Source: Karimireddy et al. (2020), https://arxiv.org/abs/2008.03606, algorithm 1 (Mime).

    Example:
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> mime(loss, base_optimizer=optax.sgd(0.1, momentum=0.9)).name
      'mime'
    """
    exchanges = fl.checks.one_of((1, 2), exchanges=exchanges)
    fl.check_optimizer(base_optimizer=base_optimizer)
    local = local_length(batch_size=batch_size, epochs=epochs, steps=steps, shuffle=shuffle)
    work = _Work(loss_fn, base_optimizer, lower=lower, **local)
    return _algorithm(work, work.corrected(), server_optimizer, "mime", exchanges)


def mime_lite(
    loss_fn: Callable[..., Any],
    *,
    base_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    batch_size: int | None = 10,
    epochs: int | None = None,
    steps: int | None = None,
    shuffle: bool = True,
    lower: bool | Literal["auto"] = "auto",
) -> fl.Algorithm:
    """MimeLite: the server's optimizer on the clients, without a control variate.

    Args:
      loss_fn: see `mime`, here and below.
      base_optimizer: the optax optimizer that is mimicked.
      server_optimizer: optax optimizer that gets the mean delta for a gradient; None is SGD with rate 1.
      batch_size: B; None is the full batch.
      epochs: passes over a client's data; 1 if neither is given.
      steps: a fixed number of local steps instead of epochs.
      shuffle: draw a new order every epoch; False keeps the stored order.
      lower: see `fedjaxlite.value_and_grad`.

    Returns:
      an `fl.Algorithm` with the update {"delta", "gradient"}; with plain SGD for base it trains as `fed_avg` does.

    Raises:
      TypeError, ValueError: for arguments out of range, or both `epochs` and `steps`.

    Source: Karimireddy et al. (2020), https://arxiv.org/abs/2008.03606, algorithm 1 (MimeLite).

    Example:
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> mime_lite(loss, base_optimizer=optax.adam(0.01)).name
      'mime_lite'
    """
    fl.check_optimizer(base_optimizer=base_optimizer)
    local = local_length(batch_size=batch_size, epochs=epochs, steps=steps, shuffle=shuffle)
    work = _Work(loss_fn, base_optimizer, lower=lower, **local)
    return _algorithm(work, work.plain(), server_optimizer, "mime_lite", None)


def _frozen(base: optax.GradientTransformation, statistics: Any) -> optax.GradientTransformation:
    """The base optimizer's step at given statistics, which no step changes."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return base.update(updates, state, params)[0], state

    return optax.GradientTransformation(lambda params: statistics, update)


class _Carry(NamedTuple):
    params: Any
    sums: Any
    weight: jax.Array
    steps: jax.Array


_Train = Callable[[_Shared, fl.ClientData], tuple[Any, dict[str, Any]]]


class _Work(NamedTuple):
    """A client's local work: `plain` and `corrected` give functions `(shared, data) -> (delta, info)`."""

    loss_fn: Callable[..., Any]
    base: optax.GradientTransformation
    batch_size: int | None
    epochs: int | None
    steps: int | None
    shuffle: bool
    lower: bool | Literal["auto"]

    def full_gradient(self, params: Any, data: fl.ClientData) -> tuple[fl.BatchLoss, Any]:
        gradient = fl.value_and_grad(
            self.loss_fn, lower=self.lower, lanes=data.wave.num_lanes, platform=data.wave.platform
        )
        # A loss over whole batches (BatchNorm) is measured on batches of the size that it is trained on.
        chunk = self.batch_size if getattr(self.loss_fn, "cross_example", False) else None
        return fl.full_gradient(gradient, params, data, chunk_size=chunk or 256)

    def local_sgd(self, optimizer: optax.GradientTransformation) -> Callable[..., fl.LocalResult]:
        return fl.local_sgd(
            self.loss_fn,
            client_optimizer=optimizer,
            batch_size=self.batch_size,
            epochs=self.epochs,
            steps=self.steps,
            shuffle=self.shuffle,
            lower=self.lower,
        )

    def plain(self) -> _Train:
        self.local_sgd(self.base)  # refuses now what it refuses

        def train(shared: _Shared, data: fl.ClientData) -> tuple[Any, dict[str, Any]]:
            result = self.local_sgd(_frozen(self.base, shared.statistics))(shared.params, data)
            return result.delta, {**result.metrics, "local_steps": result.num_steps}

        return train

    def corrected(self) -> _Train:
        self.local_sgd(self.base)
        if self.batch_size is None:
            return self._corrected_full
        return self._corrected_batches

    def _corrected_full(self, shared: _Shared, data: fl.ClientData) -> tuple[Any, dict[str, Any]]:
        _, anchor = self.full_gradient(shared.params, data)
        correct = lambda g, p: jax.tree.map(lambda a, b, c: a - b + c, g, anchor, shared.control)  # noqa: E731
        result = self.local_sgd(_frozen(self.base, shared.statistics))(shared.params, data, correct)
        return result.delta, {**result.metrics, "local_steps": result.num_steps}

    def _corrected_batches(self, shared: _Shared, data: fl.ClientData) -> tuple[Any, dict[str, Any]]:
        size = 1 if self.batch_size is None else self.batch_size
        plan = data.batches(batch_size=size, epochs=self.epochs, steps=self.steps, shuffle=self.shuffle)
        gradient = fl.value_and_grad(
            self.loss_fn, lower=self.lower, lanes=data.wave.num_lanes, platform=data.wave.platform
        )

        def step(carry: _Carry, batch: Any, mask: jax.Array, key: jax.Array) -> _Carry:
            reduced, grads = gradient(carry.params, batch, mask, key)
            _, anchor = gradient(shared.params, batch, mask, key)
            grads = jax.tree.map(lambda g, a, c: g - a + c, grads, anchor, shared.control)
            updates, _ = self.base.update(grads, shared.statistics, fl.trainable(carry.params))
            params = fl.with_trainable(carry.params, optax.apply_updates(fl.trainable(carry.params), updates))
            means = {"loss": reduced.loss, **reduced.metrics}
            sums = jax.tree.map(lambda total, mean: total + mean * reduced.weight, carry.sums, means)
            return _Carry(fl.with_state(params, reduced.state), sums, carry.weight + reduced.weight, carry.steps + 1)

        shapes = jax.eval_shape(lambda: gradient(shared.params, *plan.batch(jnp.int32(0)), data.key))[0]
        sums = {name: jnp.float32(0.0) for name in ("loss", *shapes.metrics)}
        last = plan.scan(step, _Carry(shared.params, sums, jnp.float32(0.0), jnp.int32(0)))
        share = 1.0 / jnp.where(last.weight > 0, last.weight, 1.0)
        metrics = {name: total * share for name, total in last.sums.items()}
        return jax.tree.map(jnp.subtract, shared.params, last.params), {**metrics, "local_steps": last.steps}


def _algorithm(
    work: _Work,
    train: _Train,
    server_optimizer: optax.GradientTransformation | None,
    name: str,
    exchanges: int | None,
) -> fl.Algorithm:
    """The server's half and the messages; `exchanges` is None for an algorithm without a control variate."""
    server = optax.sgd(1.0) if server_optimizer is None else server_optimizer
    fl.check_optimizer(server_optimizer=server)

    def init(params: Any) -> ServerState:
        part = fl.trainable(params)
        control = () if exchanges is None else jax.tree.map(jnp.zeros_like, part)
        measuring = jnp.bool_(True) if exchanges == 2 else ()
        return ServerState(params, work.base.init(part), control, measuring, server.init(part))

    def client_update(shared: _Shared, client_state: Any, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        del key  # local training takes its keys from the client's view
        if exchanges != 2:
            delta, info = train(shared, data)
            update: Any = {"delta": delta, "gradient": work.full_gradient(shared.params, data)[1]}
            return fl.ClientOutput(update, data.num_examples, client_state=client_state, info=info)

        def measure() -> tuple[Any, dict[str, Any]]:
            reduced, own = work.full_gradient(shared.params, data)
            nothing = jax.tree.map(jnp.zeros_like, shared.params)
            return fl.with_trainable(nothing, own), {
                "loss": reduced.loss,
                **reduced.metrics,
                "local_steps": jnp.int32(0),
            }

        update, info = jax.lax.cond(shared.measuring, measure, lambda: train(shared, data))
        return fl.ClientOutput(update, data.num_examples, client_state=client_state, info=info)

    def stepped(state: ServerState, delta: Any, mean_gradient: Any) -> ServerState:
        params, optimizer_state = fl.apply_delta(server, state.params, delta, state.optimizer_state)
        _, statistics = work.base.update(mean_gradient, state.statistics, fl.trainable(state.params))
        return state._replace(params=params, statistics=statistics, optimizer_state=optimizer_state)

    def server_update(state: ServerState, aggregate: fl.Aggregate, key: jax.Array) -> ServerState:
        del key
        sent = fl.trainable(aggregate.value) if exchanges == 2 else aggregate.value["gradient"]
        measured = jax.tree.map(lambda g, p: g.astype(p.dtype), sent, fl.trainable(state.params))
        if exchanges == 2:
            trained = stepped(state, aggregate.value, state.control)._replace(measuring=jnp.bool_(True))
            waiting = state._replace(control=measured, measuring=jnp.bool_(False))
            new = _select(state.measuring, waiting, trained)
        else:
            new = stepped(state, aggregate.value["delta"], measured)
            new = new if exchanges is None else new._replace(control=measured)
        return _select(aggregate.num_clients > 0, new, state)

    hparams = {"batch_size": work.batch_size, "epochs": work.epochs, "steps": work.steps, "shuffle": work.shuffle}
    return fl.Algorithm(
        init,
        client_update,
        server_update,
        broadcast=lambda state: _Shared(state.params, state.statistics, state.control, state.measuring),
        client_params=lambda shared, client_state: shared.params,
        name=name,
        hparams=hparams if exchanges is None else {**hparams, "exchanges": exchanges},
        in_rounds=exchanges == 2,
    )


def _select(condition: Any, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
