"""Rules and attacks by name: `--robust trimmed_mean:f=3 --before nnm:f=3 --attack alie --bad 3`."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import fedjaxlite as fl
from fedjaxlite.cli import signatures
from fedjaxlite.cli.settings import Settings

_TOLD = ("algorithm", "bad", "rule", "num_classes", "trigger")
"""Arguments of attacks that follow from other options and from the data."""


class Named(NamedTuple):
    """A function that a text names.

    Attributes:
      text: all of it.
      name: the function's.
      function: it.
      words: its arguments, as they stand behind the colon.
    """

    text: str
    name: str
    function: Callable[..., Any]
    words: str


class Who(NamedTuple):
    """Who is bad: ids, or the chance of each client in each round."""

    ids: tuple[int, ...] = ()
    chance: float | None = None


def rules() -> dict[str, Callable[..., Any]]:
    """The rules of `fl.robust` that numbers and words describe: all but those that ask for data of the server's own."""
    return {name: function for name, function in _functions(fl.robust).items() if _role(function) == "stack"}


def steps_before() -> dict[str, Callable[..., Any]]:
    """What of `fl.robust` may stand before a rule; some of it at the clients."""
    return {name: function for name, function in _functions(fl.robust).items() if _role(function) in ("rows", "value")}


def attacks() -> dict[str, Callable[..., Any]]:
    """The attacks of `fl.attacks`: functions of who is bad, or of an algorithm and who is bad; without further data."""
    found = {}
    for name, function in _functions(fl.attacks).items():
        first = [*inspect.signature(function).parameters]
        if "bad" in first[: 1 + (first[0] == "algorithm")] and "examples" not in first:
            found[name] = function
    return found


def check(settings: Settings) -> None:
    """Refuses options that do not go together, and names that are not there, before any data are read."""
    named = _attacks(settings)
    _codecs(settings)
    if settings.bad is not None and not named:
        raise ValueError(f"--bad {settings.bad} says nothing without --attack; give both.")
    if settings.bad is not None:
        _who(settings.bad)
    for one in named:
        _arguments(one)
    apart = [("--robust", settings.robust), ("--before", settings.before)]
    apart += [("--attack", one.text) for one in named if _changes(one.function) == "rows"]
    sums = [("--secure-sum", settings.secure_sum or None), ("--noise-multiplier", settings.noise_multiplier)]
    sums += [("--epsilon", settings.epsilon)]
    for option, text in apart:
        for other, asked in sums:
            if text is not None and asked is not None:
                does = "shows the server" if other == "--secure-sum" else "puts its noise on"
                raise ValueError(
                    f"{option} {text} needs every message apart, and {other} {does} their sum alone. Leave one out; "
                    "what bounds a bad client behind a sum is --clip-norm."
                )


def needs_rows(settings: Settings) -> bool:
    """Whether the server has to see all messages of a round side by side."""
    named = [one for one in _attacks(settings) if _changes(one.function) == "rows"]
    return bool(settings.robust or settings.before or named)


def on_rows(settings: Settings, population: fl.Population) -> tuple[fl.Aggregator, ...]:
    """What stands behind all codecs: attacks that see all messages, steps before the rule, and the rule."""
    if not needs_rows(settings):
        return ()
    own = _codecs(settings)
    clients, server = ([codec for codec in own if (codec.role == "value") == side] for side in (True, False))
    named = [one for one in _attacks(settings) if _changes(one.function) == "rows"]
    return (*clients, *(_attack(settings, one, population) for one in named), *server)


def on_algorithm(settings: Settings, algorithm: fl.Algorithm, population: fl.Population) -> fl.Algorithm:
    """The algorithm with what bad clients compute."""
    for one in _attacks(settings):
        if _changes(one.function) == "algorithm":
            algorithm = _attack(settings, one, population, algorithm=algorithm)
    return algorithm


def told(settings: Settings, num_clients: int) -> str:
    """Who attacks, by what, and what is held against it; nothing where nobody is bad.

    Example:
      >>> told(Settings(attack="alie", bad="3", robust="median"), 20)
      'attack: alie by 3 of 20 clients (0, 1, 2), against median'
    """
    if settings.attack is None or settings.bad is None:
        return ""
    bad = _who(settings.bad)
    if bad.chance is not None:
        who = f"each of {num_clients} clients with a chance of {bad.chance:g} in each round"
    else:
        shown = ", ".join(str(one) for one in bad.ids[:10]) + (" ..." if len(bad.ids) > 10 else "")
        who = f"{len(bad.ids)} of {num_clients} clients ({shown})"
    steps = [step for step in (settings.before, settings.robust) if step is not None]
    return f"attack: {settings.attack} by {who}, against {' and '.join(steps) if steps else 'the mean'}"


def _codecs(settings: Settings) -> tuple[fl.Aggregator, ...]:
    """The steps before the rule, and the rule; the mean, where none is named."""
    before = [_made(_named("--before", text, steps_before()), "--before") for text in _parts(settings.before)]
    if settings.robust is None:
        return (*before, fl.robust.mean())
    return (*before, _made(_named("--robust", settings.robust, rules()), "--robust"))


def _attacks(settings: Settings) -> list[Named]:
    named = [_named("--attack", text, attacks()) for text in _parts(settings.attack)]
    if named and settings.bad is None:
        raise ValueError(f"--attack {settings.attack} needs --bad, which says who is: 3, or 3,7,9, or 0.1.")
    return named


def _attack(settings: Settings, one: Named, population: fl.Population, **told: Any) -> Any:
    """The attack, of the clients that are bad, told what it asks for of the data and of the rule that it faces."""
    bad = _who(settings.bad or "")
    if max(bad.ids, default=0) >= population.num_clients:
        raise ValueError(
            f"--bad {settings.bad} names client {max(bad.ids)}, and there are {population.num_clients}, from 0 on."
        )
    known = {**told, "bad": fl.attacks.pool(bad.ids) if bad.chance is None else fl.attacks.share(bad.chance)}
    asked = inspect.signature(one.function).parameters
    if "rule" in asked:  # of those who search for what moves it furthest
        known["rule"] = [codec for codec in _codecs(settings) if codec.role != "value"]
    if "num_classes" in asked:
        known["num_classes"] = int(population.features["y"].max()) + 1
    if "trigger" in asked:
        known["trigger"] = _trigger(population.features["x"])
    return _made(one, "--attack", known)


def _trigger(x: Any) -> Any:
    """The pattern of backdoors: a rectangle in the last corner, as bright as anything."""
    return fl.attacks.trigger_pattern(x.shape[1:], value=float(x.max()))


def triggered(settings: Settings, test: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The test set of a backdoor, on which accuracy is its success; None without one."""
    for one in _attacks(settings):
        if "trigger" in inspect.signature(one.function).parameters:
            return fl.attacks.triggered(test, _trigger(test["x"]), _arguments(one)["target"])
    return None


def _arguments(one: Named) -> dict[str, Any]:
    """An attack's arguments as its text has them; what it is told beside them is no matter of a text."""
    parameters = {n: p for n, p in signatures.parameters_of(one.function).items() if n not in _TOLD}
    given = signatures.arguments_of("--attack", one.text, one.name, parameters, one.words, signatures.typed)
    signatures.check_complete("--attack", one.name, parameters, given)
    return given


def _made(one: Named, option: str, told: Mapping[str, Any] | None = None) -> Any:
    made = signatures.called(option, one.text, one.name, one.function, one.words, told=told, read=signatures.typed)
    wanted = fl.Algorithm if told and "algorithm" in told else fl.Aggregator
    if not isinstance(made, wanted):
        raise ValueError(f"{option} {one.text} gave {fl.checks.shown(made)}; expected an {wanted.__name__}.")
    return made


def _who(text: str) -> Who:
    parts = [part.strip() for part in text.split(",")]
    value = signatures.plain(text.strip())
    if isinstance(value, float) and 0 < value <= 1:
        return Who(chance=value)
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return Who(tuple(range(value)))
    ids = [signatures.plain(part) for part in parts if part]
    if len(parts) > 1 and ids and all(type(one) is int and one >= 0 for one in ids) and len({*ids}) == len(ids):
        return Who(tuple(ids))
    raise ValueError(
        f"--bad is {text!r}; expected how many (3 is the first three clients), or which (3,7,9; for one client 3,), or "
        "the chance of each client in each round (0.1)."
    )


def _named(option: str, text: str, table: Mapping[str, Callable[..., Any]]) -> Named:
    word, _, words = text.partition(":")
    name = word.strip().replace("-", "_").lower()
    if name not in table and signatures.is_import(text):
        own = signatures.imported(option, text)
        if not callable(own):
            raise ValueError(f"{option} is {text!r}, which is no function but {fl.checks.shown(own)}.")
        return Named(text, getattr(own, "__name__", name), own, signatures.arguments_after(text))
    name = signatures.chosen(option, word, table)
    return Named(text, name, table[name], words)


def _parts(text: str | None) -> list[str]:
    return [] if text is None else [part.strip() for part in text.split("+")]


def _functions(room: Any) -> dict[str, Callable[..., Any]]:
    """The functions of a room that give an Aggregator or an Algorithm."""
    found = {name: getattr(room, name) for name in room.__all__}
    return {n: f for n, f in found.items() if inspect.isfunction(f) and _changes(f) != ""}


@functools.cache
def _role(function: Callable[..., Any]) -> str:
    """What the codecs that a function makes of numbers are in a chain; nothing where it wants more than numbers."""
    parameters = inspect.signature(function).parameters
    if "server" in parameters:
        return ""
    needed = [name for name, one in parameters.items() if one.default is one.empty]
    for number in (1, 0.5):
        with contextlib.suppress(TypeError, ValueError):
            return function(**dict.fromkeys(needed, number)).role
    return ""


def _changes(function: Callable[..., Any]) -> str:
    """What a function of `fl.attacks` or `fl.robust` is for: "rows" or "algorithm"; "" for neither."""
    returned = getattr(function, "__annotations__", {}).get("return")
    if returned in (fl.Algorithm, "Algorithm", "fl.Algorithm") or "algorithm" in inspect.signature(function).parameters:
        return "algorithm"
    return "rows" if returned in (fl.Aggregator, "Aggregator", "fl.Aggregator") else ""
