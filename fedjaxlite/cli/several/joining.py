"""How a command becomes one of several processes, and which devices it takes then."""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import typer

import fedjaxlite as fl
from fedjaxlite import processes
from fedjaxlite.cli.settings import Settings

_BESIDE = ("coordinator", "processes", "process_id", "heartbeat")


class Shared(NamedTuple):
    """The devices of a run, shared out over its processes.

    Attributes:
      total: of all processes.
      each: CPU devices that every process makes.
    """

    total: int | None
    each: int


def check(settings: Settings, what: str = "") -> None:
    """Refuses options of several processes where there is one.

    Args:
      settings: what was asked for.
      what: the command or option that runs in one process alone.

    Raises:
      ValueError: names the option.
    """
    if settings.distributed and what:
        raise ValueError(f"{what} runs in one process; leave --distributed out.")
    given = [name.replace("_", "-") for name in _BESIDE if getattr(settings, name) is not None]
    if given and not settings.distributed:
        raise ValueError(f"--{given[0]} was given without --distributed, which makes this one of several processes.")


def join(settings: Settings) -> int:
    """Meets the other processes, before JAX is used; returns how many there are."""
    if not settings.distributed:
        return 1
    beat: dict[str, Any] = {} if settings.heartbeat is None else {"heartbeat_seconds": settings.heartbeat}
    place = fl.distributed.initialize(settings.coordinator, settings.processes, settings.process_id, **beat)
    return place.num_processes


def share(asked: int | None, before: int | None, cores: int, cohort: int, count: int) -> Shared:
    """How many CPU devices each process makes.

    Args:
      asked: of --devices, all processes together; or None.
      before: those of the run that goes on, or None.
      cores: that this process may use.
      cohort: clients in a round.
      count: processes.

    Raises:
      ValueError: devices that cannot be shared equally.
    """
    if asked is not None and asked % count:
        raise ValueError(
            f"--devices is {asked}, and there are {count} processes, which have equally many each: give a multiple of "
            f"{count}."
        )
    total = before if asked is None else asked
    if total is not None and total % count == 0:
        return Shared(total, total // count)
    if total is not None:  # of a run in another number of processes: as many as may be, and all told of it
        return Shared(None, max(1, total // count))
    return Shared(None, max(1, min(cores, cohort // count)))


def take(shared: Shared, count: int) -> int:
    """The devices of all processes, once JAX has started.

    Raises:
      ValueError: there are not as many as asked for.
    """
    with contextlib.suppress(RuntimeError):
        fl.use_cpu_cores(shared.each)
    found = jax.device_count()
    if shared.total not in (None, found) and jax.default_backend() == "cpu":
        raise ValueError(f"--devices is {shared.total}, and the {count} processes have {found} together.")
    return found


def say(text: str | None, *, err: bool = False) -> None:
    """Prints a line where there is something to say, once for all processes."""
    if text and processes.is_first():
        typer.echo(text, err=err)


def first_path(make: Callable[[], Any]) -> str:
    """A path that the first process chooses for all."""
    return processes.agreed(str(make()))
