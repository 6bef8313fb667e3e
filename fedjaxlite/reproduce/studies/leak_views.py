"""What a server sees of its clients, in several settings: the targets of the attacks in `leak`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fedjaxlite as fl
from fedjaxlite import privacy
from fedjaxlite.privacy import attacks

PyTree = Any
COHORT = 8
"""Clients under one secure sum, each with one image."""
ON_CLIENT = 4
"""Images of a client that trains locally."""
LOCAL: dict[str, Any] = {"learning_rate": 0.1, "epochs": 5, "batch_size": 2}
CLIP_NORM, RANGE, DELTA = 1.0, 64.0, 1e-5
"""The norm that noise is scaled to; the norm that a quantizer's range is made for, above those that occur."""
UNCLIPPED = 1e6
"""A clip norm that clips nothing; finite, so that its quotient has a gradient."""

PLAIN, EPOCHS, MASKED = "plain update", f"{LOCAL['epochs']} epochs on {ON_CLIENT}", "masked message"
NOISED = {epsilon: f"clipped, noise ε = {epsilon}" for epsilon in (1000, 8, 1)}
SUM = f"sum of {COHORT} clients"
VIEWS = (PLAIN, EPOCHS, *NOISED.values(), MASKED, SUM)


class Seen(NamedTuple):
    """What the server sees of clients that compute their updates alike, G of them.

    Attributes:
      params: `(weights [G, ...], clip_norm [G])`, what the attacker knows.
      target: pytree `[G, ...]` of floats, what the attacker sees.
      x: `[G, n, ...]`, the images behind it.
      y: `[G, n]`, their labels, which the attacker is given.
    """

    params: PyTree
    target: PyTree
    x: jax.Array
    y: jax.Array


def smooth_cnn(input_shape: tuple[int, int, int]) -> Any:
    """A small LeNet with sigmoids and wide uniform weights, on which DLG was shown (Zhu et al., 2019)."""
    strides = (2, 2, 1) if input_shape[0] > 16 else (1, 2)
    size = input_shape[0]
    for stride in strides:
        size = -(-size // stride)

    def init(key: Any) -> PyTree:
        shapes: dict[str, tuple[int, ...]] = {
            f"conv_{i}": (5, 5, 12 if i else input_shape[2], 12) for i in range(len(strides))
        }
        shapes["dense"] = (size * size * 12, 10)
        names = [(name, leaf) for name in shapes for leaf in ("kernel", "bias")]
        params: dict[str, Any] = {name: {} for name in shapes}
        for (name, leaf), own in zip(names, jax.random.split(key, len(names)), strict=True):
            shape = shapes[name] if leaf == "kernel" else shapes[name][-1:]
            params[name][leaf] = jax.random.uniform(own, shape, minval=-0.5, maxval=0.5)
        return params

    def apply(params: PyTree, x: jax.Array) -> jax.Array:
        for i, stride in enumerate(strides):
            layer = params[f"conv_{i}"]
            dimensions = ("NHWC", "HWIO", "NHWC")
            x = jax.lax.conv_general_dilated(x, layer["kernel"], (stride, stride), "SAME", dimension_numbers=dimensions)
            x = jax.nn.sigmoid(x + layer["bias"][None, None, None, :])
        return x.reshape(x.shape[0], -1) @ params["dense"]["kernel"] + params["dense"]["bias"][None, :]

    return fl.models.from_functions(init, apply, name="smooth_cnn", input_shape=input_shape)


def update_of(view: str, model: Any) -> Callable[..., PyTree]:
    """The attacker's model of what is behind a view, `((weights, clip_norm), x, y) -> update`, with n images."""
    loss_fn = attacks.soft_cross_entropy(model)
    local = attacks.local_update(loss_fn, **LOCAL)
    if view == EPOCHS:
        return lambda both, x, y: _clip(local(both[0], x, y), both[1])
    one = lambda both, x, y: _clip(attacks.gradient_update(loss_fn)(both[0], x, y), both[1])  # noqa: E731
    if view != SUM:
        return one
    return lambda both, x, y: jax.tree.map(
        lambda leaf: leaf.mean(0), jax.vmap(one, in_axes=(None, 0, 0))(both, x[:, None], y[:, None])
    )


def seen(view: str, model: Any, x: np.ndarray, y: np.ndarray, num_cohorts: int, key: Any) -> Seen:
    """The first images of a data set as the server sees them: one image a client, local epochs, or a secure sum.

    Args:
      view: one of VIEWS.
      model: a Model of 10 classes.
      x: float32 `[n, height, width, 1]`, n >= 8 C.
      y: int32 `[n]`.
      num_cohorts: C; each cohort has a model of its own, fresh, and 8 images.
      key: for models, masks and noise; with the same one, views are of the same models and images.

    Returns:
      Seen of G = 8 C clients, 2 C clients with 4 images each, or C sums.
    """
    images = jnp.asarray(x[: num_cohorts * COHORT]).reshape(num_cohorts, COHORT, *x.shape[1:])
    labels = jnp.asarray(y[: num_cohorts * COHORT]).reshape(num_cohorts, COHORT)
    to_init, to_send = jax.random.split(key)
    models = jax.vmap(model.init)(jax.random.split(to_init, num_cohorts))
    on_client = ON_CLIENT if view == EPOCHS else 1
    singles, answers = images.reshape(-1, on_client, *x.shape[1:]), labels.reshape(-1, on_client)
    weights = jax.tree.map(lambda leaf: jnp.repeat(leaf, COHORT // on_client, axis=0), models)
    loose = (weights, jnp.full(len(singles), UNCLIPPED))
    updates = jax.jit(jax.vmap(update_of(view if view == EPOCHS else PLAIN, model)))(loose, singles, answers)
    if view in (PLAIN, EPOCHS):
        return Seen(loose, updates, singles, answers)
    in_cohorts = jax.tree.map(lambda leaf: leaf.reshape(num_cohorts, COHORT, *leaf.shape[1:]), updates)
    keys = jax.random.split(to_send, num_cohorts)
    if view in (MASKED, SUM):
        secure = fl.chain(fl.mean(over=COHORT), fl.clip_by_global_norm(RANGE), privacy.secure_sum(bits=16))
        masked, mean = _each_through(secure, in_cohorts, keys)
        if view == SUM:
            return Seen((models, jnp.full(num_cohorts, UNCLIPPED)), mean, images, labels)
        return Seen(loose, jax.vmap(as_floats)(_flat(masked)), singles, answers)
    epsilon = next(value for value, name in NOISED.items() if name == view)
    noised = privacy.local_gaussian(clip_norm=CLIP_NORM, epsilon=epsilon, delta=DELTA)
    own = jax.vmap(lambda key: jax.random.fold_in(key, epsilon))(keys)
    sent, _ = _each_through(fl.chain(fl.mean(over=COHORT), noised), in_cohorts, own)
    return Seen((weights, jnp.full(len(singles), CLIP_NORM)), _flat(sent), singles, answers)


def through(chain: fl.Aggregator, updates: PyTree, key: Any) -> tuple[PyTree, PyTree]:
    """Sends one cohort's updates `[K, ...]` through a chain: each client's message, and what the server decodes."""
    count = jax.tree.leaves(updates)[0].shape[0]
    shapes = jax.eval_shape(lambda: jax.tree.map(lambda leaf: leaf[0], updates))
    state, _ = chain.init(fl.wire_of(shapes, weight=1.0, capacity=count, num_clients=count))
    own = chain.init_client(shapes)
    to_begin, to_encode, to_noise, to_decode = jax.random.split(key, 4)
    ids, everyone = jnp.arange(count, dtype=jnp.int32), jnp.ones(count, bool)
    ones = jnp.ones(count, jnp.float32)
    cohort = fl.Cohort(ids, everyone, everyone, ones, ones, jnp.int32(0))
    state = chain.begin(state, cohort, to_begin)

    def encode(value: PyTree, slot: Any) -> Any:
        fold = lambda key: jax.random.fold_in(key, slot)  # noqa: E731
        client = fl.ClientInfo(slot, jnp.float32(1), fold(to_encode), jnp.bool_(True), slot, fold(to_noise))
        sent, _ = chain.encode(state, own, fl.Message(value, jnp.float32(1), {}), client)
        return chain.read(state, sent, client)

    messages = jax.vmap(encode)(updates, ids)
    total = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0, dtype=leaf.dtype), messages)
    return messages.value, chain.decode(state, total, to_decode)[0].value


def _each_through(chain: fl.Aggregator, cohorts: PyTree, keys: Any) -> tuple[PyTree, PyTree]:
    """Several cohorts' updates `[C, K, ...]` through a chain, as one leaf each: that compiles several times faster."""
    leaves, structure = jax.tree.flatten(cohorts)
    vectors = jnp.concatenate([leaf.reshape(*leaf.shape[:2], -1) for leaf in leaves], axis=-1)
    messages, mean = jax.jit(lambda *both: jax.lax.map(lambda at: through(chain, *at), both))(vectors, keys)
    ends = np.cumsum([np.prod(leaf.shape[2:], dtype=int) for leaf in leaves])[:-1]

    def parts(vectors: jax.Array) -> PyTree:
        split = jnp.split(vectors, ends, axis=-1)
        shaped = [part.reshape(*part.shape[:-1], *leaf.shape[2:]) for part, leaf in zip(split, leaves, strict=True)]
        return jax.tree.unflatten(structure, shaped)

    return parts(messages), parts(mean)


def as_floats(value: PyTree) -> PyTree:
    """Integers mod 2^32 as an attacker reads them: signed, and as long as an update may be."""
    value = jax.tree.map(lambda leaf: jax.lax.bitcast_convert_type(leaf, jnp.int32).astype(jnp.float32), value)
    return jax.tree.map(lambda leaf: leaf / fl.global_norm(value), value)


def _flat(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tree)


def _clip(update: PyTree, clip_norm: Any) -> PyTree:
    factor = jnp.minimum(1.0, clip_norm / jnp.maximum(fl.global_norm(update), 1e-30))
    return jax.tree.map(lambda leaf: leaf * factor, update)
