"""A partition of the parameters: trainable, frozen, and personal leaves, for any algorithm."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.protocol.algorithm import Aggregate, Algorithm, ClientOutput

PyTree = Any
Predicate = Callable[[tuple[Any, ...], Any], bool]


class PartitionedState(NamedTuple):
    """The server's state under a partition.

    Attributes:
      inner: the algorithm's own state, on the trainable leaves (personal ones hold their start values).
      params: the whole model.
    """

    inner: Any
    params: PyTree


class _Shared(NamedTuple):
    inner: PyTree
    frozen: PyTree


class _Client(NamedTuple):
    inner: PyTree
    personal: PyTree


def partition_params(
    make: Callable[[Callable[..., Any]], Algorithm],
    loss_fn: Callable[..., Any],
    *,
    frozen: Predicate | None = None,
    personal: Predicate | None = None,
) -> Algorithm:
    """An algorithm that trains only part of the parameters, or keeps part of them at each client.

    Args:
      make: `make(loss_fn) -> Algorithm`, such as `lambda loss: algorithms.fed_avg(loss, client_optimizer=...)`.
      loss_fn: `(params, batch, key) -> [B]` of the whole model.
      frozen: `frozen(path, leaf) -> bool` says which leaves nobody trains; `path` is a tuple of key names. They are
        one unbatched copy for all lanes and never cross the wire (a large base under LoRA).
      personal: likewise, which leaves stay at the client (FedPer's head, FedBN's normalisation). They are trained with
        the others and kept in the client's state; the server never sees them.

    Returns:
      an Algorithm on the whole model. `client_params` gives a client's own model.

    Raises:
      TypeError: if an argument is no function. ValueError, when built: if nothing is left to train, a leaf is both
        frozen and personal, or personal leaves meet an algorithm whose update is more than a delta.

    Sources: Arivazhagan et al. (2019), https://arxiv.org/abs/1912.00818 (personal layers); Hu et al. (2021),
    https://arxiv.org/abs/2106.09685 (a frozen base).

    Example:
      >>> import optax
      >>> from fedjaxlite import algorithms
      >>> loss = lambda params, batch, key: (params["base"] + params["head"] - batch["x"]) ** 2
      >>> make = lambda loss: algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.1))
      >>> partition_params(make, loss, frozen=lambda path, leaf: path[0] == "base").name
      'partitioned(fed_avg)'
    """
    checks.is_function_of("loss_fn", make=make)
    checks.is_function_of("params", "batch", "key", loss_fn=loss_fn)
    if frozen is None and personal is None:
        raise ValueError("`frozen` and `personal` are both None; expected at least one, or use the algorithm as it is.")
    parts = _Parts(_predicate("frozen", frozen), _predicate("personal", personal))
    template = make(loss_fn)
    checks.one_instance(Algorithm, "an Algorithm", **{"make(loss_fn)": template})

    def init(params: PyTree) -> PartitionedState:
        return PartitionedState(template.init(parts.split(params)[0]), params)

    def broadcast(state: PartitionedState) -> _Shared:
        return _Shared((template.broadcast or template.params)(state.inner), parts.split(state.params)[1])

    def init_client(params: PyTree) -> _Client:
        part, _ = parts.split(params)
        return _Client(template.init_client(part), parts.personal_of(part))

    def own_start(shared: _Shared, client_state: _Client) -> PyTree:
        """The model that a client starts from: its own leaves in place of the server's."""
        if personal is None:
            return shared.inner
        _check_params_only(shared.inner, client_state.personal, template.name)
        return _overlay(shared.inner, client_state.personal)

    def client_update(shared: _Shared, client_state: _Client, data: Any, key: Any) -> ClientOutput:
        # The frozen leaves reach the loss by closure: one copy for all lanes, outside of what the algorithm carries.
        algorithm = make(lambda part, batch, key: loss_fn(_overlay(part, shared.frozen), batch, key))
        start = own_start(shared, client_state)
        output = algorithm.client_update(start, client_state.inner, data, key)
        own = client_state.personal
        if personal is not None:
            _check_delta(output.update, start)
            # A delta is server minus client, so what the client now has is start minus delta.
            own = jax.tree.map(jnp.subtract, parts.personal_of(start), parts.personal_of(output.update))
            output = output._replace(update=parts.common_of(output.update))
        return output._replace(client_state=_Client(output.client_state, own))

    def server_update(state: PartitionedState, aggregate: Aggregate, key: Any) -> PartitionedState:
        if personal is not None:
            own = parts.personal_of(parts.split(state.params)[0])
            aggregate = aggregate._replace(value=_overlay(aggregate.value, jax.tree.map(jnp.zeros_like, own)))
        new = template.server_update(state.inner, aggregate, key)
        return PartitionedState(new, _overlay(state.params, template.params(new)))

    def client_params(shared: _Shared, client_state: _Client) -> PyTree:
        own = template.client_params(own_start(shared, client_state), client_state.inner)
        return _overlay(own if personal is None else _overlay(own, client_state.personal), shared.frozen)

    return Algorithm(
        init,
        client_update,
        server_update,
        broadcast=broadcast,
        init_client=init_client,
        client_params=client_params,
        # In a round a client's own leaves replace the start values that stand in their places.
        resident=lambda shared: (shared.frozen, parts.personal_of(shared.inner)),
        scalar_bounds=template.scalar_bounds,
        name=f"partitioned({template.name})",
        hparams=template.hparams,
    )


class _Parts(NamedTuple):
    is_frozen: Predicate
    is_personal: Predicate

    def split(self, params: PyTree) -> tuple[PyTree, PyTree]:
        """The leaves that are trained, and the frozen ones; None where a leaf is of the other kind."""
        fixed, own = _mask(params, self.is_frozen), _mask(params, self.is_personal)
        _check(params, fixed, own)
        return _keep(params, jax.tree.map(lambda f: not f, fixed)), _keep(params, fixed)

    def personal_of(self, part: PyTree) -> PyTree:
        return _keep(part, _mask(part, self.is_personal))

    def common_of(self, part: PyTree) -> PyTree:
        return _keep(part, jax.tree.map(lambda own: not own, _mask(part, self.is_personal)))


def _predicate(name: str, predicate: Predicate | None) -> Predicate:
    if predicate is None:
        return lambda path, leaf: False
    checks.is_function_of("path", "leaf", remedy="It says which leaves.", **{name: predicate})
    return predicate


def _mask(params: PyTree, predicate: Predicate) -> PyTree:
    return jax.tree_util.tree_map_with_path(lambda path, leaf: bool(predicate(checks.path_names(path), leaf)), params)


def _keep(params: PyTree, mask: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf, keep: leaf if keep else None, params, mask)


def _overlay(under: PyTree, over: PyTree) -> PyTree:
    """`over` where it has a leaf, `under` elsewhere."""
    none = lambda leaf: leaf is None  # noqa: E731
    return jax.tree.map(lambda u, o: u if o is None else o, under, over, is_leaf=none)


def _check(params: PyTree, fixed: PyTree, own: PyTree) -> None:
    both = jax.tree.map(lambda f, p: f and p, fixed, own)
    for path, value in jax.tree_util.tree_flatten_with_path(both)[0]:
        if value:
            raise ValueError(f"the leaf {checks.path_str(path)} is both frozen and personal; expected one of them.")
    if all(jax.tree.leaves(jax.tree.map(lambda f, p: f or p, fixed, own))):
        raise ValueError(
            "every leaf is frozen or personal, so nothing is left to share; expected at least one trainable leaf, of "
            + ", ".join(checks.path_str(path) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0])
            + "."
        )


def _check_params_only(broadcast: PyTree, personal: PyTree, name: str) -> None:
    """Refuses a broadcast in which the personal leaves have no place, since it is more than the parameters."""
    none = lambda leaf: leaf is None  # noqa: E731
    if jax.tree.structure(broadcast, is_leaf=none) != jax.tree.structure(personal, is_leaf=none):
        raise ValueError(
            f"`personal` needs an algorithm that broadcasts the parameters and nothing else, and `{name}` broadcasts "
            f"{jax.tree.structure(broadcast)}. Keep the leaves in the algorithm's own client state instead."
        )


def _check_delta(update: PyTree, params: PyTree) -> None:
    if jax.tree.structure(update) != jax.tree.structure(params):
        raise ValueError(
            "`personal` needs an algorithm whose update is a delta of the parameters, and this one sends "
            f"{jax.tree.structure(update)}. Keep the leaves in the algorithm's own client state instead."
        )
