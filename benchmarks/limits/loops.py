"""SGD in a scan, in raw JAX: one model after the other, and many models side by side on several devices."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any
Loss = Callable[[PyTree, dict[str, Any], Any], jax.Array]


def one_scan(loss: Loss, learning_rate: float) -> Callable[..., tuple[PyTree, jax.Array]]:
    """S steps of SGD, one after the other, in one jitted scan: the plain limit.

    Args:
      loss: `loss(params, batch, key) -> scalar`.
      learning_rate: of SGD.

    Returns:
      `run(params, features, rows, key) -> (params, losses [S])`; `rows` is int32 `[S, B]`.
    """

    def run(params: PyTree, features: dict[str, Any], rows: Any, key: Any) -> tuple[PyTree, jax.Array]:
        def step(params: PyTree, now: tuple[Any, Any]) -> tuple[PyTree, jax.Array]:
            index, rows = now
            batch = {name: feature[rows] for name, feature in features.items()}
            value, grads = jax.value_and_grad(loss)(params, batch, jax.random.fold_in(key, index))
            return jax.tree.map(lambda p, g: p - learning_rate * g, params, grads), value

        return jax.lax.scan(step, params, (jnp.arange(rows.shape[0]), rows))

    return jax.jit(run)


def split_scan(loss: Loss, learning_rate: float, devices: Sequence[Any]) -> Callable[..., Callable[[], PyTree]]:
    """The same number of steps in chains: D devices, on each of them L models side by side, which are averaged.

    Args:
      loss: `loss(params, batch, key) -> scalar`.
      learning_rate: of SGD.
      devices: D of them.

    Returns:
      `place(params, features, rows, key) -> run`, which puts everything on the devices; `run() -> params`. `rows` is
      int32 `[D, L, S / (D L), B]`, from `chains`.
    """
    mesh = jax.sharding.Mesh(np.asarray(devices), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))

    def run(params: PyTree, features: dict[str, Any], rows: Any, key: Any) -> PyTree:
        lanes = rows.shape[1]
        key = jax.random.fold_in(key, jax.lax.axis_index("devices"))
        stacked = jax.tree.map(lambda p: jnp.broadcast_to(p[None], (lanes, *p.shape)), params)

        def one(params: PyTree, rows: Any, key: Any) -> PyTree:
            take = {name: feature.at[rows].get(mode="promise_in_bounds") for name, feature in features.items()}
            return jax.tree.map(lambda p, g: p - learning_rate * g, params, jax.grad(loss)(params, take, key))

        def step(carry: PyTree, now: tuple[Any, Any]) -> tuple[PyTree, None]:
            index, rows = now
            if lanes == 1:
                alone = one(jax.tree.map(lambda p: p[0], carry), rows[0], jax.random.fold_in(key, index))
                return jax.tree.map(lambda p: p[None], alone), None
            keys = jax.vmap(lambda lane: jax.random.fold_in(key, index * lanes + lane))(jnp.arange(lanes))
            return jax.vmap(one)(carry, rows, keys), None

        rows = jnp.swapaxes(rows[0], 0, 1)
        trained = jax.lax.scan(step, stacked, (jnp.arange(rows.shape[0]), rows))[0]
        return jax.tree.map(lambda p: jax.lax.pmean(p.mean(0), "devices"), trained)

    everywhere, split = jax.P(), jax.P("devices")
    specs = (everywhere, everywhere, split, everywhere)
    mapped = jax.jit(jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=everywhere, check_vma=False))

    def place(params: PyTree, features: dict[str, Any], rows: Any, key: Any) -> Callable[[], PyTree]:
        put = lambda tree, spec: jax.device_put(tree, jax.NamedSharding(mesh, spec))  # noqa: E731
        given = (*put((params, features), everywhere), put(rows, split), put(key, everywhere))
        return lambda: mapped(*given)

    return place


def chains(rows: np.ndarray, devices: int, lanes: int) -> np.ndarray:
    """Cuts S batches into D x L chains of equal length, at most D x L - 1 batches longer in all.

    Args:
      rows: int32 `[S, B]`.
      devices: D.
      lanes: L.

    Returns:
      int32 `[D, L, ceil(S / (D L)), B]`; the last chain goes on with the first batches.
    """
    length = -(-rows.shape[0] // (devices * lanes))
    index = np.resize(np.arange(rows.shape[0]), devices * lanes * length)
    return rows[index].reshape(devices, lanes, length, rows.shape[1])
