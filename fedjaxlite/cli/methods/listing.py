"""What `fedjaxlite methods` tells: each method in a few lines, or one in full, out of its docstring and signature."""

import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from typing import Any, get_args

import optax

from fedjaxlite.algorithms.pieces.leaves import Predicate
from fedjaxlite.cli import signatures
from fedjaxlite.cli.methods import known
from fedjaxlite.cli.methods.arguments import rate_goes_to
from fedjaxlite.cli.methods.cost_table import COSTS, Cost
from fedjaxlite.cli.methods.known import Method

WIDTH = 100
COMMON = ("client_optimizer", "server_optimizer", "batch_size", "epochs", "steps", "shuffle", "lower")
"""What most methods take, and the list of all leaves out."""
_ROOMS = ("one_model", "low_communication", "personal_models", "shared_parts", "groups_and_fairness", "without_a_model")
"""The rooms of `algorithms`, in the order of the list."""
_OF_MEMORY = ("compute_dtype", "remat", "micro_batch_size")

_HEAD = f"""\
fedjaxlite run --algorithm NAME --set HYPERPARAMETER=VALUE ...
fedjaxlite methods NAME     all about one method

`set` lists what is special to a method, with defaults; those in capitals are needed. Most also take
{", ".join(COMMON)}.
Costs of a client: gradients and evaluations of all its examples in a round of E epochs; what it
sends (up), receives (down) and keeps, in models: the 2NN on the digits, 55,210 parameters.
"personal" are methods that give each client a model of its own, for --personal-eval."""


def all_methods() -> Iterator[str]:
    """The lines of the list."""
    yield from _HEAD.splitlines()
    for room, methods in _rooms().items():
        yield from ("", *_wrapped(room))
        for method in methods:
            yield from ("", *_short(method))
    yield ""
    yield from _wrapped(
        "Your own: --algorithm package.module:function, a function of the loss that returns an fl.Algorithm; its other "
        "arguments are set by --set."
    )
    for name, reason in known.REFUSED.items():
        yield from _wrapped(f"Not here: algorithms.{name} {reason}.")


def one_method(method: Method) -> Iterator[str]:
    """All about one method: what it computes, its hyperparameters, costs, and a command that runs it."""
    yield f"{method.name}: {_title(method)}"
    yield ""
    module = "" if method.own else inspect.cleandoc(sys.modules[method.function.__module__].__doc__ or "")
    for paragraph in (module or _body(method)).split("\n\n"):
        plain = not any(line.startswith(" ") for line in paragraph.splitlines())
        yield from (*(_wrapped(paragraph) if plain else paragraph.splitlines()), "")
    yield "hyperparameters, by --set NAME=VALUE; some by an option too"
    told = _arguments(method)
    for name, parameter in method.parameters.items():
        by = _option(method, name)
        filled = name in ("num_clients", "groups", method.inner) or name == rate_goes_to(method)
        needed = "" if filled else " needed"
        value = needed if parameter.default is signatures.EMPTY else f" = {shown(parameter.default)}"
        yield from _wrapped(f"  {name}{value}{f' ({by})' if by else ''}", 8)
        yield from _wrapped(f"      {told.get(name, '')}", 6)
    if method.inner:
        yield from _wrapped(
            f"  {method.inner}.NAME: those of the method inside, which the options of the command line go to.", 8
        )
    if cost := COSTS.get(method.name):
        yield from ("", f"cost  {_cost(cost)}", "", "such as", f"  {command(method)}")


def command(method: Method) -> str:
    """A command that runs a method with hyperparameters that do something."""
    cost = COSTS.get(method.name, Cost())
    return " ".join(["fedjaxlite run --algorithm", method.name, *cost.options, *(f"--set {word}" for word in cost.set)])


def shown(value: Any) -> str:
    """A default in the words of --set."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return getattr(value, "__name__", str(value))


def _short(method: Method) -> Iterator[str]:
    cost = COSTS.get(method.name)
    yield f"{method.name:19}{_cost(cost) if cost else ''}".rstrip()
    yield from _wrapped(f"  {_title(method)}", 2)
    yield from _wrapped(f"  {source(method)}", 2)
    told = (*COMMON, *_OF_MEMORY, "num_clients", rate_goes_to(method))
    words = [_word(method, name) for name in method.parameters if name not in told]
    if words:
        yield from _wrapped(f"  set {', '.join(words)}", 6)


def _word(method: Method, name: str) -> str:
    """A hyperparameter with its default; in capitals where it is needed."""
    default = method.parameters[name].default
    if name == method.inner:
        return f"{name}=fed_avg, {name}.NAME=VALUE"
    if default is signatures.EMPTY:
        return f"{name}=each" if name == "groups" else name.upper()
    return f"{name}={shown(default)}"


def _cost(cost: Cost) -> str:
    moved = f"{cost.up:g} up, {cost.down:g} down, {cost.kept:g} kept"
    return f"{cost.passes}; {moved}{'; personal' if cost.personal else ''}"


def _rooms() -> dict[str, list[Method]]:
    """The methods by the room of `algorithms` that they are in, under its first line."""
    found: dict[str, list[Method]] = {room: [] for room in _ROOMS}
    for method in known.known().values():
        found.setdefault(method.function.__module__.split(".")[2], []).append(method)
    first_line = lambda room: inspect.cleandoc(room.__doc__ or "").partition("\n")[0]  # noqa: E731
    return {first_line(sys.modules[f"fedjaxlite.algorithms.{room}"]): methods for room, methods in found.items()}


def _title(method: Method) -> str:
    return " ".join((inspect.getdoc(method.function) or "no docstring").partition("\n\n")[0].split())


def _body(method: Method) -> str:
    return (inspect.getdoc(method.function) or "").partition("\n\n")[2]


def source(method: Method) -> str:
    """Where a method comes from: what its function's docstring says, else the first of its module's sources."""
    own = re.search(r"^Source: (.+?)(?:\n\n|\Z)", inspect.getdoc(method.function) or "", re.DOTALL | re.MULTILINE)
    if own:
        return " ".join(own[1].split()).rstrip(".")
    module = inspect.cleandoc(sys.modules[method.function.__module__].__doc__ or "")
    block = re.search(r"^Sources?:(.+)\Z", module, re.DOTALL | re.MULTILINE)
    if block is None:
        return ""
    first = re.split(r"(?<=\.)\n", inspect.cleandoc(block[1]).strip())[0]
    link = re.match(r".*?https?://[^\s,]+", " ".join(first.split()))
    return (link[0] if link else " ".join(first.split())).rstrip(".")


def _arguments(method: Method) -> dict[str, str]:
    """What the docstrings say of each argument."""
    from fedjaxlite import algorithms

    beside = {"lora": algorithms.lora.init, "k_means": algorithms.k_means_init}
    presets = [algorithms.fed_avg] if method.name in ("fed_adagrad", "fed_adam", "fed_yogi", "fed_avg_m") else []
    found: dict[str, str] = {}
    for function in (*presets, *([beside[method.name]] if method.name in beside else []), method.function):
        block = re.search(r"^Args:\n((?: .*\n?|\n)+)", inspect.getdoc(function) or "", re.MULTILINE)
        entries = re.split(r"^  (?=[*\w]+:)", block[1], flags=re.MULTILINE) if block else []
        for entry in filter(None, entries):
            name, _, text = entry.partition(":")
            found[name.strip()] = " ".join(text.split())
    return found


def _option(method: Method, name: str) -> str:
    """The option of the command line that sets a hyperparameter too."""
    if name == rate_goes_to(method):
        return "--client-lr"
    if name == method.inner:
        return "federated averaging unless it is set"
    if method.inner:
        return "--batch-size" if name == "batch_size" else ""
    kinds = (method.parameters[name].annotation, *get_args(method.parameters[name].annotation))
    if name == "server_optimizer" and optax.GradientTransformation in kinds:
        return "--server-optimizer, --server-lr"
    if name == "epochs":
        return "--epochs, 5 there, or 1 for text"
    if name in ("batch_size", "server_lr"):
        return f"--{name.replace('_', '-')}"
    if name in ("num_clients", "groups"):
        return "each client its own" if name == "groups" else "the data say it"
    return "such as last_layer, norm_layers, dense_0+dense_1, not:last_layer" if Predicate in kinds else ""


def _wrapped(text: str, indent: int = 0) -> list[str]:
    lead = len(text) - len(text.lstrip())
    return textwrap.wrap(
        text.strip(), WIDTH, initial_indent=" " * lead, subsequent_indent=" " * max(indent, lead),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
