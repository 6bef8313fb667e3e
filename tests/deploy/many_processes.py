"""A deployed run of many processes over loopback, in which anybody may be killed: what the tests of whole runs share."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from small_deployments import chosen

import fedjaxlite as fl
from fedjaxlite.cli.deploying import composing

LIBRARY = Path(fl.__file__).parents[1]

# A device's process: the one file, and no way to the library or to what algorithms are written with.
BARE = """
import importlib.abc, runpy, sys
NAMES = {"fedjaxlite", "flax", "optax", "chex", "orbax", "tensorflow", "tensorflow_datasets"}
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in NAMES:
            raise ModuleNotFoundError(f"a device has no {name}", name=name)
sys.meta_path.insert(0, Absent())
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    assert not NAMES & {name.split(".")[0] for name in sys.modules}, "the library is here"
"""


class Place(NamedTuple):
    """Where a run happens: a folder with config.toml, the device's file and everybody's own folder."""

    folder: Path
    port: int
    environment: Mapping[str, str]


def prepared(folder: Path, config: str, port: int) -> Place:
    """A folder with a config file, the device's one file, and each client's data."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(config)
    fl.deploy.write_device(folder / "device.pyz")
    (folder / "bare.py").write_text(BARE)
    population = composing.deployed(folder / "config.toml", simulated=True).job.population
    for client in range(population.num_clients):
        own = population.client(client)
        np.savez(folder / f"data-{client}.npz", **{name: np.asarray(own[name]) for name in population.features})
    keep = ("PATH", "HOME", "JAX_COMPILATION_CACHE_DIR", "JAX_PLATFORMS", "TMPDIR", "FEDJAXLITE_DATA")
    environment = {name: os.environ[name] for name in keep if name in os.environ}
    return Place(folder, port, {**environment, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"})


def serving(place: Place, *python: str) -> "subprocess.Popen[bytes]":
    """The server's process; `python` are words for the interpreter in the place of `-m fedjaxlite`."""
    words = ["serve", "config.toml", "--out", "server", "--port", str(place.port)]
    command = [sys.executable, *(python or ("-m", "fedjaxlite")), *words]
    environment = {**place.environment, "PYTHONPATH": str(LIBRARY)}
    with (place.folder / "serve.log").open("ab") as log:
        return subprocess.Popen(command, cwd=place.folder, env=environment, stdout=log, stderr=subprocess.STDOUT)


def tokens(place: Place, number: int) -> list[str]:
    """New tokens of the server's owner."""
    command = [sys.executable, "-m", "fedjaxlite", "enroll", "server", "--tokens", str(number)]
    environment = {**place.environment, "PYTHONPATH": str(LIBRARY)}
    told = subprocess.run(command, cwd=place.folder, env=environment, capture_output=True, text=True, check=True)
    return told.stdout.split()


def on_device(place: Place, client: int, *words: str) -> "subprocess.Popen[bytes]":
    """A device's process, in a folder of its own."""
    own = place.folder / f"device-{client}"
    own.mkdir(exist_ok=True)
    command = [sys.executable, "-I", "../bare.py", "../device.pyz", *words]
    with (own / "device.log").open("ab") as log:
        return subprocess.Popen(command, cwd=own, env=dict(place.environment), stdout=log, stderr=subprocess.STDOUT)


def joining(place: Place, client: int) -> "subprocess.Popen[bytes]":
    """A device that takes part."""
    return on_device(place, client, "join", "--home", ".", "--data", f"../data-{client}.npz")


def records(place: Place) -> list[dict[str, Any]]:
    """What the server has written so far."""
    path = place.folder / "server" / "run" / "records.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:  # the last one, half written
            break
    return found


def wait_for(what: Callable[[], Any], seconds: float) -> Any:
    """What a function gives once it gives something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = what()
        if found:
            return found
        time.sleep(0.05)
    raise TimeoutError(f"nothing within {seconds} seconds")


def kill(process: "subprocess.Popen[bytes]") -> None:
    """SIGKILL, at whatever it does."""
    process.send_signal(signal.SIGKILL)
    process.wait()


def played(place: Place, num_clients: int, *, rounds: int, server_kills: int, seed: int, seconds: float) -> list[Any]:
    """A run to its end: clients are killed and come back, leave and join; the server is killed so many times."""
    draw = random.Random(seed)
    server = serving(place)
    log = place.folder / "serve.log"
    wait_for(lambda: b"listening" in log.read_bytes(), 120)
    enrolling = [
        on_device(place, u, "enroll", "--home", ".", "--server", f"127.0.0.1:{place.port}", "--token", token)
        for u, token in enumerate(tokens(place, num_clients))
    ]
    for process in enrolling:
        assert process.wait(timeout=240) == 0, (place.folder / "device-0" / "device.log").read_text()
    # The server numbers its clients in the order in which they came: each trains on the data of its number.
    numbers = [
        json.loads((place.folder / f"device-{u}" / "device.json").read_text())["client"] for u in range(num_clients)
    ]
    for u, number in enumerate(numbers):
        (place.folder / f"device-{u}").rename(place.folder / f"was-{number}")
    for number in numbers:
        (place.folder / f"was-{number}").rename(place.folder / f"device-{number}")
    away = set(draw.sample(range(num_clients), num_clients // 5))
    devices = {u: joining(place, u) for u in range(num_clients) if u not in away}
    kills_at = sorted(draw.sample(range(1, rounds), server_kills))
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end and len(records(place)) < rounds:
            time.sleep(draw.uniform(0.5, 2.0))
            for u, process in list(devices.items()):
                if process.poll() is not None:
                    devices[u] = joining(place, u)
            u = draw.choice(sorted(devices))
            match draw.randrange(4):
                case 0 if len(devices) > num_clients // 2:
                    kill(devices.pop(u))
                    away.add(u)
                case 1:
                    devices[u].send_signal(signal.SIGSTOP)
                    time.sleep(draw.uniform(0.1, 1.5))
                    devices[u].send_signal(signal.SIGCONT)
                case 2 if away:
                    back = draw.choice(sorted(away))
                    away.discard(back)
                    devices[back] = joining(place, back)
                case _:
                    pass
            if kills_at and len(records(place)) >= kills_at[0]:
                kills_at.pop(0)
                kill(server)
                server = serving(place)
        return records(place)
    finally:
        for process in (*devices.values(), server):
            kill(process)


def simulated(place: Place, told: list[dict[str, Any]]) -> Any:
    """The run of `rounds.step` from the same keys, with the cohorts that came about."""
    found = composing.deployed(place.folder / "config.toml", simulated=True)
    job, capacity = found.job, found.job.rounds.sampler.capacity
    sampler = chosen([record["clients"] for record in told], capacity)
    rounds = fl.rounds(
        job.rounds.algorithm,
        sampler=sampler,
        aggregator=job.rounds.aggregator,
        execution=fl.Execution(lanes=1, devices=1),
    )
    state = rounds.init(job.params, job.population, key=composing.key_of(job.settings))
    for _ in told:
        state, _ = rounds.step(state, job.population)
    return rounds.params(state)


def deployed_params(place: Place) -> Any:
    """The model that the server ended with."""
    from fedjaxlite.deploy.server.disk.journal import open_at
    from fedjaxlite.deploy.server.disk.resuming import resume

    found = composing.deployed(place.folder / "config.toml")
    job = found.job
    server = fl.deploy.Server(
        *(job.rounds, job.params, job.population),
        program=composing.program_of(found),
        key=composing.key_of(job.settings),
        num_rounds=job.settings.rounds,
        settings=composing.server_settings(found),
    )
    state = resume(server, open_at(place.folder / "server" / "run", keep=2), 0.0)
    return job.rounds.algorithm.params(state.rounds.server_state)


def difference(a: Any, b: Any) -> float:
    """The largest between two models."""
    return float(max(jnp.abs(x - y).max() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)))


def compared(place: Place) -> float:
    """The difference between the model that was deployed and the simulated one, found in a process of its own.

    The flags of the test suite give XLA's programs other last bits than those of the processes that ran.
    """
    environment = {**place.environment, "PYTHONPATH": str(LIBRARY)}
    command = [sys.executable, __file__, str(place.folder)]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(told.stdout)


def _main(folder: str) -> None:
    place = Place(Path(folder), 0, {})
    sys.stdout.write(f"{difference(deployed_params(place), simulated(place, records(place)))}\n")


if __name__ == "__main__":
    _main(sys.argv[1])
