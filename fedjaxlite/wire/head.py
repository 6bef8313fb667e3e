"""The wire at the head of a chain: what a client sends, and the facts of a run that codecs ask for."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Wire

PyTree = Any


def wire_of(
    template: PyTree,
    *,
    capacity: int,
    weight: PyTree = 1,
    scalars: Mapping[str, Any] | None = None,
    scalar_bounds: Mapping[str, float] | None = None,
    scaled: bool = False,
    num_clients: int | None = None,
    participation: Any = None,
) -> Wire:
    """The wire at the head of a chain, from the shapes of what one client sends; `chain.init` takes it.

    `fl.rounds` makes one from the algorithm and the sampler. By hand it lets a chain encode and decode without a run.

    Args:
      template: the update of a client, floats of any shapes, or their `jax.ShapeDtypeStruct`.
      capacity: the most clients in one sum.
      weight: a client's weight, or its shape: one number, or a tree prefix of `template` with one for each part. An int
        stands for counts, such as numbers of examples.
      scalars: what travels beside the update, by name, or its shapes.
      scalar_bounds: the largest absolute value of each scalar that has one.
      scaled: whether a sampler changes weights.
      num_clients: N, where it is known.
      participation: the sampler's `Accounting`, where there is one; correlated noise asks for it.

    Returns:
      a Wire on which nothing has been done yet.

    Raises:
      ValueError: for an update with leaves that are no floats, a weight that is no tree prefix of it, weights and
        scalars with axes, scalars beside a tree of weights, or a capacity below 1.
      TypeError: for a capacity or a number of clients that is no int, and leaves that are neither arrays nor numbers.

    Example:
      >>> import fedjaxlite as fl
      >>> chain = fl.chain(fl.weighted_mean(), fl.clip_by_global_norm(5.0))
      >>> updates, weights = jnp.array([[3.0, 4.0], [6.0, 8.0]]), jnp.array([1, 3])
      >>> state, end = chain.init(wire_of(updates[0], capacity=2))
      >>> end.bounds.l2
      5.0
      >>> def sent(i):
      ...     client = fl.ClientInfo(id=i, weight=1.0, key=jax.random.key(i), alive=True)
      ...     message, own = fl.Message(updates[i], weights[i], {}), chain.init_client(updates[i])
      ...     return chain.read(state, chain.encode(state, own, message, client)[0], client)
      >>> total = jax.tree.map(jnp.add, sent(0), sent(1))
      >>> chain.decode(state, total, jax.random.key(2))[0].value.tolist()
      [3.0, 4.0]
    """
    capacity = checks.positive_int("It is the most clients in one sum.", capacity=capacity)
    if num_clients is not None:
        num_clients = checks.positive_int(num_clients=num_clients)
    scaled = checks.flag(scaled=scaled)
    for name, given in {"scalars": scalars, "scalar_bounds": scalar_bounds}.items():
        if given is not None and not isinstance(given, Mapping):
            raise TypeError(f"`{name}` is {checks.shown(given)}; expected a dict by the scalars' names, or None.")
    for name, tree in {"template": template, "weight": weight, "scalars": scalars or {}}.items():
        checks.numeric_leaves(name, tree, structs=True)
    if not jax.tree.leaves(template):
        raise ValueError("`template` is an update without a leaf; expected at least one array of floats.")
    value, weights = _shapes("update", template), _shapes("weight", weight)
    beside = _shapes("scalars", dict(scalars or {}))
    for path, leaf in jax.tree_util.tree_flatten_with_path(value)[0]:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"the update has {leaf.dtype}{list(leaf.shape)} at {checks.path_str(path)}; expected floats, since "
                "updates are averaged. Leave the leaf out of the update, or cast it."
            )
    try:
        jax.tree.map(lambda weight, subtree: None, weights, value)
    except ValueError as error:
        raise ValueError(
            f"the weight is no tree prefix of the update: {error}. Give one number, or one for each part of the update."
        ) from None
    are_scalars((weights, beside))
    if beside and len(jax.tree.leaves(weights)) != 1:
        raise ValueError(
            f"the output has scalars {sorted(beside)} beside a tree of weights, so their weight is not clear. "
            "Give one weight, or put the scalars into the update as a part with a weight of its own."
        )
    facts: dict[str, Any] = {"scaled": scaled, "num_clients": num_clients, "participation": participation}
    floats = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in beside}
    return Wire(value, weights, floats, dict(scalar_bounds or {}), capacity=capacity, **facts)


def are_scalars(given: tuple[PyTree, ...]) -> None:
    """Refuses a leaf with axes in a client's weights, scalars and info."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(given)[0]:
        if leaf.shape != ():
            raise ValueError(
                f"a client's weights, scalars and info are scalars; got {leaf.dtype}{list(leaf.shape)} at "
                f"{checks.path_str(path[1:])}. Reduce it in the client."
            )


def _shapes(what: str, tree: PyTree) -> PyTree:
    """The shapes and dtypes of arrays and numbers; shapes stay what they are."""

    def shape(path: tuple[Any, ...], leaf: Any) -> jax.ShapeDtypeStruct:
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        number = isinstance(leaf, (bool, int, float, np.generic))
        if not (number or isinstance(leaf, (jax.Array, np.ndarray))):
            raise TypeError(
                f"the {what} has {leaf!r} at {checks.path_str(path)}; expected an array, a number, or the shape of one."
            )
        return jax.eval_shape(jnp.asarray, leaf)

    return jax.tree_util.tree_map_with_path(shape, tree)
