"""The values of hyperparameters: optimizers as `adam:0.01`, leaves as `last_layer`, else as signatures say."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_args

import jax
import optax

from fedjaxlite import algorithms
from fedjaxlite.algorithms.pieces.leaves import Predicate
from fedjaxlite.cli import signatures

_MADE = ("GradientTransformation", "GradientTransformationExtraArgs")


def reader(model: Any, features: Mapping[str, Any]) -> signatures.Reader:
    """What reads a hyperparameter's text.

    Args:
      model: the Model that is trained, for `last_layer`; or None.
      features: of the clients, likewise.
    """

    def read(where: str, text: str, annotation: Any) -> Any:
        kinds = (annotation, *get_args(annotation))
        if text.strip().lower() == "none" and type(None) in kinds:
            return None
        if optax.GradientTransformation in kinds:
            return optimizer(where, text)
        if Predicate in kinds:
            return leaves(where, text, model, features)
        return signatures.typed(where, text, annotation)

    return read


def optimizers() -> dict[str, Callable[..., Any]]:
    """The optimizers and transformations of optax by name."""
    found = {name: getattr(optax, name) for name in dir(optax) if not name.startswith("_")}
    return {name: value for name, value in found.items() if inspect.isfunction(value) and _makes_one(value)}


def _makes_one(function: Callable[..., Any]) -> bool:
    made = function.__annotations__.get("return")
    return getattr(made, "__name__", str(made)).rpartition(".")[2] in _MADE


def optimizer(where: str, text: str) -> optax.GradientTransformation:
    """An optax optimizer: `sgd:0.1,momentum=0.9`; several in a row with + between; or package.module:name.

    Raises:
      ValueError: for what is no optimizer of optax, or one without a rate.

    Example:
      >>> optimizer("--set client_optimizer", "clip_by_global_norm:1+adam:0.01").init is not None
      True
    """
    if signatures.is_import(text) and text.partition(":")[0] not in optimizers():
        found: Any = signatures.imported(where, text)
        made: Any = found() if callable(found) and not hasattr(found, "update") else found
        if not hasattr(made, "init") or not hasattr(made, "update"):
            raise ValueError(f"{where} is {text!r}, a {type(made).__name__}; expected an optax optimizer.")
        return made
    parts = [_one_optimizer(where, part) for part in text.split("+")]
    return parts[0] if len(parts) == 1 else optax.chain(*parts)


def _one_optimizer(where: str, text: str) -> optax.GradientTransformation:
    table = optimizers()
    word, _, words = text.partition(":")
    name = word.strip().replace("-", "_").lower()
    if name not in table:
        raise ValueError(
            f"{where} names {name!r}; expected an optimizer of optax and its rate, such as sgd:0.1, adam:0.01 or "
            f"adamw:0.001,weight_decay=0.01.{signatures.nearest(name, table)}"
        )
    parameters = signatures.parameters_of(table[name])
    given = signatures.arguments_of(where, text, name, parameters, words)
    for key, value in given.items():
        if isinstance(value, str):
            raise ValueError(f"{where} has {key}={value!r}; expected a number, true, false or none.")
        if key == "learning_rate" and not (isinstance(value, (int, float)) and 0 < value < float("inf")):
            raise ValueError(f"{where} has the rate {value}; expected a finite number above 0.")
    signatures.check_complete(where, name, parameters, given)
    return table[name](**given)


def leaves(where: str, text: str, model: Any, features: Mapping[str, Any]) -> Predicate:
    """A choice of leaves: `last_layer`, `norm_layers`, or names, with + between; all others by `not:` in front.

    Raises:
      ValueError: for an empty text, or `last_layer` without a model.
    """
    text = text.strip()
    if signatures.is_import(text) and not text.startswith("not:"):
        return signatures.imported(where, text)
    words = [word.strip() for word in text.removeprefix("not:").split("+")]
    if not all(words):
        raise ValueError(
            f"{where} is {text!r}; expected last_layer, norm_layers or names of layers, with + between, and not: in "
            "front for all others."
        )
    inside = [_one_choice(where, word, model, features) for word in words]
    if not text.startswith("not:"):
        return inside[0] if len(inside) == 1 else _called(lambda path, leaf: _any(inside, path, leaf), text)
    return _called(lambda path, leaf: not _any(inside, path, leaf), text)


def _one_choice(where: str, word: str, model: Any, features: Mapping[str, Any]) -> Predicate:
    if word in ("norm_layers", "norm-layers"):
        return algorithms.norm_layers
    if word not in ("last_layer", "last-layer"):
        return algorithms.by_name(word)
    if model is None:
        raise ValueError(f"{where} is last_layer, and there is no model; give names of layers, with + between.")
    x = features.get("x")
    return algorithms.last_layer(model, None if x is None else jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype))


def _any(inside: list[Predicate], path: tuple[Any, ...], leaf: Any) -> bool:
    return any(where(path, leaf) for where in inside)


def _called(where: Predicate, name: str) -> Predicate:
    where.__name__ = name
    return where


def example(name: str, annotation: Any) -> str:
    """What stands for a value in a message: an example where a plain number would not do."""
    kinds = (annotation, *get_args(annotation))
    if Predicate in kinds:
        return "last_layer"
    return "sgd:0.1" if optax.GradientTransformation in kinds else name.upper()
