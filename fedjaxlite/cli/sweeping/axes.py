"""The grid of `fedjaxlite run --sweep`: options and hyperparameters, with values of their types."""

from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from fedjaxlite.cli import methods, signatures
from fedjaxlite.cli.settings import Settings
from fedjaxlite.cli.taking_part import samplers

OVERRIDES = ("client_lr", "server_lr", "epochs", "batch_size")
OPTIONS = (
    *OVERRIDES,
    *("algorithm", "server_optimizer", "cohort", "sampler", "dropout", "stragglers", "aggregator", "clip_norm"),
    *("quantize_bits", "compress", "error_feedback", "feedback_kind", "compress_down", "noise_multiplier", "epsilon"),
    *("robust", "before", "attack", "bad"),
)
"""Options that a grid may hold: those of a run on the same data, from the same first model."""
TRACED = ("client_lr", "server_lr", "noise_multiplier")
_SHAPES = {"clusters": ("num_clusters",), "centers": ("num_clusters", "feature")}
"""Hyperparameters that decide what a run starts from, which all runs of a sweep share."""
_OF_ONE_RUN = {
    "resume": "a sweep does not go on where it was stopped; repeat it by --config",
    "accept_changes": "it is about --resume",
    "checkpoint_every": "a sweep keeps no checkpoints",
    "target_accuracy": "all runs have the same rounds",
    "tensorboard": "sweep.jsonl has the numbers of all runs",
    "tracker": "sweep.jsonl has the numbers of all runs",
    "lost_rounds": "no run of a sweep ends early",
    "diverged_rounds": "no run of a sweep ends early",
    "stop_at_nan": "no run of a sweep ends early",
    "client_states": "runs that are trained side by side keep theirs on the devices",
    "max_epsilon": "no run of a sweep ends early",
    "cohort_seed": "cohorts follow from the seeds, and under noise from secrets",
}


def is_sweep(settings: Settings) -> bool:
    """Whether several runs were asked for."""
    return any(getattr(settings, name) is not None for name in ("sweep", "seeds", "validation", "select"))


def check(settings: Settings) -> None:
    """Refuses options that say nothing of several runs at once.

    Raises:
      ValueError: that names them.
    """
    for name, why in _OF_ONE_RUN.items():
        if getattr(settings, name) != Settings._field_defaults[name]:
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"{option} was given with --sweep or --seeds, and {why}. Leave it out.")


def grid(settings: Settings) -> dict[str, list[Any]]:
    """The values that --sweep gives, by name.

    Raises:
      ValueError: for anything but NAME=V1,V2, for a name that is neither an option nor a hyperparameter of the method
        (the nearest is named), and for values of another type.

    Example:
      >>> grid(Settings(sweep=["client_lr=0.01,0.1", "batch_size=10,20"]))
      {'client_lr': [0.01, 0.1], 'batch_size': ['10', '20']}
    """
    found: dict[str, list[Any]] = {}
    for text in settings.sweep or ():
        name, equals, words = text.partition("=")
        name = name.strip().replace("-", "_")
        values = [word.strip() for word in words.split(";" if ";" in words else ",")]
        if not equals or not name or not all(values):
            raise ValueError(f"--sweep is {text!r}; expected NAME=V1,V2, such as client_lr=0.01,0.1.")
        if name in found:
            raise ValueError(f"--sweep gives {name} twice; put all its values behind one.")
        found[name] = values
    known = _names(found.get("algorithm", [settings.algorithm]))
    for name, values in found.items():
        _check_name(name, known)
        found[name] = _typed(name, values)
    for text in found.get("sampler", ()):
        samplers.name_of(Settings(sampler=text), "--sweep sampler")
    return found


def _names(algorithms: list[str]) -> tuple[str, ...] | None:
    """What may be swept; None where a method of one's own takes any name."""
    chosen = [methods.find(name) for name in algorithms]
    if len(chosen) > 1 and any(method.stands_for != "model" for method in chosen):
        raise ValueError("--sweep algorithm compares methods that train one model each; run the others by themselves.")
    if any(p.kind is p.VAR_KEYWORD for method in chosen for p in method.parameters.values()):
        return None
    own = [name for name in chosen[0].parameters if all(name in method.parameters for method in chosen)]
    if any(method.inner for method in chosen):
        return None
    of_start = {name for method in chosen for name in (*method.of_start, *_SHAPES.get(method.stands_for, ()))}
    return tuple(dict.fromkeys([*OPTIONS, *(name for name in own if name not in of_start)]))


def _check_name(name: str, known: tuple[str, ...] | None) -> None:
    if name in OPTIONS or (known is None and name not in Settings._fields):
        return
    if name in Settings._fields and (known is None or name not in known):
        raise ValueError(
            f"--sweep names {name}, which decides about the data or the whole of a run; run each value by itself. "
            f"Swept can be {', '.join(known or OPTIONS)}."
        )
    if known is not None and name not in known:
        raise ValueError(f"--sweep names {name!r}; swept can be {', '.join(known)}.{signatures.nearest(name, known)}")


def _typed(name: str, words: list[str]) -> list[Any]:
    """The values of a name: of an option as it has them; of a hyperparameter numbers where all are, else texts."""
    if name not in OPTIONS:
        numbers = [_number(word) for word in words]
        return words if None in numbers else numbers
    hint = get_type_hints(Settings)[name]
    kinds: list[Any] = [hint] if get_origin(hint) is Literal else list(get_args(hint)) or [hint]
    kinds = sorted(kinds, key=lambda kind: kind is not type(None))  # "none" is no text
    return [_of_option(name, word, kinds) for word in words]


def _of_option(name: str, word: str, kinds: list[Any]) -> Any:
    for kind in kinds:
        if kind is type(None) and word.lower() == "none":
            return None
        if get_origin(kind) is Literal and word in get_args(kind):
            return word
        if kind is bool and word.lower() in ("true", "false"):
            return word.lower() == "true"
        if (
            kind in (int, float)
            and (number := _number(word)) is not None
            and (kind is float or isinstance(number, int))
        ):
            return kind(number)
        if kind is str:
            return word
    wanted = " or ".join(
        ", ".join(get_args(kind)) if get_origin(kind) is Literal else kind.__name__
        for kind in kinds
        if kind is not type(None)
    )
    raise ValueError(f"--sweep gives {name} the value {word!r}; expected {wanted}.")


def _number(word: str) -> int | float | None:
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return None


def may_be_traced(axes: Mapping[str, list[Any]]) -> list[str]:
    """Numbers that a program can take as they are: rates, hyperparameters, and the noise itself, but no epsilon."""
    numbers = {n for n, v in axes.items() if any(isinstance(x, float) for x in v) and not _texts(v)}
    return [n for n in axes if n in numbers and (n not in OPTIONS or n in TRACED)]


def _texts(values: list[Any]) -> bool:
    return any(isinstance(value, (str, bool)) or value is None for value in values)
