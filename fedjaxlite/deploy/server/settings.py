"""What whoever runs a server decides: how many clients, how long, and who may take part."""

from typing import Any, Literal, NamedTuple

from fedjaxlite import checks

FLAGS = ("idle", "charging", "wireless")


class ServerSettings(NamedTuple):
    """The settings of a deployed server. K is the capacity of the sampler: the most messages in a sum.

    Attributes:
      over_select: n, how many clients get a round's task; the first K that report are in the sum, and the others are
        told that they were late. None for K.
      deadline: seconds that a round may take; also until all have shown keys in a masked round, and of an evaluation.
      min_reports: a round that is closed by its deadline, or since nobody is left, counts with so many messages; with
        fewer it begins again as the next attempt. None for K // 2, at least 1. A masked round has its own number.
      min_waiting: how many have to have checked in before a round begins; its clients are drawn uniformly from those.
        None for n. At least K for a draw that leaves a choice.
      eligible: what has to hold of a device, of "idle", "charging", "wireless".
      presence: seconds that a check-in counts; at least twice `wait`.
      min_examples: of a client that takes part.
      wait: seconds after which a client with nothing to do asks again, on average; each is told 0.5 to 1.5 times that.
      poll: seconds after which a client asks again for the next step of a secure sum.
      stage: seconds for every step of a secure sum behind the first.
      evaluate_every: rounds between evaluations on clients; the last round is evaluated too. None for none.
      evaluate_clients: the first so many eligible ones that check in evaluate. None for K.
      metrics_in_clear: evaluates in a masked run too, although metrics are not masked.
      server: of a masked run without a program's manifest: "semi-honest", or "lying" with signed keys.
      keep: checkpoints that stay on the disk.
    """

    over_select: int | None = None
    deadline: float = 600.0
    min_reports: int | None = None
    min_waiting: int | None = None
    eligible: tuple[str, ...] = FLAGS
    presence: float = 120.0
    min_examples: int = 1
    wait: float = 10.0
    poll: float = 0.5
    stage: float = 60.0
    evaluate_every: int | None = None
    evaluate_clients: int | None = None
    metrics_in_clear: bool = False
    server: Literal["semi-honest", "lying"] = "semi-honest"
    keep: int = 2


class Numbers(NamedTuple):
    """Of settings that were checked, what was left out filled in."""

    settings: ServerSettings
    capacity: int
    selected: int
    min_reports: int
    min_waiting: int
    evaluators: int


def checked(settings: Any, *, capacity: int, num_clients: int, masked: bool) -> Numbers:
    """The numbers of settings.

    Args:
      settings: `ServerSettings`.
      capacity: K.
      num_clients: N, how many may be enrolled.
      masked: whether a secure sum carries the messages.

    Raises:
      TypeError, ValueError: a setting that cannot work, with what was expected.

    Example:
      >>> found = checked(ServerSettings(over_select=13), capacity=10, num_clients=100, masked=False)
      >>> found.selected, found.min_reports, found.min_waiting
      (13, 5, 13)
    """
    checks.one_instance(ServerSettings, "fl.deploy.ServerSettings(...)", settings=settings)
    _check_kinds(settings)
    capacity_and_most = {
        "over_select": (settings.over_select, capacity, num_clients),
        "min_reports": (settings.min_reports, 1, capacity),
        "min_waiting": (settings.min_waiting, 1, num_clients),
        "evaluate_clients": (settings.evaluate_clients, 1, num_clients),
    }
    for name, (value, least, most) in capacity_and_most.items():
        if value is not None and not least <= checks.positive_int(**{name: value}) <= most:
            raise ValueError(
                f"`{name}` of the ServerSettings is {value}; expected {least} to {most}, for sums of up to {capacity} "
                f"messages from {num_clients} clients."
            )
    if capacity > num_clients:
        raise ValueError(
            f"the sampler takes {capacity} clients a round, and {num_clients} may be enrolled. Take fewer, or say more "
            "of `num_clients` in the DataSpec."
        )
    if settings.evaluate_every is not None and masked and not settings.metrics_in_clear:
        raise ValueError(
            "`evaluate_every` asks clients of a masked run for metrics, which no mask hides. Leave it out and evaluate "
            "on the server's own data, or accept that with metrics_in_clear=True."
        )
    selected = capacity if settings.over_select is None else settings.over_select
    waiting = selected if settings.min_waiting is None else settings.min_waiting
    reports = max(1, capacity // 2) if settings.min_reports is None else settings.min_reports
    if not masked and waiting < reports:
        raise ValueError(
            f"`min_waiting` of the ServerSettings is {waiting}, and a round counts with {reports} reports at least: "
            f"one of {waiting} clients never would. Take at least {reports}, or fewer `min_reports`."
        )
    evaluators = capacity if settings.evaluate_clients is None else settings.evaluate_clients
    return Numbers(settings, capacity, selected, reports, waiting, evaluators)


def _check_kinds(settings: ServerSettings) -> None:
    for name in ("deadline", "presence", "wait", "poll", "stage"):
        value = getattr(settings, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e12:
            raise ValueError(
                f"`{name}` of the ServerSettings is {checks.shown(value)}; expected seconds above 0 and below 1e12."
            )
    if settings.presence < 2 * settings.wait:
        raise ValueError(
            f"`presence` of the ServerSettings is {settings.presence:g} seconds and `wait` {settings.wait:g}: clients "
            f"would be forgotten before they ask again. Take at least {2 * settings.wait:g} of presence."
        )
    given = settings.eligible
    if not isinstance(given, (tuple, list)) or not all(isinstance(flag, str) and flag in FLAGS for flag in given):
        raise ValueError(
            f"`eligible` of the ServerSettings is {checks.shown(settings.eligible)}; expected a tuple of some of "
            f"{', '.join(FLAGS)}."
        )
    for name in ("min_examples", "keep", "evaluate_every"):
        if getattr(settings, name) is not None:
            checks.positive_int(**{name: getattr(settings, name)})
    checks.one_of(("semi-honest", "lying"), server=settings.server)
