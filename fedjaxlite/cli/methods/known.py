"""Which methods a run can be of: those of `algorithms` that train a model, and functions of one's own."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.cli import signatures


class Method(NamedTuple):
    """A method that a run can be of.

    Attributes:
      name: as it is asked for.
      function: what is documented: the function of `algorithms`, or one's own.
      make: `make(loss_fn, **arguments) -> Algorithm`.
      parameters: what it takes beside the loss, of its start as well.
      of_start: the names of those that only its first model needs.
      inner: the parameter that is another method, if there is one.
      stands_for: the kind of its first model: "model", "clusters" (k models, stacked), "adapters" or "centers".
    """

    name: str
    function: Callable[..., Any]
    make: Callable[..., fl.Algorithm]
    parameters: Mapping[str, inspect.Parameter]
    of_start: tuple[str, ...] = ()
    inner: str | None = None
    stands_for: str = "model"

    @property
    def own(self) -> bool:
        """Whether it is a function of the user's."""
        return ":" in self.name


REFUSED = {
    "analytics": "sums over clients and trains no model; call its functions, such as "
    "analytics.federated_mean(...), from Python",
    "fed_avg_of": "takes a local training of your own; write a function of the loss that calls it, and give it as "
    "--algorithm package.module:function",
    "scheduled": "takes functions of the round; write a function of the loss that calls it, and give it as "
    "--algorithm package.module:function",
}
"""What is in `algorithms`, and no run of the command line can be of, with the reason."""


def known() -> dict[str, Method]:
    """The methods of the library by name."""
    found = {name: getattr(algorithms, name) for name in algorithms.__all__}
    plain = {
        name: _of_loss(name, function)
        for name, function in found.items()
        if name not in (*REFUSED, "fine_tuned", "k_means") and inspect.isfunction(function) and _is_method(function)
    }
    for name in ("hyp_cluster", "ifca"):
        plain[name] = plain[name]._replace(stands_for="clusters")
    return dict(sorted({**plain, "fine_tuned": _fine_tuned(), "k_means": _k_means(), "lora": _lora()}.items()))


def find(text: str, option: str = "--algorithm") -> Method:
    """The method of a name, or of `package.module:function`.

    Args:
      text: such as "fed_prox".
      option: whose text it is, for messages.

    Raises:
      ValueError: for what is no method, with the nearest one; or is one that no run can be of, with the reason.
      TypeError: if a function of one's own does not take the loss.

    Example:
      >>> find("fed-prox").name, "mu" in find("fed_prox").parameters
      ('fed_prox', True)
    """
    if signatures.is_import(text) and text.partition(":")[0] not in algorithms.__all__:
        return _own(text, option)
    name, table = text.strip().replace("-", "_").lower(), known()
    if name in REFUSED:
        raise ValueError(f"{option} is {name!r}, which {REFUSED[name]}.")
    if name not in table:
        if name.partition(":")[0] in table:
            raise ValueError(f"{option} is {text!r}; give hyperparameters by --set NAME=VALUE.")
        raise ValueError(
            f"{option} is {text!r}; expected one of {', '.join(table)}, or package.module:function."
            f"{signatures.nearest(name, table)}"
        )
    return table[name]


def _is_method(function: Callable[..., Any]) -> bool:
    return function.__annotations__.get("return") is fl.Algorithm


def _of_loss(name: str, function: Callable[..., Any]) -> Method:
    parameters = signatures.parameters_of(function)
    first = next(iter(parameters), None)
    own = {n: p for n, p in parameters.items() if n != first and p.kind is not p.VAR_KEYWORD}
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):  # of fed_avg, as its presets say
        shared = _of_loss("fed_avg", algorithms.fed_avg).parameters
        own |= {n: p for n, p in shared.items() if n not in (*own, "server_optimizer")}
    return Method(name, function, function, own)


def _own(text: str, option: str) -> Method:
    found = signatures.imported(option, text)
    function: Any = found
    if not callable(found):
        raise TypeError(f"{option} is {text!r}, a {type(found).__name__}; expected a function of the loss.")
    parameters = signatures.parameters_of(function)
    first = next((p for p in parameters.values() if p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD)), None)
    if first is None:
        raise TypeError(
            f"{option} is {text!r}, which takes {', '.join(parameters) or 'nothing'}; expected a function of the "
            "loss and of hyperparameters by name, that returns an fl.Algorithm."
        )
    rest = {n: p for n, p in parameters.items() if n != first.name and p.kind is not p.VAR_POSITIONAL}
    return Method(text, function, function, rest)


def _fine_tuned() -> Method:
    parameters = signatures.parameters_of(algorithms.fine_tuned)
    own = {n: p for n, p in parameters.items() if n != "loss_fn"}

    def make(loss_fn: Any, *, algorithm: Callable[..., fl.Algorithm], **rest: Any) -> fl.Algorithm:
        return algorithms.fine_tuned(algorithm(loss_fn), loss_fn, **rest)

    return Method("fine_tuned", algorithms.fine_tuned, make, own, inner="algorithm")


def _lora() -> Method:
    of_method = signatures.parameters_of(algorithms.lora.federated)
    of_start = signatures.parameters_of(algorithms.lora.init)
    own = {n: p for n, p in of_method.items() if n != "loss_fn"}
    start = {n: p for n, p in of_start.items() if n not in ("params", "key")}

    def make(loss_fn: Any, *, make: Callable[..., fl.Algorithm], **rest: Any) -> fl.Algorithm:
        return algorithms.lora.federated(make, loss_fn, **rest)

    return Method(
        "lora", algorithms.lora.federated, make, {**start, **own}, tuple(start), inner="make", stands_for="adapters"
    )


def _k_means() -> Method:
    own = signatures.parameters_of(algorithms.k_means)
    start = {"num_clusters": signatures.parameters_of(algorithms.k_means_init)["num_clusters"]}

    def make(loss_fn: Any, **rest: Any) -> fl.Algorithm:
        del loss_fn  # it clusters the examples themselves
        return algorithms.k_means(**rest)

    return Method("k_means", algorithms.k_means, make, {**start, **own}, tuple(start), stands_for="centers")
