"""What is measured of a population on a disk, each in a process of its own: writing, rounds, opening."""

import contextlib
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

import fedjaxlite as fl
from fedjaxlite import algorithms

_ROW = 625
"""Numbers of a row: with 8 rows a client, a million clients are 20 GB."""
_EXAMPLES = 8
_CLASSES = 10


def clients(num_clients: int, seed: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Generated clients of 4 to 12 examples, 8 in the mean; labels that a linear model learns."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(1 << 15, _ROW)).astype(np.float32)
    labels = (rows @ rng.normal(size=(_ROW, _CLASSES)).astype(np.float32)).argmax(1).astype(np.int32)
    for size in rng.integers(_EXAMPLES // 2, _EXAMPLES * 3 // 2 + 1, num_clients).tolist():
        first = int(rng.integers(0, len(rows) - size))
        yield {"x": rows[first : first + size], "y": labels[first : first + size]}


def composed(cohort: int) -> tuple[fl.Rounds, Any]:
    """FedAvg on a logistic regression, and its model."""
    model = fl.models.logistic(num_classes=_CLASSES, input_shape=(_ROW,))
    algorithm = algorithms.fed_avg(fl.losses.cross_entropy(model), client_optimizer=optax.sgd(0.05), batch_size=4)
    return fl.rounds(algorithm, sampler=fl.sampling.uniform(cohort), aggregator=fl.weighted_mean()), model


def written(folder: Path, num_clients: int) -> dict[str, Any]:
    """Writes the population, and tells how long that took."""
    with _watched() as peaks:
        began = time.perf_counter()
        people = fl.Population.write(folder, clients(num_clients))
        took = time.perf_counter() - began
    size = sum(file.stat().st_size for file in folder.iterdir())
    facts = {"clients": people.num_clients, "examples": int(people.offsets[-1]), "bytes": size}
    return {**facts, "seconds": took, "bytes_a_second": size / took, **peaks}


def trained(people: fl.Population, cohort: int, warm: int, num_rounds: int) -> dict[str, Any]:
    """Rounds of `fl.train`: the time of those after the first ones, what they compiled, and peaks of memory."""
    rounds, model = composed(cohort)
    compiled: list[float] = []

    def count(event: str, duration_secs: float, **_: Any) -> None:
        del duration_secs
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(time.perf_counter())

    jax.monitoring.register_event_duration_secs_listener(count)
    ends: list[float] = []
    with _watched() as peaks:
        state = rounds.init(model.init(jax.random.key(0)), people, key=jax.random.key(1))
        history = fl.train(
            rounds,
            state,
            people,
            num_rounds=warm + num_rounds,
            rounds_per_dispatch=1,
            progress=False,
            observers=[lambda record, state: ends.append(time.perf_counter())],
        )
    took = np.diff(ends)[warm - 1 :]
    return {
        "cohort": cohort,
        "rounds": num_rounds,
        "rounds_a_second": len(took) / float(took.sum()),
        "median_ms": float(np.median(took)) * 1e3,
        "loss": [history.records[0]["loss"], history.records[-1]["loss"]],
        "compilations_after_the_first_rounds": sum(at > ends[warm - 1] for at in compiled),
        **peaks,
    }


def compared(people: fl.Population, cohort: int, num_rounds: int, turns: int) -> dict[str, Any]:
    """The same rounds by `fl.train`, in turns: of a population on a disk, and of the same one in memory."""
    rounds, model = composed(cohort)
    places = {"memory": people.in_memory(), "stream": people}
    rates: dict[str, list[float]] = {name: [] for name in places}
    last: dict[str, Any] = {}
    for turn in range(turns + 1):
        for name, population in places.items():
            state = rounds.init(model.init(jax.random.key(0)), population, key=jax.random.key(1))
            history = fl.train(rounds, state, population, num_rounds=num_rounds, progress=False)
            seconds = sum(record["seconds"] for record in history.records)
            if turn:  # the first one compiles
                rates[name].append(num_rounds / seconds)
            last[name] = rounds.params(history.state)
    same = jax.tree.map(lambda one, other: bool((np.asarray(one) == np.asarray(other)).all()), *last.values())
    ratios = [stream / memory for stream, memory in zip(rates["stream"], rates["memory"], strict=True)]
    return {
        "clients": people.num_clients,
        "cohort": cohort,
        "rounds_a_second": rates,
        "stream_over_memory": ratios,
        "median_stream_over_memory": float(np.median(ratios)),
        "same_bits": all(jax.tree.leaves(same)),
    }


@contextlib.contextmanager
def _watched() -> Generator[dict[str, int]]:
    """Peaks of memory of this process for the time of a `with`, looked at ten times a second."""
    peaks, done = {"resident_peak": 0, "own_peak": 0}, threading.Event()

    def look() -> None:
        while not done.wait(0.1):
            now = _status()
            peaks.update(
                resident_peak=max(peaks["resident_peak"], now.get("VmRSS", 0)),
                own_peak=max(peaks["own_peak"], now.get("RssAnon", 0)),
            )

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        done.set()
        thread.join()


def _status() -> dict[str, int]:
    """What the system says of this process's memory, in bytes; nothing where it does not tell."""
    file = Path("/proc/self/status")
    lines = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[0] in ("VmRSS:", "RssAnon:")}


def opened(folder: Path) -> dict[str, float]:
    """Seconds to open a folder of many clients without features to speak of, and to find one of them by name."""
    began = time.perf_counter()
    people = fl.Population.open(folder)
    at = time.perf_counter()
    people.index_of(f"client {people.num_clients // 3}")
    return {"clients": people.num_clients, "open": at - began, "find": time.perf_counter() - at}


def many(folder: Path, num_clients: int) -> dict[str, Any]:
    """Writes clients of one number each, with names, and opens them."""
    one = np.zeros(1, np.uint8)
    began = time.perf_counter()
    fl.Population.write(folder, ((f"client {i}", {"y": one}) for i in range(num_clients)))
    return {"write": time.perf_counter() - began, **opened(folder)}
