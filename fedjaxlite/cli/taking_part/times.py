"""How long clients take, and when they are there: `--service devices:drawn --availability file:trace.csv`."""

import functools
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

import fedjaxlite as fl
from fedjaxlite.cli import signatures
from fedjaxlite.cli.settings import Settings, keys
from fedjaxlite.execution.remembering import steps_of

_DRAWN = "drawn"
_KINDS = ("constant", "exponential", "lognormal", "file")
"""Of services that know nothing of a run."""
_NUMBERS = (int, float, bool, str)


class Facts(NamedTuple):
    """What is known of a run when its sampler is made.

    Attributes:
      num_clients: N.
      hparams: of the algorithm, which tell its local steps.
    """

    num_clients: int
    hparams: Mapping[str, Any] = {}


def of_devices(settings: Settings) -> bool:
    """Whether clients take as long as their devices do."""
    return settings.service is not None and settings.service.partition(":")[0] == "devices"


def check_service(settings: Settings) -> None:
    """Refuses a --service that cannot be read, before there are data."""
    text = settings.service or "exponential:1"
    if not of_devices(settings):
        kind = text.partition(":")[0]
        if kind not in _KINDS and (near := signatures.nearest(kind, ("devices",))):
            raise ValueError(f"--service is {text!r}; expected devices:drawn or devices:PATH.{near}")
        fl.systems.service.parse(text)
    elif _is_drawn(settings):
        _drawn_devices(settings, 1)
    else:
        _path("--service", text, "devices:drawn, or devices:PATH of a table of devices")


def service(settings: Settings, facts: Facts) -> fl.systems.Service | fl.systems.Devices:
    """How long clients take."""
    if not of_devices(settings):
        return fl.systems.service.parse(settings.service or "exponential:1")
    if _is_drawn(settings):
        return _drawn_devices(settings, facts.num_clients)
    return _from_file(
        f"--service {settings.service}",
        fl.systems.devices_from_file,
        Path((settings.service or "").partition(":")[2]),
        facts.num_clients,
        examples_per_step=_examples_per_step(settings, facts),
    )


def _is_drawn(settings: Settings) -> bool:
    rest = (settings.service or "").partition(":")[2]
    return rest.partition(",")[0].strip() == _DRAWN


def _drawn_devices(settings: Settings, num_clients: int) -> fl.systems.Devices:
    words = (settings.service or "").partition(",")[2]
    told = {"key": keys(settings)["devices"], "num_clients": num_clients}
    with jax.ensure_compile_time_eval():  # a sweep makes its samplers while it traces
        return _called("--service", settings.service or "", "devices:drawn", fl.systems.drawn_devices, words, told)


def _examples_per_step(settings: Settings, facts: Facts) -> int:
    """How many examples a step has, for files that have the milliseconds of one."""
    path = (settings.service or "").partition(":")[2]
    if path.lower().endswith(".csv") or steps_of(facts.hparams) is None:
        return 1  # of seconds a step, or where a step is taken to be an example
    size = facts.hparams["batch_size"]
    if size is None:
        raise ValueError(
            f"--service {settings.service} has the milliseconds of one example, and with --batch-size inf each client "
            "has a number of them of its own in a step. Give --batch-size B, or a .csv file of seconds a step."
        )
    return int(size)


def check_availability(settings: Settings, *, by_rounds: bool) -> None:
    """Refuses an --availability that cannot be read, before there are data."""
    text = settings.availability
    if text is None:
        return
    kind = text.partition(":")[0]
    if kind not in ("diurnal", "file"):
        near = signatures.nearest(kind, ("diurnal", "file"))
        raise ValueError(f"--availability is {text!r}; expected diurnal or file:PATH.{near}")
    if kind == "diurnal":
        trace(settings) if by_rounds else availability(settings, Facts(1))
        return
    _path("--availability", text, "file:PATH of client,begin,end, or of FedScale's client_behave_trace")
    if by_rounds:
        raise ValueError(
            f"--sampler {settings.sampler} chooses by rounds among the clients that are there, and --availability "
            f"{text} counts seconds. Take --availability diurnal, or another --sampler: whoever it draws "
            "and is not there is waited for."
        )


def trace(settings: Settings) -> fl.sampling.Trace:
    """Who is there in which round; a day of devices where nothing else is said."""
    text = settings.availability or "diurnal"
    words = text.partition(":")[2]
    return _called("--availability", text, "diurnal", fl.sampling.diurnal, words, {"seed": settings.seed})


def availability(settings: Settings, facts: Facts) -> fl.systems.Availability | None:
    """Who is there when, on the clock; None for always."""
    text = settings.availability
    if text is None:
        return None
    kind, _, rest = text.partition(":")
    if kind == "file":
        where = f"--availability {text}"
        return _from_file(where, fl.systems.availability_from_file, Path(rest), facts.num_clients)
    told = {"key": keys(settings)["availability"], "num_clients": facts.num_clients}
    with jax.ensure_compile_time_eval():
        return _called("--availability", text, kind, fl.systems.drawn_availability, rest, told)


def _called(option: str, text: str, name: str, function: Any, words: str, told: Mapping[str, Any]) -> Any:
    """A function with the numbers that a text gives; what is no number stays as it is."""
    parameters = signatures.parameters_of(function)
    rest = {n: p.default for n, p in parameters.items() if n not in told and type(p.default) not in _NUMBERS}
    rest = {n: default for n, default in rest.items() if default is not inspect.Parameter.empty}
    return signatures.called(option, text, name, function, words, told={**told, **rest})


def _path(option: str, text: str, expected: str) -> None:
    path = text.partition(":")[2]
    if not path:
        raise ValueError(f"{option} is {text!r}, without a path; expected {expected}.")
    if not Path(path).is_file():
        raise ValueError(f"{option} is {text!r}, and there is no file {path!r}; expected {expected}.")


def _from_file(where: str, function: Any, path: Path, num_clients: int, **more: Any) -> Any:
    try:
        now = path.stat()
        return _read(function, path, num_clients, (now.st_dev, now.st_ino, now.st_mtime_ns, now.st_size), **more)
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None


@functools.lru_cache(maxsize=2)
def _read(function: Any, path: Path, num_clients: int, state: tuple[int, ...], **more: Any) -> Any:
    """What a file holds, read once: noise is calibrated by making a run's sampler many times."""
    del state  # of the file: one that changed is read again
    with jax.ensure_compile_time_eval():
        return function(path, num_clients, **more)
