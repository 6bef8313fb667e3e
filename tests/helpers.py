"""Tiny problems, algorithms written from public names alone, and shared runs for the tests of the laws."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite import algorithms

RAGGED = (1, 200, 7, 33, 2, 64, 10, 5, 21, 90, 16, 8)
"""Examples a client, from 1 to 200."""

ONE = fl.Execution(lanes=1, devices=1)


def available(devices: int) -> int:
    """So many devices or, on a machine with one GPU, that one: what is tested holds for any number."""
    return min(devices, jax.device_count())


def needs_devices(devices: int) -> pytest.MarkDecorator:
    """For tests of what happens between devices."""
    here = jax.device_count()
    return pytest.mark.skipif(here < devices, reason=f"needs {devices} devices of one kind; this machine has {here}")


def linear_loss(params: Any, batch: Any, key: Any) -> jax.Array:
    """Squared error of a linear model, `[B]`."""
    del key
    return (batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2


def linear_params(num_features: int = 3) -> dict[str, jax.Array]:
    return {"w": jnp.zeros((num_features,)), "b": jnp.float32(0.0)}


@lru_cache(maxsize=32)
def regression(sizes: tuple[int, ...] = RAGGED, num_features: int = 3, seed: int = 0) -> fl.Population:
    """Clients with linear targets of their own, of the given sizes."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    x = rng.normal(size=(len(owner), num_features)).astype(np.float32)
    weights = rng.normal(size=(len(sizes), num_features)) + 1.0
    y = np.einsum("nf,nf->n", x, weights[owner]) + 0.1 * rng.normal(size=len(owner))
    return fl.Population.from_arrays({"x": x, "y": y.astype(np.float32)}, client_ids=owner)


def fed_avg(rate: Any = 0.02, *, batch_size: int | None = 8, epochs: int | None = 1, **options: Any) -> fl.Algorithm:
    """Federated averaging of the linear model."""
    return algorithms.fed_avg(
        linear_loss, client_optimizer=optax.sgd(rate), batch_size=batch_size, epochs=epochs, **options
    )


def sends(scale: Any = 1.0) -> fl.Algorithm:
    """Federated averaging where training is beside the point: clients send one number for all parameters, `scale` times
    their first target, and tell of themselves what `fed_avg` tells."""

    def client_update(shared: Any, own: Any, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        first = first_value(data, "y")
        told = {"local_steps": jnp.minimum(data.num_examples, 1), "loss": first**2}
        update = jax.tree.map(lambda leaf: jnp.broadcast_to(scale * first, leaf.shape), shared)
        return fl.ClientOutput(update, data.num_examples, client_state=own, info=told)

    return fed_avg()._replace(client_update=client_update, name="sends")


def one_run(
    algorithm: fl.Algorithm,
    population: fl.Population,
    params: Any,
    *,
    sampler: fl.Sampler | None = None,
    aggregator: fl.Aggregator | None = None,
    execution: fl.Execution = ONE,
    num_rounds: int = 1,
    seed: int = 0,
) -> tuple[fl.Rounds, Any, Any]:
    """Composes, runs `num_rounds` rounds by `step`, and returns the Rounds, the last state and the last info."""
    run = fl.rounds(
        algorithm,
        sampler=fl.sampling.full(population.num_clients) if sampler is None else sampler,
        aggregator=fl.weighted_mean() if aggregator is None else aggregator,
        execution=execution,
    )
    key = jax.random.key(seed)
    state, info = run.init(params, population, key=key, noise_key=key), None
    for _ in range(num_rounds):
        state, info = run.step(state, population)
    return run, state, info


class Momentum(NamedTuple):
    """A client's state in `local_momentum`: a running mean of its deltas, and how often it took part."""

    mean: Any
    times: jax.Array


def local_momentum(rate: float = 0.02, decay: float = 0.5, **options: Any) -> fl.Algorithm:
    """Clients send a running mean of their own deltas, which they keep: the smallest algorithm with client state."""
    base = fed_avg(rate, **options)
    train = fl.local_sgd(linear_loss, client_optimizer=optax.sgd(rate), **{"batch_size": 8, "epochs": 1, **options})

    def init_client(params: Any) -> Momentum:
        return Momentum(jax.tree.map(jnp.zeros_like, params), jnp.int32(0))

    def client_update(shared: Any, own: Momentum, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        result = train(shared, data)
        mean = jax.tree.map(lambda m, d: decay * m + d, own.mean, result.delta)
        return fl.ClientOutput(
            mean, result.num_examples, client_state=Momentum(mean, own.times + 1), info={"times": own.times + 1}
        )

    def client_params(shared: Any, own: Momentum) -> Any:
        return jax.tree.map(jnp.subtract, shared, own.mean)

    return base._replace(
        client_update=client_update, init_client=init_client, client_params=client_params, name="local_momentum"
    )


class Controls(NamedTuple):
    """The server's state in `scaffold`."""

    params: Any
    control: Any


def scaffold(rate: float = 0.02, **options: Any) -> fl.Algorithm:
    """SCAFFOLD option II (Karimireddy et al. 2020): client state, two parts in the update, a weight for each."""
    train = fl.local_sgd(linear_loss, client_optimizer=optax.sgd(rate), **{"batch_size": 8, "epochs": 1, **options})
    zeros = lambda params: jax.tree.map(jnp.zeros_like, params)  # noqa: E731

    def client_update(shared: Controls, own: Any, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        correct = lambda g, p: jax.tree.map(lambda a, ci, c: a - ci + c, g, own, shared.control)  # noqa: E731
        result = train(shared.params, data, correct)
        share = 1.0 / (jnp.maximum(result.num_steps, 1).astype(jnp.float32) * rate)
        new = jax.tree.map(lambda ci, c, d: ci - c + d * share, own, shared.control, result.delta)
        update = {"delta": result.delta, "control": jax.tree.map(jnp.subtract, new, own)}
        weight = {"delta": result.num_examples, "control": jnp.int32(1)}
        return fl.ClientOutput(update, weight, client_state=new)

    def server_update(state: Controls, aggregate: fl.Aggregate, key: jax.Array) -> Controls:
        params = jax.tree.map(jnp.subtract, state.params, aggregate.value["delta"])
        return Controls(params, jax.tree.map(jnp.add, state.control, aggregate.value["control"]))

    return fl.Algorithm(
        lambda params: Controls(params, zeros(params)),
        client_update,
        server_update,
        broadcast=lambda state: state,
        init_client=zeros,
        name="scaffold",
    )


def normalized(rate: float = 0.02, max_steps: float = 64.0) -> fl.Algorithm:
    """After FedNova (Wang et al. 2020): clients send a delta per step, and their number of steps as a bounded scalar."""
    train = fl.local_sgd(linear_loss, client_optimizer=optax.sgd(rate), batch_size=8, epochs=1)

    def client_update(shared: Any, own: Any, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        result = train(shared, data)
        steps = result.num_steps.astype(jnp.float32)
        direction = jax.tree.map(lambda d: d / jnp.maximum(steps, 1.0), result.delta)
        return fl.ClientOutput(direction, result.num_examples, scalars={"steps": steps}, info={"steps": steps})

    def server_update(params: Any, aggregate: fl.Aggregate, key: jax.Array) -> Any:
        return jax.tree.map(lambda p, d: p - aggregate.scalars["steps"] * d, params, aggregate.value)

    return fl.Algorithm(
        lambda params: params,
        client_update,
        server_update,
        params=lambda params: params,
        scalar_bounds={"steps": max_steps},
        name="normalized",
    )


def sender(update: Any, *, weight: Any = None, scalars: Any = None, **fields: Any) -> fl.Algorithm:
    """Clients send `update(data)`; the server keeps the last aggregate's value. For tests of what is in between."""

    def client_update(shared: Any, own: Any, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        weighs = data.num_examples if weight is None else weight(data)
        return fl.ClientOutput(update(data), weighs, {} if scalars is None else scalars(data), own)

    return fl.Algorithm(
        lambda params: params,
        client_update,
        lambda params, aggregate, key: aggregate.value,
        params=lambda params: params,
        name="sender",
        **fields,
    )


def first_value(data: fl.ClientData, name: str = "x") -> jax.Array:
    """A client's first example; zero for a client without examples."""
    return jnp.where(data.num_examples > 0, data.features[name].at[data.offset].get(mode="clip"), 0.0)


def one_value_each(values: Sequence[float], sizes: Sequence[int] | None = None) -> fl.Population:
    """Clients whose examples all are one number."""
    sizes = [1] * len(values) if sizes is None else list(sizes)
    return fl.Population.from_arrays(
        {"x": np.repeat(np.float32(values), sizes)}, client_ids=np.repeat(np.arange(len(values)), sizes)
    )


def max_difference(got: Any, want: Any) -> float:
    """The largest absolute difference over all leaves."""
    leaves = zip(jax.tree.leaves(jax.device_get(got)), jax.tree.leaves(jax.device_get(want)), strict=True)
    return max(float(np.max(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)))) for a, b in leaves)


def some_often(values: Iterable[Any], every: int, first: int = 0) -> list[Any]:
    """All values that a test is parametrized by, each a value, a tuple or a `pytest.param`; of so many one is tried
    every day, from the first-th on, and the others are slow tests."""
    sets = [
        value
        if isinstance(value, type(pytest.param()))
        else pytest.param(*(value if isinstance(value, tuple) else (value,)))
        for value in values
    ]
    later = lambda one: pytest.param(*one.values, marks=[*one.marks, pytest.mark.slow], id=one.id)  # noqa: E731
    return [one if i % every == first else later(one) for i, one in enumerate(sets)]
