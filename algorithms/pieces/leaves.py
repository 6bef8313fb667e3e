"""Which leaves of a model a method keeps at the clients, trains apart, or leaves as they are.

A choice is a predicate `where(path, leaf) -> bool`; `path` is the tuple of the names that lead to the leaf, such as
("dense_1", "kernel"). In `fl.Variables` it begins with "params" or "state".
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Var

import fedjaxlite as fl

Path = tuple[Any, ...]
Predicate = Callable[[Path, Any], bool]

_NORM = re.compile(r"norm(?!al)|(^|_)bn(_?\d+)?$", re.IGNORECASE)
_VIEWS = ("broadcast_in_dim", "convert_element_type", "copy", "reshape", "squeeze", "transpose")


def by_name(*names: str) -> Predicate:
    """The leaves below these names.

    Args:
      names: such as "head", which chooses every leaf that has it in its path, or "head.kernel" for several names in a
        row. A leaf is chosen if one of them fits.

    Returns:
      a predicate `(path, leaf) -> bool`.

    Raises:
      TypeError, ValueError: without names, or for anything but strings.

    Example:
      >>> head = by_name("head", "block_2.bias")
      >>> [head(path, None) for path in (("head", "kernel"), ("block_2", "bias"), ("block_2", "kernel"))]
      [True, True, False]
    """
    if not names or any(not isinstance(name, str) or not name for name in names):
        raise TypeError(f"by_name got {names!r}; expected names of layers or leaves, such as by_name('head').")
    wanted = [tuple(name.split(".")) for name in names]

    def where(path: Path, leaf: Any) -> bool:
        del leaf
        have = tuple(map(str, path))
        return any(have[i : i + len(want)] == want for want in wanted for i in range(len(have)))

    return _named(where, f"by_name({', '.join(map(repr, names))})")


def norm_layers(path: Path, leaf: Any) -> bool:
    """Whether a leaf is of a normalization layer, by the name of the layer.

    Args:
      path: names that lead to the leaf.
      leaf: not used.

    Returns:
      True where a name has "norm" in it, in any case, or is "bn", "bn1" or "bn_1", also after a prefix and "_".

    Example:
      >>> [norm_layers(path, None) for path in (("norm_0", "scale"), ("BatchNorm_1", "bias"), ("dense", "bias"))]
      [True, True, False]
    """
    del leaf
    if not isinstance(path, (tuple, list)):
        raise TypeError(
            f"`path` is {fl.checks.shown(path)}; expected the names that lead to a leaf, such as ('norm_0', 'scale')."
        )
    return any(_NORM.search(str(name)) for name in path)


def last_layer(model: Any, x: Any = None) -> Predicate:
    """The layer whose parameters a model uses last on its way from input to output.

    Found by tracing `model.apply`, so the names of the layers and their order in the pytree do not matter.

    Args:
      model: a `fl.models` Model.
      x: a batch or its `jax.ShapeDtypeStruct`; None is one float32 example of the model's `input_shape`, which is
        wrong for models of tokens.

    Returns:
      a predicate for the leaf that is used last, and for those beside it (a kernel beside its bias).

    Raises:
      ValueError: if `x` is not given and the model does not fix its input's shape.

    Example:
      >>> from fedjaxlite import models
      >>> head = last_layer(models.mlp(features=(16, 10), input_shape=(8, 8, 1)))
      >>> head(("dense_1", "kernel"), None), head(("dense_0", "kernel"), None)
      (True, False)
    """
    fl.checks.one_instance(fl.models.Model, "a Model, such as fl.models.mlp()", model=model)
    if x is None:
        if model.input_shape is None:
            raise ValueError(
                f"`x` is None, and `{model.name}` does not fix its input_shape; expected a batch, or a "
                "jax.ShapeDtypeStruct of one, to trace the model with."
            )
        x = jax.ShapeDtypeStruct((1, *model.input_shape), jnp.float32)
    if not isinstance(x, jax.ShapeDtypeStruct):
        fl.checks.numeric_leaves("x", x)
    if not hasattr(x, "shape") or not hasattr(x, "dtype") or not x.shape:
        raise TypeError(f"`x` is {fl.checks.shown(x)}; expected a batch [B, ...], or its jax.ShapeDtypeStruct.")
    params = jax.eval_shape(model.init, jax.random.key(0))
    paths = [names_of(path) for path, _ in jax.tree_util.tree_flatten_with_path(fl.trainable(params))[0]]
    stateful = isinstance(params, fl.Variables)

    def apply(trained: Any, state: Any, x: Any) -> Any:
        return model.apply(fl.Variables(trained, state) if stateful else trained, x)

    jaxpr = jax.make_jaxpr(apply)(fl.trainable(params), params.state if stateful else (), x).jaxpr
    numbers = dict(zip(jaxpr.invars, range(len(paths)), strict=False))
    last = [0, *_uses(jaxpr, numbers)][-1]
    layer = (*(("params",) if stateful else ()), *paths[last][:-1])
    return _named(lambda path, leaf: tuple(path[:-1]) == layer, f"last_layer: {'.'.join(map(str, layer))}")


def _uses(jaxpr: Any, known: dict[Any, int]) -> Iterator[int]:
    """The numbers of the parameters, in the order in which equations use them."""
    known = dict(known)
    for equation in jaxpr.eqns:
        mine = {v: known[v] for v in equation.invars if isinstance(v, Var) and v in known}
        if equation.primitive.name in _VIEWS:
            known.update(dict.fromkeys(equation.outvars, next(iter(mine.values()))) if mine else {})
            continue
        inner = [getattr(value, "jaxpr", value) for value in equation.params.values()]
        inner = [sub for sub in inner if hasattr(sub, "eqns") and len(sub.invars) == len(equation.invars)]
        for sub in inner:
            pairs = zip(sub.invars, equation.invars, strict=True)
            yield from _uses(sub, {own: mine[v] for own, v in pairs if isinstance(v, Var) and v in mine})
        if not inner:
            yield from mine.values()


def names_of(path: Path) -> Path:
    """The names in a path of `jax.tree_util`."""
    return tuple(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k))) for k in path)


def split(params: Any, where: Predicate) -> tuple[Any, Any]:
    """The leaves that `where` chooses, and the others.

    Args:
      params: pytree.
      where: `where(path, leaf) -> bool`.

    Returns:
      two pytrees like `params`, each with None where a leaf is in the other.

    Example:
      >>> split({"head": 1, "body": 2}, by_name("head"))
      ({'body': None, 'head': 1}, {'body': 2, 'head': None})
    """
    chosen = jax.tree_util.tree_map_with_path(lambda path, leaf: bool(where(names_of(path), leaf)), params)
    keep = lambda leaf, mine: leaf if mine else None  # noqa: E731
    return jax.tree.map(keep, params, chosen), jax.tree.map(lambda leaf, mine: keep(leaf, not mine), params, chosen)


def joined(under: Any, over: Any) -> Any:
    """`over` where it has a leaf, and `under` elsewhere: what `split` took apart.

    Example:
      >>> joined({"head": None, "body": 2}, {"head": 1, "body": None})
      {'body': 2, 'head': 1}
    """
    return jax.tree.map(lambda u, o: u if o is None else o, under, over, is_leaf=lambda leaf: leaf is None)


def check_chosen(params: Any, where: Predicate, argument: str) -> None:
    """Refuses a choice of no leaf at all.

    Args:
      params: the model.
      where: the predicate.
      argument: its name, for the message.

    Raises:
      ValueError: that names the leaves there are.
    """
    if not jax.tree.leaves(split(params, where)[0]):
        paths = [".".join(map(str, names_of(path))) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
        raise ValueError(
            f"`{argument}` chooses none of the leaves {', '.join(paths)}; expected at least one. It gets a leaf's path "
            "as a tuple of names, and algorithms.by_name('head') chooses all leaves below a name."
        )


def check_divides(params: Any, where: Predicate, argument: str) -> None:
    """Refuses a choice of no leaf, or of all of them.

    Args:
      params: the model.
      where: the predicate.
      argument: its name, for the message.

    Raises:
      ValueError: that names the leaves there are.
    """
    check_chosen(params, where, argument)
    if not jax.tree.leaves(split(params, where)[1]):
        paths = [".".join(map(str, names_of(path))) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
        raise ValueError(
            f"`{argument}` chooses every leaf, so nothing is left to share; expected at least one other, of "
            f"{', '.join(paths)}."
        )


def check_predicates(**predicates: Any) -> None:
    """Refuses anything but functions, by the argument's name."""
    remedy = "It is called as `where(path, leaf) -> bool`; see algorithms.by_name."
    fl.checks.is_function_of("path", "leaf", remedy=remedy, **predicates)


def keep_personal(
    make: Callable[[Callable[..., Any]], fl.Algorithm], loss_fn: Callable[..., Any], where: Predicate, argument: str
) -> fl.Algorithm:
    """`fl.partition_params` with personal leaves, refused where nothing is chosen.

    Args:
      make: `make(loss_fn) -> Algorithm`.
      loss_fn: `(params, batch, key) -> [B]` of the whole model.
      where: chooses the personal leaves.
      argument: what the method calls `where`, for messages and for the record.

    Returns:
      an `fl.Algorithm` whose traffic is that of the other leaves alone: personal ones are neither sent nor received.

    Raises:
      TypeError: if `where` is no function. ValueError, when rounds are built: if it chooses no leaf, or all.
    """
    check_predicates(**{argument: where})
    base = fl.partition_params(make, loss_fn, personal=where)

    def init(params: Any) -> Any:
        check_divides(params, where, argument)
        return base.init(params)

    return base._replace(init=init, hparams={**base.hparams, argument: describe(where)})


def train_part(
    loss_fn: Callable[..., Any], where: Predicate, **options: Any
) -> Callable[[Any, fl.ClientData], fl.LocalResult]:
    """Local training of the chosen leaves, with the others fixed.

    Args:
      loss_fn: `(params, batch, key) -> [B]` of the whole model, or `([B], LossAux)`.
      where: chooses the trainable leaves that are trained.
      options: those of `fl.local_sgd`.

    Returns:
      `run(params, data) -> fl.LocalResult`, whose params are the whole model, and whose delta and optimizer state have
      the trained leaves alone. State that is not trained (BatchNorm's) moves as it does in any training.

    Raises:
      TypeError, ValueError: for arguments out of range.
    """
    fl.local_sgd(loss_fn, **options)  # refuses now what it refuses
    cross_example = bool(getattr(loss_fn, "cross_example", False))

    def run(params: Any, data: fl.ClientData) -> fl.LocalResult:
        part, fixed = (fl.trainable(half) for half in split(params, where))
        whole = lambda part: fl.with_trainable(part, joined(fixed, fl.trainable(part)))  # noqa: E731
        loss = fl.losses.declare(
            lambda part, batch, key: loss_fn(whole(part), batch, key), cross_example=cross_example, name="part"
        )
        result = fl.local_sgd(loss, **options)(fl.with_trainable(params, part), data)
        return result._replace(params=whole(result.params))

    return run


def describe(where: Predicate) -> str:
    """The name of a predicate, for records."""
    return getattr(where, "__name__", type(where).__name__)


def _named(where: Predicate, name: str) -> Predicate:
    where.__name__ = name
    return where
