"""The ways of running rounds, each with all of a run that could grow, and what is read meanwhile."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.benchmarks.memory import resident


class Flat(NamedTuple):
    """What one way of running did to memory.

    Attributes:
      way: which.
      num_rounds: how many.
      begin: bytes that the process held after a tenth of the rounds.
      most: the most that it held at any tenth after that.
      growth: most / begin - 1.
      arrays: live arrays of JAX at both ends.
      objects: objects that Python's collector tracks, at both ends.
    """

    way: str
    num_rounds: int
    begin: int
    most: int
    growth: float
    arrays: tuple[int, int]
    objects: tuple[int, int]


class Meter(NamedTuple):
    """What reads memory at every tenth of the rounds; see `meter_of`.

    Attributes:
      tell: `tell(done)`, after each round.
      flat: `flat(way)`, what was seen.
    """

    tell: Callable[[int], None]
    flat: Callable[[str], Flat]


def meter_of(num_rounds: int) -> Meter:
    """A Meter of so many rounds."""
    every = max(1, num_rounds // 10)
    seen: list[tuple[int, int, int]] = []

    def tell(done: int) -> None:
        if done >= every * (len(seen) + 1):
            seen.append((resident() or 0, len(jax.live_arrays()), len(gc.get_objects())))

    def flat(way: str) -> Flat:
        first, last = seen[0], seen[-1]
        begin, most = first[0], max(found[0] for found in seen[1:])
        return Flat(way, num_rounds, begin, most, most / begin - 1, (first[1], last[1]), (first[2], last[2]))

    return Meter(tell, flat)


def problem(folder: Path | None = None) -> tuple[fl.Rounds, fl.RoundState, fl.Population]:
    """A small run with client states; with a folder, its data and its clients' states are kept there."""
    rng = np.random.default_rng(0)
    data = {"x": rng.normal(size=(2_000, 8)).astype(np.float32), "y": rng.integers(0, 4, 2_000).astype(np.int32)}
    owners = np.arange(2_000) // 10
    if folder is None:
        population, where = fl.Population.from_arrays(data, client_ids=owners), "device"
    else:
        population = fl.Population.write_rows(folder / "data", [(owners, data)])
        where = folder / "states"
    model = fl.models.logistic(num_classes=4, input_shape=(8,))
    algorithm = algorithms.scaffold(
        fl.losses.cross_entropy(model), num_clients=200, client_lr=0.05, batch_size=5, epochs=1
    )
    run = fl.rounds(
        algorithm,
        sampler=fl.sampling.uniform(10, dropout=0.1),
        aggregator=fl.mean(),
        execution=fl.Execution(devices=1, client_states=where),
    )
    return run, run.init(model.init(jax.random.key(0)), population, key=jax.random.key(1)), population


def by_step(num_rounds: int, folder: Path) -> Flat:
    """`rounds.step` in a loop."""
    del folder
    (run, state, population), meter = problem(), meter_of(num_rounds)
    for done in range(1, num_rounds + 1):
        state, info = run.step(state, population)
        jax.block_until_ready(info)
        meter.tell(done)
    return meter.flat("step")


def by_steps(num_rounds: int, folder: Path) -> Flat:
    """`rounds.steps` of ten rounds."""
    del folder
    (run, state, population), meter = problem(), meter_of(num_rounds)
    for done in range(10, num_rounds + 1, 10):
        state, info = run.steps(state, population, 10)
        jax.block_until_ready(info)
        meter.tell(done)
    return meter.flat("steps")


def by_train(num_rounds: int, folder: Path, *, streams: bool = False, **options: Any) -> Flat:
    """`fl.train` with everything on: a folder, records, checkpoints, evaluation, guards and an observer."""
    (run, state, population), meter = problem(folder if streams else None), meter_of(num_rounds)
    fl.train(
        *(run, state, population),
        num_rounds=num_rounds,
        evaluate=lambda params: {"norm": optax.tree.norm(params)},
        evaluate_every=10,
        out_dir=folder / "run",
        observers=[lambda record, state: meter.tell(record["round"])],
        checkpoint_every=max(10, num_rounds // 50),
        progress=False,
        **options,
    )
    return meter.flat("train")


def by_bounded_train(num_rounds: int, folder: Path) -> Flat:
    """Likewise, with the newest hundred records in memory."""
    return by_train(num_rounds, folder, keep_records=100)._replace(way="train, keep_records=100")


def by_stream(num_rounds: int, folder: Path) -> Flat:
    """Likewise, with data and client states on the disk."""
    return by_train(num_rounds, folder, streams=True, keep_records=100)._replace(way="train, streaming")


WAYS: dict[str, Callable[[int, Path], Flat]] = {
    "step": by_step,
    "steps": by_steps,
    "train": by_train,
    "bounded": by_bounded_train,
    "stream": by_stream,
}
