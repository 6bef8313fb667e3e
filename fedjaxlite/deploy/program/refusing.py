"""What no device should run, or cannot: said when the program is built, with what to do."""

from collections.abc import Iterator, Mapping
from typing import Any

from fedjaxlite import checks
from fedjaxlite.deploy.program.template import Template
from fedjaxlite.execution.composition import Rounds

_CALLBACKS = ("pure_callback", "io_callback", "debug_callback", "debug_print", "outside_call")


def refuse_composition(rounds: Rounds, template: Template) -> None:
    """Refuses what is a simulation of something that devices do, or have, by themselves.

    Raises:
      ValueError: for attacks, for another number of clients.
    """
    chain = template.program.aggregator
    for part in (rounds.algorithm, *chain.parts):
        if _holds_bad(part.hparams):
            raise ValueError(
                f"{part.name} holds an attack (`bad` clients), and a program for devices is what honest clients run. "
                "Compose the rounds without it; attacks are measured in simulation."
            )
    told, clients = rounds.algorithm.hparams.get("num_clients"), template.population.num_clients
    if told is not None and not checks.is_traced(told) and told != clients:
        raise ValueError(
            f"{rounds.algorithm.name} was made with num_clients={told}, and the data have {clients} clients. Make it "
            f"with num_clients={clients}."
        )


def refuse_callbacks(jaxpr: Any, template: Template) -> None:
    """Refuses a program that calls back into Python, which a device does not have.

    Raises:
      ValueError: with the primitive's name, and whose program it is.
    """
    found = sorted({equation.primitive.name for equation in _equations(jaxpr)} & set(_CALLBACKS))
    if found:
        raise ValueError(
            f"the client's half of {names(template)} calls back into Python ({', '.join(found)}), and a device "
            "has no Python function to call: a program is arithmetic alone. Take jax.debug.print, jax.pure_callback "
            "and their kin out of the loss and the codecs, or write what they compute in jax.numpy."
        )


def not_exported(error: Exception, template: Template, platforms: tuple[str, ...]) -> ValueError:
    """What JAX refuses to export, as an error that says whose it is and what may help."""
    text = " ".join(str(error).split())
    fewer = " Or export it for the platform of the devices alone: platforms=('cpu',)." if len(platforms) > 1 else ""
    return ValueError(
        f"the client's half of {names(template)} cannot be exported for {', '.join(platforms)}: "
        f"{type(error).__name__}: {text[:600]} Use operations of jax.numpy and jax.lax there.{fewer}"
    )


def foreign(called: list[str], template: Template, platforms: tuple[str, ...]) -> ValueError:
    """A program of custom calls that devices do not let in."""
    fewer = (
        " Or export it for one platform, platforms=('cpu',), if only others need them." if len(platforms) > 1 else ""
    )
    return ValueError(
        f"the client's half of {names(template)} makes custom calls {called[:6]}, which devices refuse: code of the "
        "machine beside StableHLO, other than the factorizations in fedjaxlite.deploy.device.program.CALLS. Use "
        f"operations of jax.numpy and jax.lax there.{fewer}"
    )


def names(template: Template) -> str:
    """Whose program it is, in words."""
    return f"{template.program.algorithm.name} with {template.program.aggregator.name}"


def _holds_bad(hparams: Any) -> bool:
    if isinstance(hparams, Mapping):
        return "bad" in hparams or any(_holds_bad(value) for value in hparams.values())
    return isinstance(hparams, (list, tuple)) and any(_holds_bad(value) for value in hparams)


def _equations(jaxpr: Any) -> Iterator[Any]:
    """All equations of a traced program, those of programs inside of it too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, (list, tuple)) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _equations(inner)
