"""From options to a method's arguments: what the command line has of its own, what --set says, what the data know."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import optax

import fedjaxlite as fl
from fedjaxlite.cli import parse, signatures
from fedjaxlite.cli.methods import known, values
from fedjaxlite.cli.methods.known import Method
from fedjaxlite.cli.settings import Settings

RATES = ("client_lr", "client_optimizer", "base_optimizer", "personal_optimizer")
"""Where the clients' rate goes: the first of these that a method has, as a number or as SGD."""
OPTIONS = ("client_lr", "server_lr", "epochs", "batch_size")
"""Options whose values may be overridden by their names."""


class Facts(NamedTuple):
    """What is known beside the options.

    Attributes:
      population: the clients.
      model: the Model, for choices of leaves; or None.
      client_lr: the rate where none is given.
      epochs: likewise.
    """

    population: fl.Population
    model: Any
    client_lr: float
    epochs: int


def algorithm_of(
    method: Method, settings: Settings, loss_fn: Any, facts: Facts, overrides: Mapping[str, Any]
) -> fl.Algorithm:
    """The algorithm that options describe.

    Args:
      method: which one.
      settings: the options.
      loss_fn: what is trained.
      facts: what is known beside them.
      overrides: see `arguments_of`.

    Raises:
      ValueError: as `arguments_of`; and whatever the method refuses.
      TypeError: if a function of one's own returns anything but an Algorithm.
    """
    arguments = arguments_of(method, settings, facts, overrides)
    return _made(method, loss_fn, {n: v for n, v in arguments.items() if n not in method.of_start})


def _made(method: Method, loss_fn: Any, arguments: Mapping[str, Any]) -> fl.Algorithm:
    try:
        made = method.make(loss_fn, **arguments)
    except (TypeError, ValueError) as error:
        if type(error).__module__.startswith("jax"):  # a tracer where a number has to be: for whoever traces
            raise
        raise ValueError(f"--algorithm {method.name}: {error}") from error
    if not isinstance(made, fl.Algorithm):
        raise TypeError(f"--algorithm {method.name} gave a {type(made).__name__}; expected an fl.Algorithm.")
    return made


def arguments_of(
    method: Method, settings: Settings, facts: Facts, overrides: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """All arguments of a method, those of its start too.

    Args:
      method: which one.
      settings: the options.
      facts: what is known beside them.
      overrides: values of `OPTIONS` and of hyperparameters by name, which win over what the options say; they may be
        tracers.

    Raises:
      ValueError: for a hyperparameter that the method does not have, or lacks, and for an option that it has no use
        for.
    """
    overrides = {} if overrides is None else overrides
    settings = settings._replace(**{n: v for n, v in overrides.items() if n in OPTIONS})
    given = {n: v for n, v in overrides.items() if n not in OPTIONS}
    words = {n: text for n, text in set_by(settings).items() if n not in given}
    return _arguments(method, settings, facts, words, given)


def set_by(settings: Settings) -> dict[str, str]:
    """What --set says, by name.

    Raises:
      ValueError: for anything but NAME=VALUE, and for a name that is set twice.

    Example:
      >>> set_by(Settings(set=["mu=0.1", "client_optimizer=sgd:0.1,momentum=0.9"]))["client_optimizer"]
      'sgd:0.1,momentum=0.9'
    """
    found: dict[str, str] = {}
    for text in settings.set or ():
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise ValueError(f"--set is {text!r}; expected NAME=VALUE, such as mu=0.1.")
        if name in found:
            raise ValueError(f"--set gives {name} twice; once is enough.")
        found[name] = value.strip()
    return found


def _arguments(
    method: Method,
    settings: Settings,
    facts: Facts,
    words: Mapping[str, str],
    given: Mapping[str, Any],
    prefix: str = "",
) -> dict[str, Any]:
    """The arguments of a method, or of one inside of another: its words of --set then begin with `prefix`."""
    ahead = f"{method.inner}." if method.inner else ""
    deeper = {name for name in (*words, *given) if ahead and (name == method.inner or name.startswith(ahead))}
    _check_names(method, [name for name in (*words, *given) if name not in deeper], prefix)
    read = values.reader(facts.model, facts.population.features)
    found = {n: read(f"--set {prefix}{n}", t, _annotation(method, n)) for n, t in words.items() if n not in deeper}
    found |= {n: v for n, v in given.items() if n not in deeper}
    takes = {n for n, p in method.parameters.items() if p.kind is not p.VAR_KEYWORD} - _without_use(method, found)
    found |= _from_options(method, settings, facts, takes, found)
    of_data = {"num_clients": facts.population.num_clients, "groups": np.arange(facts.population.num_clients)}
    found |= {n: v for n, v in of_data.items() if n in takes and n not in found and _needed(method, n)}
    if method.inner:
        of_inner = {n: words[n] for n in words if n in deeper}, {n: given[n] for n in given if n in deeper}
        found[method.inner] = _inner(method, settings, facts, *of_inner)
    _check_complete(method, found, prefix)
    return found


def _inner(
    method: Method, settings: Settings, facts: Facts, words: Mapping[str, str], given: Mapping[str, Any]
) -> Callable[..., fl.Algorithm]:
    """The method inside of another, as a function of the loss; federated averaging where nothing is said."""
    name = str(method.inner)
    inside = known.find(words.get(name, "fed_avg"), f"--set {name}")
    if inside.inner or inside.stands_for != "model":
        raise ValueError(f"--set {name} is {inside.name!r}, which {method.name} cannot have inside; give another.")
    bare = lambda table: {n.removeprefix(f"{name}."): v for n, v in table.items() if n != name}  # noqa: E731
    arguments = _arguments(inside, settings, facts, bare(words), bare(given), f"{name}.")
    return lambda loss_fn: _made(inside, loss_fn, arguments)


def _check_names(method: Method, names: list[str], prefix: str) -> None:
    takes = [n for n, p in method.parameters.items() if p.kind is not p.VAR_KEYWORD]
    if len(takes) < len(method.parameters):  # **options, which a function of one's own reads itself
        return
    takes += [f"{method.inner}.NAME"] if method.inner else []
    for name in names:
        if name not in takes:
            option = f" It is an option of its own: --{name.replace('_', '-')}." if name in Settings._fields else ""
            raise ValueError(
                f"--set gives {prefix}{name}; {method.name} takes {', '.join(takes) or 'no hyperparameters'}."
                f"{option or signatures.nearest(name, takes)}"
            )


def _annotation(method: Method, name: str) -> Any:
    parameter = method.parameters.get(name)
    return signatures.EMPTY if parameter is None else parameter.annotation


def _needed(method: Method, name: str) -> bool:
    return method.parameters[name].default is signatures.EMPTY


def _without_use(method: Method, found: Mapping[str, Any]) -> set[str]:
    """Parameters that others make useless: gradient averaging has no local steps."""
    if method.name == "ifca" and found.get("averaging") == "gradient":
        return {"client_optimizer", "epochs", "steps", "batch_size"}
    return set()


def _from_options(
    method: Method, settings: Settings, facts: Facts, takes: set[str], found: Mapping[str, Any]
) -> dict[str, Any]:
    """What the options of the command line give a method, where it has something of their meaning."""
    taken = _rate(method, settings, facts, takes, found) | _server(method, settings, takes, found)
    asked = {n: v for n, v in (("batch_size", settings.batch_size), ("epochs", settings.epochs)) if v is not None}
    for name in asked if not method.inner else ():  # what is meant for the method inside is refused there
        if name in found:
            _refuse_twice(name, name)
        if name not in takes:
            _refuse_useless(method, name, takes)
    if "batch_size" in asked and "batch_size" in takes - found.keys():
        taken["batch_size"] = parse.batch_size(asked["batch_size"])
    # The epochs of a method with another inside are its own: they are set, or follow its default.
    if (
        "epochs" in takes
        and not method.inner
        and not {"epochs", "steps"} & {n for n, v in found.items() if v is not None}
    ):
        taken["epochs"] = facts.epochs if settings.epochs is None else settings.epochs
    if settings.epochs is not None and found.get("steps") is not None and not method.inner:
        raise ValueError(f"--epochs is {settings.epochs} and --set steps={found['steps']}; give one of them.")
    return taken


def _rate(
    method: Method, settings: Settings, facts: Facts, takes: set[str], found: Mapping[str, Any]
) -> dict[str, Any]:
    place = rate_goes_to(method, takes)
    if place is None:
        if settings.client_lr is not None and not method.inner:
            _refuse_useless(method, "client_lr", takes)
        return {}
    if place in found:
        if settings.client_lr is not None and not method.inner:
            _refuse_twice("client_lr", place)
        return {}
    rate = facts.client_lr if settings.client_lr is None else settings.client_lr
    return {place: rate if place == "client_lr" else optax.sgd(rate)}


def rate_goes_to(method: Method, takes: set[str] | None = None) -> str | None:
    """The parameter that --client-lr sets, or None."""
    takes = set(method.parameters) if takes is None else takes
    places = [name for name in RATES if name in takes and (name != "personal_optimizer" or _needed(method, name))]
    return places[0] if places else None


def _server(method: Method, settings: Settings, takes: set[str], found: Mapping[str, Any]) -> dict[str, Any]:
    """What --server-optimizer and --server-lr give: an optimizer, or the rate of a method with a server of its own."""
    if method.inner:
        return {}
    optimizer, rate = settings.server_optimizer, settings.server_lr
    place = next((name for name in ("server_optimizer", "server_lr") if name in takes), None)
    for name in ("server_optimizer", "server_lr"):
        if getattr(settings, name) is None:
            continue
        if place is None or (place == "server_lr" and name == "server_optimizer"):
            _refuse_useless(method, name, takes)
        if place is not None and place in found:
            _refuse_twice(name, place)
    if place is None or place in found or (optimizer is None and rate is None and not _needed(method, place)):
        return {}
    if place == "server_lr":
        parse.positive(server_lr=rate)
        return {} if rate is None else {"server_lr": rate}
    return {"server_optimizer": parse.server_optimizer(settings)}


def _refuse_useless(method: Method, name: str, takes: set[str]) -> None:
    option = f"--{name.replace('_', '-')}"
    raise ValueError(
        f"{option} was given, and {method.name} has no use for it: it takes {', '.join(sorted(takes)) or 'nothing'}. "
        "Leave it out, or set what it takes by --set NAME=VALUE."
    )


def _refuse_twice(option: str, name: str) -> None:
    raise ValueError(f"--{option.replace('_', '-')} and --set {name} were both given, for the same thing; give one.")


def _check_complete(method: Method, found: Mapping[str, Any], prefix: str) -> None:
    kinds = {n: p for n, p in method.parameters.items() if p.kind is not p.VAR_KEYWORD}
    left = [n for n, p in kinds.items() if p.default is signatures.EMPTY and n not in found]
    if left:
        words = " ".join(f"--set {prefix}{n}={values.example(n, kinds[n].annotation)}" for n in left)
        raise ValueError(
            f"{method.name} needs {', '.join(left)}; give {words}. `fedjaxlite methods {method.name}` tells more."
        )
