"""Models, losses and data sets by name, or one's own by `package.module:function`."""

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import fedjaxlite as fl
from fedjaxlite.cli import signatures
from fedjaxlite.data.on_disk import header
from fedjaxlite.evaluation.central import loss_for

ALIASES = {"2nn": "mlp", "lstm": "char_lstm"}
_OF_DATA = ("num_classes", "input_shape", "vocab_size")
"""What a function that makes models is told of the data, where it has a parameter of that name."""
_TABLES = tuple(
    f"{kind}{packed}" for kind in (".csv", ".tsv", ".parquet", ".arrow", ".feather") for packed in ("", ".gz", ".bz2")
)
"""How the names of tables end."""


def models() -> dict[str, Callable[..., Any]]:
    """The models that can be named."""
    found = {name: getattr(fl.models, name) for name in fl.models.__all__}
    functions = {name: value for name, value in found.items() if inspect.isfunction(value)}
    return {
        n: f
        for n, f in functions.items()
        if {"features", *_OF_DATA} & {*inspect.signature(f).parameters} - {"input_shape"}
    }


def losses() -> dict[str, Callable[..., Any]]:
    """The losses that can be named: functions of a model."""
    found = {name: getattr(fl.losses, name) for name in dir(fl.losses)}
    functions = {name: value for name, value in found.items() if inspect.isfunction(value)}
    return {name: f for name, f in functions.items() if next(iter(inspect.signature(f).parameters), "") == "model"}


def model(text: str, features: Mapping[str, Any]) -> Any:
    """The model for a data set's shapes.

    Args:
      text: such as "cnn", "mlp:features=64x10" or "package.module:function"; what is not given follows from the data.
      features: the data, "x" and "y".

    Raises:
      ValueError: for a name that is no model's, with the nearest; or data that it does not take.
      TypeError: if a function of one's own gives anything but a Model.
    """
    word, _, words = text.partition(":")
    name = ALIASES.get(word.strip().lower(), word.strip().lower().replace("-", "_"))
    if name not in models():
        if signatures.is_import(text):
            return _own_model(text, features)
        known = [*ALIASES, *models()]
        raise ValueError(
            f"--model names {word!r}; expected one of {', '.join(known)}, or package.module:function."
            f"{signatures.nearest(name, known)}"
        )
    function = models()[name]
    parameters = signatures.parameters_of(function)
    given = signatures.arguments_of("--model", text, name, parameters, words, signatures.typed)
    of_data = _of_data(word, name, parameters, features)
    if "features" in parameters:
        given = {"features": (200, 200, of_data.pop("num_classes")), **given}
    return _refused("--model", text, lambda: function(**{**of_data, **given}))


def _own_model(text: str, features: Mapping[str, Any]) -> Any:
    found = signatures.imported("--model", text)
    if not isinstance(found, fl.models.Model):
        if not callable(found):
            raise TypeError(f"--model is {text!r}, a {type(found).__name__}; expected a function that gives a Model.")
        parameters = signatures.parameters_of(found)
        words = signatures.arguments_after(text)
        given = signatures.arguments_of("--model", text, found.__name__, parameters, words, signatures.typed)
        told = {name: value for name, value in _shapes(features).items() if name in parameters}
        arguments = {**told, **given}
        signatures.check_complete("--model", text, parameters, arguments)
        found = _refused("--model", text, lambda: found(**arguments))
    if not isinstance(found, fl.models.Model):
        raise TypeError(
            f"--model {text} gave a {type(found).__name__}; expected an fl.models.Model, such as fl.models.mlp(...), "
            "or a module of one's own through fl.models.from_nnx, from_linen or from_functions."
        )
    return found


def _shapes(features: Mapping[str, Any]) -> dict[str, Any]:
    """What the data say of a model: outputs, the shape of an example, and ids of tokens."""
    told: dict[str, Any] = {}
    x, y = features.get("x"), features.get("y")
    if x is not None:
        told["input_shape"] = tuple(x.shape[1:])
    if x is not None and y is not None and x.dtype.kind in "iu" and y.dtype.kind in "iu":
        told["vocab_size"] = max(_largest(x), _largest(y)) + 1
    if y is not None:
        told["num_classes"] = _outputs(y)
    return told


def _outputs(y: Any) -> int:
    """How many outputs a model of some targets has: one a class, or one a number."""
    if y.ndim > 1:
        return int(y.shape[-1])
    return _largest(y) + 1 if y.dtype.kind in "iu" else 1


def _largest(array: Any) -> int:
    """The largest of some integers; of what only stands for data, one number is in all places."""
    one = isinstance(array, np.ndarray) and array.size and not any(array.strides)
    return int(array.flat[0] if one else array.max())


def _of_data(word: str, name: str, parameters: Mapping[str, Any], features: Mapping[str, Any]) -> dict[str, Any]:
    """What a model of the library is told of the data, which it has to be for."""
    x, y = features["x"], features["y"]
    if "vocab_size" in parameters:
        _needs(word, x.ndim == 2 and x.dtype.kind == "i", "texts [n, T] of token ids", x)
        most = max(_largest(x), _largest(y))
        return {"vocab_size": max(most, fl.datasets.shakespeare.VOCAB_SIZE - 1 if name == "char_lstm" else 0) + 1}
    _needs(word, x.dtype.kind == "f" and y.ndim <= 2 and y.dtype.kind in "iuf", "floats with targets a row", x)
    if name not in ("mlp", "logistic"):
        _needs(word, x.ndim == 4, "images [n, height, width, channels]", x)
    return {"num_classes": _outputs(y), "input_shape": tuple(x.shape[1:])}


def _needs(name: str, fits: bool, what: str, x: Any) -> None:
    if not fits:
        raise ValueError(
            f"--model {name} takes {what}, and this data set has {x.dtype}{list(x.shape)}. Choose another."
        )


def loss(text: str | None, model: Any, features: Mapping[str, Any]) -> Any:
    """The loss of a model.

    Args:
      text: a loss of `fl.losses` with arguments, as "cross_entropy:label_smoothing=0.1"; or "package.module:function"
        of (params, batch, key), or of a model, whose arguments stand behind a second colon. None is the model's, where
        its outputs are classes.
      model: the Model.
      features: the data.

    Raises:
      ValueError: for a name that is no loss's, with the nearest; and for targets that leave the loss open.
      TypeError: if a function of one's own gives no loss.
    """
    if text is None:
        try:
            return loss_for(model, features)
        except ValueError as error:
            raise ValueError(f"{error} On the command line: --loss {', '.join(sorted(losses()))}.") from None
    word, _, words = text.partition(":")
    name = word.strip().lower().replace("-", "_")
    if name not in losses():
        if signatures.is_import(text):
            return _own_loss(text, model)
        raise ValueError(
            f"--loss names {word!r}; expected one of {', '.join(sorted(losses()))}, or package.module:function."
            f"{signatures.nearest(name, losses())}"
        )
    return _called_with(model, "--loss", text, losses()[name], words)


def _own_loss(text: str, model: Any) -> Any:
    found = signatures.imported("--loss", text)
    if not callable(found):
        raise TypeError(f"--loss is {text!r}, a {type(found).__name__}; expected a function (params, batch, key).")
    positional = [
        p for p in signatures.parameters_of(found).values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if isinstance(found, fl.losses.Loss) or len([p for p in positional if p.default is p.empty]) == 3:
        return found
    made = _called_with(model, "--loss", text, found, signatures.arguments_after(text))
    fl.checks.is_function_of("params", "batch", "key", **{f"--loss {text}": made})
    return made


def _called_with(model: Any, option: str, text: str, function: Callable[..., Any], words: str) -> Any:
    """What a function of a model and of arguments behind a colon gives."""
    parameters = dict(list(signatures.parameters_of(function).items())[1:])
    name = getattr(function, "__name__", text)
    given = signatures.arguments_of(option, text, name, parameters, words, signatures.typed)
    signatures.check_complete(option, name, parameters, given)
    return _refused(option, text, lambda: function(model, **given))


def is_table(text: str) -> bool:
    """Whether a data set is a file of rows, with arguments behind a colon.

    Example:
      >>> is_table("visits.csv:client=hospital,label=num"), is_table("mine.data:load")
      (True, False)
    """
    return text.partition(":")[0].lower().endswith(_TABLES)


def is_folder(text: str) -> bool:
    """Whether a data set is a folder of a population on a disk, or of two, train and test."""
    return any(Path(text, part).is_file() for part in (header.FILE, f"train/{header.FILE}"))


def dataset(text: str) -> tuple[Any, Any]:
    """What a function loads, or a table or folders hold, `(train, test)`; test is None for a Population alone.

    Args:
      text: "package.module:function"; or "visits.csv:client=hospital,label=num" with arguments of
        `fl.datasets.from_table`; or a folder that holds the folders train and test of `Population.write`.

    Raises:
      TypeError: for a function that gives anything else.
      ValueError: for arguments that `from_table` does not have, lacks or refuses; for one folder without a test set.
    """
    if is_folder(text):
        return _folder(text)
    if is_table(text):
        return _table(text)
    found = signatures.imported("--dataset", text)
    loaded = _refused("--dataset", text, found) if callable(found) else found
    if isinstance(loaded, fl.Population):
        return loaded, None
    pair = loaded if isinstance(loaded, tuple) and len(loaded) == 2 else ()
    if not pair or not all(isinstance(part, (Mapping, fl.Population)) for part in pair):
        kinds = (
            ", ".join(type(part).__name__ for part in loaded) if isinstance(loaded, tuple) else type(loaded).__name__
        )
        raise TypeError(
            f"--dataset {text} gave {kinds}; expected (train, test), each a dict of arrays [n, ...] or an "
            "fl.Population, as fl.datasets.load gives; or one fl.Population, of which a fifth becomes the test set."
        )
    return pair[0], pair[1]


def _folder(text: str) -> tuple[fl.Population, fl.Population]:
    folders = [Path(text, part) for part in ("train", "test")]
    if not all(folder.is_dir() for folder in folders):
        raise ValueError(
            f"--dataset {text} is one population on a disk, and a run needs a test set; expected a folder that holds "
            "two of them, train and test, each as fl.Population.write makes it."
        )
    train, test = (_refused("--dataset", text, functools.partial(fl.Population.open, folder)) for folder in folders)
    return train, test


def _table(text: str) -> tuple[Any, Any]:
    path, _, words = text.partition(":")
    parameters = dict(list(signatures.parameters_of(fl.datasets.from_table).items())[1:])
    given = signatures.arguments_of("--dataset", text, "from_table", parameters, words)
    if "client" not in given:
        raise ValueError(
            f"--dataset is {text!r}; expected the column that says whose a row is, as in {path}:client=hospital, and "
            "mostly one to predict, label=ill."
        )
    table = _refused("--dataset", text, lambda: fl.datasets.from_table(path, **given))
    return (table.population, None) if table.test is None else (table.train, table.test)


def _refused(option: str, text: str, call: Callable[[], Any]) -> Any:
    """What a call gives; what it refuses is told with the option in front."""
    try:
        return call()
    except (TypeError, ValueError) as error:
        raise type(error)(f"{option} {text}: {error}") from error
