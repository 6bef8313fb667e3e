"""LoRA: a frozen base model, and small matrices of low rank that are trained, sent and averaged in its place.

    adapted leaf:  W' = W + alpha / r  A B,     W [m, n] frozen,  A [m, r] drawn,  B [r, n] zero at the start
    client k:      (A_k, B_k) trained from (A, B) as by any algorithm
    server:        the algorithm's, on (A, B)

The base is one copy for all lanes and crosses no wire. The average of products is not the product of averages: FedAvg
of A and B is an approximation of averaging W'. With A frozen as well (`freeze_a`, FFA-LoRA) it is exact, and half of
the bytes.

Sources:
  Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen (2021), "LoRA: Low-Rank Adaptation of Large Language Models",
  https://arxiv.org/abs/2106.09685, section 4.1.
  Sun, Li, Li, Ding (2024), "Improving LoRA in Privacy-preserving Federated Learning",
  https://arxiv.org/abs/2403.12313 (FFA-LoRA: why B alone).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import fedjaxlite as fl
from fedjaxlite.algorithms.pieces.leaves import Predicate, check_chosen, check_predicates, names_of, split


class Adapter(NamedTuple):
    """What is added to one leaf, `alpha / r  a @ b` in the leaf's shape.

    Attributes:
      a: `[m, r]`, m the product of all of the leaf's axes but the last; normal with variance 1 / m at the start.
      b: `[r, n]`, n the leaf's last axis; zero at the start.
    """

    a: Any
    b: Any


class Adapted(NamedTuple):
    """A model under adaptation: what `federated` trains.

    Attributes:
      base: the frozen model, a pytree or `fl.Variables`.
      adapters: pytree like the base's trainable part, with an Adapter where a leaf is adapted, and None elsewhere.
    """

    base: Any
    adapters: Any


def init(params: Any, *, rank: int, key: jax.Array, where: Predicate | None = None) -> Any:
    """Adapters that change nothing yet.

    Args:
      params: the base model, a pytree or `fl.Variables`; arrays or `jax.ShapeDtypeStruct`s.
      rank: r.
      key: random key of the matrices A; each leaf's are drawn by its place in the tree.
      where: `where(path, leaf) -> bool` chooses the leaves to adapt, each with two axes or more, such as
        `by_name("attention")`; None is every leaf of two axes. A path is one in the trainable part. A kernel of more
        axes is taken for a matrix from all axes but the last to the last one.

    Returns:
      pytree like the trainable part, with an Adapter of the leaf's dtype at each chosen leaf, and None elsewhere.

    Raises:
      TypeError, ValueError: for a rank below 1 or above a leaf's own; if no leaf is chosen, or one with less than two
        axes, or one that is not of floats.

    Example:
      >>> base = {"kernel": jnp.ones((8, 3)), "bias": jnp.zeros(3)}
      >>> adapters = init(base, rank=2, key=jax.random.key(0))
      >>> adapters["kernel"].a.shape, adapters["kernel"].b.shape, adapters["bias"]
      ((8, 2), (2, 3), None)
    """
    rank = fl.checks.positive_int(rank=rank)
    fl.checks.is_key(key=key)
    fl.checks.numeric_leaves("params", params, structs=True)
    if where is None:
        where = _matrices
    check_predicates(where=where)
    leaves = fl.trainable(params)
    check_chosen(leaves, where, "where")
    flat, treedef = jax.tree_util.tree_flatten_with_path(split(leaves, where)[0], is_leaf=lambda leaf: leaf is None)
    made = [None if leaf is None else _adapter(path, leaf, rank, key, i) for i, (path, leaf) in enumerate(flat)]
    return treedef.unflatten(made)


def _matrices(path: tuple[Any, ...], leaf: Any) -> bool:
    del path
    return jnp.ndim(leaf) == 2


def _adapter(path: tuple[Any, ...], leaf: Any, rank: int, key: jax.Array, index: int) -> Adapter:
    name = ".".join(map(str, names_of(path)))
    if len(leaf.shape) < 2 or not jnp.issubdtype(leaf.dtype, jnp.floating):
        raise ValueError(
            f"`where` chooses {name}, which is {leaf.dtype}{list(leaf.shape)}; expected floats with two axes or more. "
            "Leave biases and scales out of `where`."
        )
    rows, columns = math.prod(leaf.shape[:-1]), leaf.shape[-1]
    if rank > min(rows, columns):
        raise ValueError(
            f"`rank` is {rank}, and {name} is a matrix of {rows} by {columns}; expected at most {min(rows, columns)}. "
            "Lower the rank, or leave the leaf out of `where`."
        )
    drawn = jax.random.normal(jax.random.fold_in(key, index), (rows, rank), jnp.float32) / math.sqrt(rows)
    return Adapter(drawn.astype(leaf.dtype), jnp.zeros((rank, columns), leaf.dtype))


def merge(params: Any, adapters: Any, *, alpha: Any) -> Any:
    """The model with the adapters added to its leaves: for serving, and inside the loss.

    Args:
      params: the base model, a pytree or `fl.Variables`.
      adapters: from `init`, of the same structure.
      alpha: the scale of the whole; a leaf gets `alpha / r` times the product. May be traced.

    Returns:
      a model like `params`, dtypes and state included.

    Example:
      >>> base = {"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(2)}
      >>> adapters = {"kernel": Adapter(jnp.ones((2, 1)), jnp.float32([[1, 2]])), "bias": None}
      >>> merge(base, adapters, alpha=0.5)["kernel"].tolist()
      [[1.5, 2.0], [1.5, 2.0]]
    """

    def one(adapter: Any, leaf: Any) -> Any:
        if adapter is None:
            return leaf
        scale = jnp.asarray(alpha, jnp.float32) / adapter.a.shape[1]
        change = scale * (adapter.a @ adapter.b).astype(jnp.float32)
        return leaf + change.reshape(leaf.shape).astype(leaf.dtype)

    whole = jax.tree.map(one, adapters, fl.trainable(params), is_leaf=lambda x: x is None or isinstance(x, Adapter))
    return fl.with_trainable(params, whole)


def lora_loss(loss_fn: Callable[..., Any], *, alpha: Any) -> fl.losses.Loss:
    """A loss of the base and its adapters, for training and for evaluation.

    Args:
      loss_fn: `(params, batch, key) -> [B]` of the whole model, or `([B], LossAux)`; or a `fl.losses` loss.
      alpha: see `merge`.

    Returns:
      a loss `(Adapted, batch, key) -> [B]` or `([B], LossAux)`. State of the base (BatchNorm's statistics) is frozen:
      a `LossAux.state` is dropped.

    Example:
      >>> square = lambda params, batch, key: (batch["x"] @ params["kernel"]).sum(1) ** 2
      >>> loss = lora_loss(square, alpha=1.0)
      >>> base = {"kernel": jnp.ones((2, 1))}
      >>> model = Adapted(base, init(base, rank=1, key=jax.random.key(0)))
      >>> loss(model, {"x": jnp.ones((3, 2))}, None).tolist()
      [4.0, 4.0, 4.0]
    """
    fl.checks.is_function_of("params", "batch", "key", loss_fn=loss_fn)
    alpha = fl.checks.positive(alpha=alpha)

    def fn(params: Adapted, batch: Any, key: Any) -> Any:
        result = loss_fn(merge(params.base, params.adapters, alpha=alpha), batch, key)
        return (result[0], result[1]._replace(state=None)) if isinstance(result, tuple) else result

    return fl.losses.declare(fn, cross_example=bool(getattr(loss_fn, "cross_example", False)), name="lora_loss")


def federated(
    make: Callable[[Callable[..., Any]], fl.Algorithm],
    loss_fn: Callable[..., Any],
    *,
    alpha: Any,
    freeze_a: bool = False,
) -> fl.Algorithm:
    """Any algorithm, on the adapters of a frozen base.

    Args:
      make: `make(loss) -> Algorithm`, such as `lambda loss: fed_avg(loss, client_optimizer=...)`.
      loss_fn: `(params, batch, key) -> [B]` of the whole model, or `([B], LossAux)`.
      alpha: see `merge`.
      freeze_a: whether the drawn matrices A stay as they are too, so that B alone is trained and sent.

    Returns:
      an `fl.Algorithm` on `Adapted(base, init(base, ...))`. The base is one copy for all lanes, and neither sent nor
      received in any round. While a step runs, each lane has merged copies of the adapted leaves, and gradients of
      their size; optimizer states, deltas and the sum over clients have the size of the adapters.

    Raises:
      TypeError, ValueError: for arguments out of range.

    Source: Hu et al. (2021), https://arxiv.org/abs/2106.09685.

    Example:
      >>> import optax
      >>> from fedjaxlite import algorithms
      >>> square = lambda params, batch, key: (batch["x"] @ params["kernel"]).sum(1) ** 2
      >>> make = lambda loss: algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.1))
      >>> federated(make, square, alpha=8.0).name
      'lora(fed_avg)'
    """
    fl.checks.is_function_of("loss", make=make)
    freeze_a = fl.checks.flag(freeze_a=freeze_a)
    loss = lora_loss(loss_fn, alpha=alpha)

    def frozen(path: tuple[Any, ...], leaf: Any) -> bool:
        del leaf
        return path[0] == "base" or (freeze_a and path[-1] == "a")

    base = fl.partition_params(make, loss, frozen=frozen)

    def start(params: Any) -> Any:
        if not isinstance(params, Adapted):
            raise TypeError(
                f"the params are a {type(params).__name__}; expected lora.Adapted(base, lora.init(base, rank=..., "
                "key=...)), the frozen base with its adapters."
            )
        return base.init(params)

    name = base.name.replace("partitioned", "lora")
    return base._replace(init=start, name=name, hparams={**base.hparams, "alpha": alpha, "freeze_a": freeze_a})
