"""`fl.sweep`: hyperparameters and seeds, in as few programs as shapes allow, with a choice on held-out clients."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from fedjaxlite import checks
from fedjaxlite.data.on_disk.refusing import in_memory_only
from fedjaxlite.data.population import Population
from fedjaxlite.directions import Direction, directions
from fedjaxlite.keys import is_tracing
from fedjaxlite.sweeps import arguments, groups, measuring
from fedjaxlite.sweeps.grid import Point, check_make, may_be_traced, points_of
from fedjaxlite.sweeps.grid import made as made_of
from fedjaxlite.sweeps.programs import Study, mesh_of, placement
from fedjaxlite.sweeps.result import Sweep

PyTree = Any
_SECONDS = 10.0


def sweep(
    make: Callable[..., Any],
    grid: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]],
    *,
    init: Any,
    population: Population,
    num_rounds: int,
    seeds: int | Sequence[int] = 5,
    evaluate: Any = None,
    evaluate_state: Any = None,
    evaluate_every: int | None = None,
    validation: float | None = None,
    validation_seed: int = 0,
    loss: Any = None,
    select: str | None = None,
    better: Mapping[str, Direction] | None = None,
    traced: Sequence[str] | None = None,
    together: int | None = None,
    side_by_side: bool | None = None,
    devices: int | None = None,
    noise_key: Any = None,
    keep: str = "params",
    progress: bool = True,
) -> Sweep:
    """Trains every point of a grid with every seed, and says which is best for clients that nobody trained on.

    Points whose values can be traced share one program, which is compiled once. By default it is tried for each name
    with different floats among its values: rates, momenta, mu, clip norms. Whatever decides about shapes (batch sizes,
    epochs, cohorts: ints) or is no number, and what the library or `make` need as a plain number, has a program for
    each of its values. `Sweep.groups` says what ran together, `Sweep.not_traced` why something did not.

    Args:
      make: `make(**point) -> fl.Rounds`. A traced number reaches it as a float32 tracer that promotes as a Python float
        does; what it computes of it is computed in float32 (1 - b2 of an optimizer, for one, to 4 digits).
      grid: lists of values by the names of `make`'s parameters, of which all combinations are run; or a list of points.
      init: a Model, or `init(key) -> params`.
      population: the clients.
      num_rounds: of every run.
      seeds: how many (0, 1, ...), or which.
      evaluate: `f(params)` that gives a dict of scalars or a ClientReport, such as `fl.evaluate(model, test)`; or a
        dict of such functions by name. A single one is called "test". What can be traced is part of the program.
      evaluate_state: `make(rounds) -> f(state)` for personalized models, such as
        `lambda rounds: fl.evaluate_clients(loss, own_test, rounds=rounds)`; or a dict; a single one is "clients".
      evaluate_every: rounds between evaluations; None evaluates after the last round alone. The last always is.
      validation: share of the clients that is held out: nobody trains on them, and they are evaluated as "validation".
        A `make` that needs the number of clients has to count without them: hold clients out beforehand then
        (`fl.partition.holdout_clients`), and give `evaluate={"validation": fl.evaluate(loss, held_out)}`.
      validation_seed: which ones.
      loss: a Model or a loss function, of `validation`; None takes `init` where that is a Model.
      select: the metric that the best point is chosen by, such as "validation_accuracy"; None takes the validation's
        accuracy, or loss, and chooses nothing where no clients were held out.
      better: "lower" or "higher", of metrics of which neither the library nor their loss says it.
      traced: the names to try to trace, ints too; () traces none.
      together: the most runs on the devices at once, if memory is short; None is all of a program.
      side_by_side: whether runs of a device are vmapped; else one comes after the other. None vmaps on accelerators; on
        a CPU that is no faster, and takes longer to compile.
      devices: how many devices of this process share the runs; None is all. Each run is on one of them.
      noise_key: of noise for privacy. None gives each run a secret of its own from the operating system. With a key,
        that of seed s is `jax.random.fold_in(noise_key, s)` for every point: it can be repeated, and is not private.
      keep: what is kept of the last states: "params" (NumPy arrays), "states", or "nothing".
      progress: whether to say on the standard output what runs.

    Returns:
      a Sweep of P points, S seeds and T evaluated rounds.

    Raises:
      TypeError, ValueError: for arguments that do not fit, before any training.
      RuntimeError: a cohort overflowed its sampler's capacity.

    Guarantees:
      The run of a point and a seed s is this one, whatever runs beside it, up to float32's rounding:

          first, own, _ = jax.random.split(jax.random.key(s), 3)
          rounds = make(**point)
          state = rounds.init(init(first), population, key=own)

      With `validation`, `population` is what is left of it. Private runs on the same clients have an epsilon each,
      which add up; that of the best one does not cover the choice.

    Example:
      >>> import fedjaxlite as fl, jax.numpy as jnp, optax
      >>> from fedjaxlite import algorithms
      >>> data = fl.Population.from_arrays({"x": np.float32([1, 2, 3, 6])}, client_ids=[0, 0, 1, 1])
      >>> square = lambda params, batch, key: (params - batch["x"]) ** 2
      >>> def make(client_lr):
      ...     algorithm = algorithms.fed_avg(square, client_optimizer=optax.sgd(client_lr), batch_size=None)
      ...     return fl.rounds(algorithm, sampler=fl.sampling.full(2), aggregator=fl.weighted_mean())
      >>> found = sweep(
      ...     make, {"client_lr": [0.1, 0.3]}, init=lambda key: jnp.float32(0), population=data, num_rounds=4, seeds=2,
      ...     evaluate=fl.evaluate(square, data), select="test_loss", progress=False,
      ... )
      >>> found.best_point, found.programs, found.final("test_loss").round(2).tolist()
      ({'client_lr': 0.3}, 1, [[5.01, 5.01], [3.51, 3.51]])
    """
    began = time.monotonic()
    points = points_of(grid)
    check_make(make, points)
    checks.one_instance(Population, "a Population", population=population)
    in_memory_only("fl.sweep", "run fl.train for each point", population=population)
    num_rounds = checks.positive_int(num_rounds=num_rounds)
    every = num_rounds if evaluate_every is None else checks.positive_count(evaluate_every=evaluate_every)
    seed_list = arguments.seeds_of(seeds)
    keep = checks.one_of(("params", "states", "nothing"), keep=keep)
    progress = checks.flag(progress=progress)
    if select is not None:
        checks.text(select=select)
    candidates = may_be_traced(points, arguments.names_of(traced))
    beginning = arguments.init_of(init)
    population, evaluate = arguments.held_out(population, evaluate, validation, validation_seed, loss, init)
    for point in points:
        arguments.check_rounds(made_of(make, point), population, num_rounds)
    first = arguments.first_of(make, points[0], beginning, population)
    found = measuring.measures(evaluate, evaluate_state, directions("better", better), *first)
    asked = groups.Asked(
        seeds=seed_list,
        noise=arguments.noise_of(noise_key, len(points), seed_list),
        rounds=tuple(dict.fromkeys([*range(every, num_rounds + 1, every), num_rounds])),
        width=None if together is None else checks.positive_count(together=together),
        keep=keep,
        say=_teller() if progress else lambda line, passing=False: None,
    )
    study = _study(make, points, beginning, population, found, devices, side_by_side, len(points) * len(seed_list))
    if is_tracing():
        raise ValueError(
            "`fl.sweep` was called inside of jit, vmap or grad, and compiles programs of its own. Call it outside."
        )
    one_by_one, why = groups.grouped(study, asked, candidates)
    chosen_by, way = measuring.chosen(found, select, _measured(found, one_by_one))
    played = [groups.play(study, asked, one) for one in one_by_one]
    curves = _curves(played, len(points), len(seed_list), len(asked.rounds))
    return Sweep(
        points,
        seed_list,
        np.asarray(asked.rounds),
        curves,
        chosen_by,
        way,
        tuple(one.group for one in one_by_one),
        why,
        _kept(played, len(points), len(seed_list)) if keep != "nothing" else (),
        time.monotonic() - began,
    )


def _teller() -> Callable[..., None]:
    """Writes lines for people, and of those that only say how far it is one every ten seconds."""
    told = [time.monotonic()]

    def say(line: str, passing: bool = False) -> None:
        now = time.monotonic()
        if sys.stdout is None or (passing and now - told[0] < _SECONDS):
            return
        told[0] = now
        sys.stdout.write(f"sweep: {line}\n")
        sys.stdout.flush()

    return say


def _study(
    make: Callable[..., Any],
    points: tuple[Point, ...],
    init: Callable[[Any], PyTree],
    population: Population,
    found: measuring.Measures,
    devices: int | None,
    side_by_side: bool | None,
    num_runs: int,
) -> Study:
    there = len(jax.local_devices())
    count = there if devices is None else checks.positive_int(devices=devices)
    if count > there:
        raise ValueError(f"`devices` is {count}, and this process has {there}. Ask for fewer, or leave it out.")
    mesh = mesh_of(min(count, num_runs))
    vmapped = mesh.devices.flat[0].platform != "cpu" if side_by_side is None else checks.flag(side_by_side=side_by_side)
    everywhere = jax.device_put(population, placement(mesh, split=False))
    return Study(make, points, init, everywhere, found, mesh, vmapped)


def _measured(found: measuring.Measures, traced: Sequence[groups.Traced]) -> list[str]:
    """The names of all metrics, before anything runs."""
    own = [name for one in traced for program in one.programs.some_rounds.values() for name in program.out_info[1]]
    return list(dict.fromkeys([*own, *found.names]))


def _curves(played: Sequence[groups.Played], num_points: int, num_seeds: int, num_times: int) -> dict[str, np.ndarray]:
    curves: dict[str, np.ndarray] = {}
    for one in played:
        for metric, by_run in one.curves.items():
            values = curves.setdefault(metric, np.full((num_points, num_seeds, num_times), np.nan))
            for (point, place), row in by_run.items():
                values[point, place] = row
    return curves


def _kept(played: Sequence[groups.Played], num_points: int, num_seeds: int) -> tuple[list[Any], ...]:
    by_run = {run: state for one in played for run, state in one.kept.items()}
    return tuple([by_run[point, place] for place in range(num_seeds)] for point in range(num_points))
