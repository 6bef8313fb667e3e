"""Which numbers can be traced, found by trying; and the runs of one program, from their first round to the last."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjaxlite.keys import NoiseKeys
from fedjaxlite.sweeps import measuring, programs
from fedjaxlite.sweeps.grid import made, together
from fedjaxlite.sweeps.programs import Programs, Study
from fedjaxlite.sweeps.result import Group
from fedjaxlite.sweeps.seeds import begin_with, of_seed

PyTree = Any
LOG = logging.getLogger("fedjaxlite.sweeps")


class Asked(NamedTuple):
    """What the runs of a sweep have in common.

    Attributes:
      seeds: S of them.
      noise: `[P, S]` noise keys, or NoiseKeys of them.
      rounds: the rounds after which is measured, ascending.
      width: the most runs on the devices at once; None for all of a group.
      keep: "params", "states" or "nothing" of the last states.
      say: `say(line, passing)` takes lines for people; passing ones need not all be shown.
    """

    seeds: tuple[int, ...]
    noise: Any
    rounds: tuple[int, ...]
    width: int | None
    keep: str
    say: Callable[..., None]

    @property
    def lengths(self) -> list[int]:
        """The rounds of each piece."""
        return np.diff((0, *self.rounds)).tolist()


class Traced(NamedTuple):
    """A group of points, and its programs."""

    group: Group
    programs: Programs


def grouped(study: Study, asked: Asked, candidates: Sequence[str]) -> tuple[list[Traced], dict[str, str]]:
    """The groups of points, each with its programs, traced.

    Args:
      study: see there.
      asked: likewise.
      candidates: names whose values may be traced. Which can be is found by trying: all together; where that fails,
        each by itself. A name that fails in one group is a number to `make` from then on.

    Returns:
      the groups, in the order of their first points; and why names were not traced.

    Raises:
      whatever `make` or the library raise for plain values.
    """
    found: list[Traced] = []
    why: dict[str, str] = {}
    waiting = together(study.points, range(len(study.points)), candidates)
    while waiting:
        indices = waiting.pop(0)
        names = [name for name in candidates if name not in why and _differs(study, indices, name)]
        done = _try(study, asked, indices, names, why if names else None)
        if done is not None:
            found.append(Traced(Group(tuple(indices), tuple(names)), done))
            continue
        failed = [name for name in names if _try(study, asked, indices[:1], [name], why) is None]
        # Each can be traced by itself and not all together: the last one is a number then.
        left = [name for name in names if name not in (failed or names[-1:])]
        for name in names:
            if name in left:
                why.pop(name, None)
            else:
                why.setdefault(name, "it cannot be traced together with the others")
        waiting = [*together(study.points, indices, left), *waiting]
    for name, reason in why.items():
        LOG.info("%r is not traced, and each of its values has a program of its own: %s", name, reason)
    return sorted(found, key=lambda one: one.group.points), why


def _differs(study: Study, indices: Sequence[int], name: str) -> bool:
    return len({study.points[index][name] for index in indices}) > 1


def _try(
    study: Study, asked: Asked, indices: Sequence[int], names: Sequence[str], why: dict[str, str] | None
) -> Programs | None:
    """The programs of a group with traced names; None, and the reason in `why`, where they cannot be traced."""
    fixed = {name: value for name, value in study.points[indices[0]].items() if name not in names}
    which = _chunks(study, asked, indices)[0]
    example = programs.runs_of(study, names, which, asked.seeds, asked.noise)
    try:
        return programs.traced(study, fixed, example, asked.lengths)
    except Exception as error:  # whatever one's own functions raise when a number is a tracer
        if why is None:
            raise
        lines = str(error).strip().splitlines() or [""]
        for name in names if len(names) == 1 else ():
            why[name] = f"{type(error).__name__}: {lines[0][:200]}"
        return None


def _chunks(study: Study, asked: Asked, indices: Sequence[int]) -> list[list[tuple[int, int]]]:
    """The runs of a group in pieces of equal length, which the devices share equally; the last one is filled up."""
    runs = [(point, place) for point in indices for place in range(len(asked.seeds))]
    devices = study.mesh.size
    most = max(devices, -(-len(runs) // devices) * devices if asked.width is None else asked.width // devices * devices)
    count = -(-len(runs) // most)
    size = -(-len(runs) // (count * devices)) * devices
    filled = runs + [runs[-1]] * (count * size - len(runs))
    return [filled[begin : begin + size] for begin in range(0, len(filled), size)]


class Played(NamedTuple):
    """What the runs of a group gave.

    Attributes:
      curves: by metric, by run `(point, place of the seed)`, the values `[T]`.
      kept: by run, what was asked to be kept of the last state.
    """

    curves: dict[str, dict[tuple[int, int], list[float]]]
    kept: dict[tuple[int, int], Any]


def play(study: Study, asked: Asked, one: Traced) -> Played:
    """Compiles the programs of a group and runs it, as many runs at once as fit."""
    chunks = _chunks(study, asked, one.group.points)
    asked.say(
        f"{len(one.group.points)} points, {len(asked.seeds)} seeds: compiling"
        + (f"; in {len(chunks)} parts of {len(chunks[0])} runs" if len(chunks) > 1 else "")
    )
    begin = one.programs.begin.lower().compile()
    some_rounds = {length: program.lower().compile() for length, program in one.programs.some_rounds.items()}
    models = one.programs.params.lower().compile()
    played = Played({}, {})
    for number, which in enumerate(chunks, 1):
        runs = programs.runs_of(study, one.group.traced, which, asked.seeds, asked.noise)
        states, hyper = begin(runs, study.population), runs.hyper
        of_state = _evaluations_of_states(study, which)
        part = f"part {number}/{len(chunks)}, " if len(chunks) > 1 else ""
        for done, length in zip(asked.rounds, asked.lengths, strict=True):
            states, found, overflow = some_rounds[length](hyper, states, study.population)
            _check_overflow(overflow, which, study)
            columns = measuring.as_array(found)
            values = {place: {n: float(v[place]) for n, v in columns.items()} for place in _places(which)}
            if study.measures.on_host:
                for place, params in _one_by_one(study, which, models((hyper, states), study.population)):
                    values[place] |= measuring.of_models(study.measures, params)
            for place, state in _one_by_one(study, which, states) if of_state else ():
                values[place] |= measuring.of_states(of_state[which[place][0]], state)
            _note(played, which, values)
            asked.say(f"{part}round {done}/{asked.rounds[-1]}", passing=done < asked.rounds[-1])
        if asked.keep == "params":
            last = jax.device_get(models((hyper, states), study.population))
            played.kept.update({which[place]: of_seed(last, place) for place in _places(which)})
        elif asked.keep == "states":
            kept = {which[place]: state for place, state in _one_by_one(study, which, states)}
            played.kept.update(_with_ledgers(study, kept))
    return played


def _places(which: Sequence[tuple[int, int]]) -> list[int]:
    """The places of a part's runs; one that is there again, to fill it up, is taken at its first place alone."""
    return sorted({run: place for place, run in reversed(list(enumerate(which)))}.values())


def _one_by_one(study: Study, which: Sequence[tuple[int, int]], tree: Any) -> Iterator[tuple[int, Any]]:
    """What belongs to each run, on one device."""
    here = jax.device_put(tree, study.mesh.devices.flat[0])
    return ((place, of_seed(here, place)) for place in _places(which))


def _evaluations_of_states(study: Study, which: Sequence[tuple[int, int]]) -> dict[int, dict[str, Any]]:
    """By point its evaluations of the state; empty where there are none."""
    if not study.measures.of_state:
        return {}
    found = {}
    for point in dict.fromkeys(point for point, _ in which):
        rounds = made(study.make, study.points[point])
        found[point] = {name: maker(rounds) for name, maker in study.measures.of_state}
    return found


def _note(played: Played, which: Sequence[tuple[int, int]], values: Mapping[int, Mapping[str, float]]) -> None:
    for place, row in values.items():
        for metric, value in row.items():
            played.curves.setdefault(metric, {}).setdefault(which[place], []).append(value)


def _check_overflow(overflow: Any, which: Sequence[tuple[int, int]], study: Study) -> None:
    most = int(np.max(np.asarray(overflow)))
    if most > 0:
        sampler = made(study.make, study.points[which[0][0]]).sampler
        raise RuntimeError(
            f"{most} sampled clients found no slot in {sampler.name}'s capacity of {sampler.capacity}, so the round is "
            "not what its accounting says. Raise `capacity`."
        )


def _with_ledgers(study: Study, states: dict[tuple[int, int], Any]) -> dict[tuple[int, int], Any]:
    """States with the ledgers of their points: that of a program which took noise as a tracer knows no guarantee."""
    key, found = jax.random.key(0), {}
    for point in dict.fromkeys(point for point, _ in states):
        rounds = made(study.make, study.points[point])
        begin = lambda key, rounds=rounds: begin_with(rounds, study.init, study.population, key, NoiseKeys(key))  # noqa: E731
        found[point] = jax.eval_shape(begin, key).ledger
    return {run: state._replace(ledger=found[run[0]]) for run, state in states.items()}
