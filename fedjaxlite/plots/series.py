"""From records or arrays, of one seed or several, to what is drawn: positions, means, intervals."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedjaxlite import checks

OVER = ("round", "bytes", "bytes_up", "bytes_down", "seconds", "simulated_seconds")
_FIELDS = {
    "bytes": ("bytes_up", "bytes_down"),
    "bytes_up": ("bytes_up",),
    "bytes_down": ("bytes_down",),
    "seconds": ("seconds",),
    "simulated_seconds": ("simulated_seconds",),
}
_SO_FAR = ("simulated_seconds",)
"""What a record says of all rounds so far, not of its own."""


class Line(NamedTuple):
    """A metric of a run along its rounds.

    Attributes:
      label: of the run.
      x: float64 `[T]`, round numbers, bytes or seconds (virtual ones too); the mean over seeds.
      mean: float64 `[T]` over seeds; NaN where a seed has no finite value.
      half: float64 `[T]`, half the width of the 95 % interval, or None for a single seed.
      num_seeds: S.
    """

    label: str
    x: np.ndarray
    mean: np.ndarray
    half: np.ndarray | None
    num_seeds: int


def labeled(given: Any, name: str) -> dict[str, Any]:
    """`given` by label; anything but a mapping is one thing without a label.

    Raises:
      ValueError: it is an empty mapping.
    """
    if not isinstance(given, Mapping):
        return {"": given}
    if not given:
        raise ValueError(f"`{name}` is empty; expected at least one entry {{label: ...}}.")
    return {str(label): value for label, value in given.items()}


def lines(runs: Any, *, metric: str, over: str = "round", every: int = 1, remedy: str = "") -> list[Line]:
    """One Line for each run.

    Args:
      runs: as in `fedjaxlite.plots.curves`.
      metric: a name in the records.
      over: one of OVER.
      every: rounds between the entries of arrays.
      remedy: the end of the message where no record has the metric.

    Returns:
      the Lines in the order of `runs`; one without finite values says so in its label.

    Raises:
      TypeError, ValueError: as `fedjaxlite.plots.curves`.
    """
    checks.one_of(OVER, over=over)
    checks.positive_int(every=every)
    found = [_line(label, run, metric, over, every, remedy) for label, run in labeled(runs, "runs").items()]
    if not any(np.isfinite(line.mean).any() for line in found):
        raise ValueError(f"{metric!r} is finite in no round of any run; there is nothing to draw.")
    return [
        line if np.isfinite(line.mean).any() else line._replace(label=f"{line.label} (never finite)") for line in found
    ]


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Means `[T]` of values `[S, T]` over S seeds, and half the width of their 95 % intervals (Student's t).

    Example:
      >>> mean, half = interval(np.array([[1.0], [2.0], [3.0]]))
      >>> mean.tolist(), half.round(2).tolist()
      ([2.0], [2.48])
    """
    mean, count = values.mean(axis=0), len(values)
    if count < 2:
        return mean, None
    from scipy import stats

    return mean, stats.t.ppf(0.975, count - 1) * values.std(axis=0, ddof=1) / math.sqrt(count)


def number(value: Any, where: str) -> float:
    """A finite float or NaN; None, as JSON has it, and infinities are NaN.

    Raises:
      TypeError: it is no number.
    """
    if value is None:
        return math.nan
    try:
        found = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{where} is {value!r}; expected a number.") from None
    return found if math.isfinite(found) else math.nan


def points(records: Sequence[Mapping[str, Any]], metric: str, over: str, where: str) -> dict[int, tuple[float, float]]:
    """(position, value) by round, of the rounds whose record has the metric; costs are summed over all rounds before.

    Raises:
      TypeError, ValueError: a record has no round, bytes or seconds; rounds do not ascend; a value is no number.
    """
    found, spent, last = {}, 0.0, -1
    for index, record in enumerate(records):
        if record.get("missing") and over != "round":
            raise ValueError(
                f"the record of round {record.get('round')} of {where} was lost, and with it what was spent by then; "
                "draw over='round', or the records behind it alone."
            )
        for field in ("round", *_FIELDS.get(over, ())):
            if field not in record:
                raise ValueError(
                    f"record {index} of {where} has no {field!r}, only {', '.join(map(repr, record)) or 'nothing'}; "
                    "expected the records of fl.train."
                )
        if record["round"] <= last:
            raise ValueError(
                f"record {index} of {where} is of round {record['round']}, after one of round {last}; expected "
                "ascending rounds: pass the seeds of a run as a list with the records of each."
            )
        last = record["round"]
        own = sum(number(record[field], f"{field!r} of {where}") for field in _FIELDS.get(over, ()))
        spent = own if over in _SO_FAR else spent + own
        if metric in record:
            place = record["round"] if over == "round" else spent
            found[int(record["round"])] = (float(place), number(record[metric], f"{metric!r} of {where}"))
    return found


def _line(label: str, run: Any, metric: str, over: str, every: int, remedy: str) -> Line:
    where = f"run {label!r}" if label else "the run"
    seeds = []
    for index, seed in enumerate(_seeds(run, where)):
        of = where if index == 0 and _is_records(getattr(run, "records", run)) else f"seed {index} of {where}"
        if isinstance(seed, np.ndarray):
            seeds.append(_array_points(seed, over, every, of))
        else:
            seeds.append(_record_points(seed, metric, over, of, remedy))
    rounds = sorted(set.intersection(*map(set, seeds)))
    if not rounds:
        raise ValueError(f"the {len(seeds)} seeds of {where} have {metric!r} in no round together; nothing to average.")
    table = np.array([[seed[r] for r in rounds] for seed in seeds])
    mean, half = interval(table[..., 1])
    return Line(label, table[..., 0].mean(axis=0), mean, half, len(seeds))


def _record_points(
    records: Sequence[Mapping[str, Any]], metric: str, over: str, where: str, remedy: str
) -> dict[int, tuple[float, float]]:
    if not records:
        raise ValueError(f"{where} has no records; train at least one round.")
    found = points(records, metric, over, where)
    if not found:
        names = dict.fromkeys(
            n for r in records for n, v in r.items() if n != "round" and not isinstance(v, (list, str))
        )
        raise ValueError(
            f"no record of {where} has {metric!r}; they have {', '.join(map(repr, names)) or 'nothing'}. "
            + (remedy or "Pass one of them as metric=.")
        )
    return found


def _array_points(values: np.ndarray, over: str, every: int, where: str) -> dict[int, tuple[float, float]]:
    if over != "round":
        raise ValueError(f"{where} is an array, which holds no {over}; pass records, or over='round'.")
    if values.size == 0:
        raise ValueError(f"{where} is empty; expected a value for each round.")
    return {every * (i + 1): (float(every * (i + 1)), number(v, where)) for i, v in enumerate(values)}


def _is_records(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(r, Mapping) for r in value)


def unseen(runs: Any) -> set[str]:
    """What records of a run under noise for privacy list as "simulation_only": no guarantee covers it.

    Example:
      >>> unseen({"private": [{"round": 1, "loss": 0.5, "simulation_only": ["loss"]}]})
      {'loss'}
    """
    found = set()
    for label, run in labeled(runs, "runs").items():
        for seed in _seeds(run, label):
            if not isinstance(seed, np.ndarray):
                found.update(name for record in seed for name in record.get("simulation_only", ()))
    return found


def having(runs: Any, field: str) -> dict[str, Any]:
    """The runs whose records have a field in some round."""
    records = {label: _seeds(run, label) for label, run in labeled(runs, "runs").items()}
    return {
        label: seeds
        for label, seeds in records.items()
        if all(not isinstance(seed, np.ndarray) and any(field in record for record in seed) for seed in seeds)
    }


def costs(over: str) -> tuple[str, ...]:
    """The fields of records that positions are sums of."""
    return _FIELDS.get(over, ())


def _seeds(run: Any, where: str) -> list[Any]:
    """A run's seeds: lists of records, or arrays `[T]`."""
    run = getattr(run, "records", run)
    if _is_records(run):
        return [run]
    if isinstance(run, Sequence) and not isinstance(run, str):
        each = [getattr(seed, "records", seed) for seed in run]
        if all(_is_records(seed) for seed in each):
            return each
        if not any(np.ndim(seed) == 0 or _is_records(seed) for seed in each):
            return [_array(seed, 1, f"seed {i} of {where}") for i, seed in enumerate(each)]
    array = _array(run, 2, where)
    return [array] if array.ndim == 1 else list(array)


def _array(value: Any, most: int, where: str) -> np.ndarray:
    expected = "[rounds]" if most == 1 else "[rounds] or [seeds, rounds]"
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise TypeError(
            f"{where} is a {type(value).__name__} that is neither records nor numbers; expected history.records, a "
            f"list of them (one a seed), or an array {expected}."
        ) from None
    if not 1 <= array.ndim <= most or len(array) == 0:
        raise ValueError(f"{where} is an array of shape {list(array.shape)}; expected {expected}, or history.records.")
    return array
