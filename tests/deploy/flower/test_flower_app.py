"""The Flower app on the real package: a SuperLink and three SuperNodes over loopback, beside `rounds.step`.

`FEDJAXLITE_FLOWER_PYTHON` names a Python that has flwr, jax, flatbuffers and optax; without it this one is tried.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import flower_runs
import jax
import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite.deploy.flower import export_flower
from fedjaxlite.deploy.program.client_program import client_program
from fedjaxlite.storage import read_npz

VARIABLE = "FEDJAXLITE_FLOWER_PYTHON"
NEEDED = ("flwr", "jax", "flatbuffers", "optax")
ROUNDS, SECONDS = 3, 300
MARK = "FEDJAXLITE_TEST_OF_FLOWER"


def python_of_flower() -> Path:
    python = os.environ.get(VARIABLE, sys.executable)
    wanted = f"from importlib.util import find_spec; print([m for m in {NEEDED} if not find_spec(m)])"
    missing = subprocess.run([python, "-c", wanted], capture_output=True, text=True, check=True).stdout.strip()
    if missing != "[]":
        pytest.skip(f"{python} does not have {missing}; {VARIABLE} may name a Python that has {', '.join(NEEDED)}.")
    return Path(python)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def marked(mark: str) -> list[int]:
    """The processes that inherited a mark in their environment: Flower starts some in sessions of their own."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            with contextlib.suppress(OSError):
                if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
    return found


@contextlib.contextmanager
def all_ended(mark: str) -> Iterator[None]:
    """Ends what was started under a mark, children that outlive their parents too."""
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in marked(mark):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, number)
            until = time.monotonic() + 10
            while marked(mark) and time.monotonic() < until:
                time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds Flower's processes in /proc")
@pytest.mark.parametrize("algorithm", ["fed_avg", "scaffold"])
def test_an_app_on_flower_trains_as_the_simulation(algorithm, tmp_path):
    python = python_of_flower()
    people = flower_runs.clients()
    rounds, params, data = flower_runs.digits(algorithm)
    key = jax.random.key(7)
    app = export_flower(
        client_program(rounds, params, data),
        tmp_path / "app",
        made_by="flower_runs:digits",
        arguments={"algorithm": algorithm},
        key=key,
        num_rounds=ROUNDS,
    )
    for client in range(people.num_clients):
        np.savez(tmp_path / f"client-{client}.npz", **people.select([client]).features)
    log = run_on_flower(python, app.folder, tmp_path, people.num_clients)
    results = app.folder / "server" / "results"
    assert (results / "params.npz").is_file(), log
    records = [json.loads(line) for line in (results / "records.jsonl").read_text().splitlines()]
    assert [record["num_reported"] for record in records] == [3] * ROUNDS, log
    found, header = read_npz(results / "params.npz")
    assert header == {"round": ROUNDS}
    once = fl.Execution(lanes=1, devices=1)
    here = fl.rounds(rounds.algorithm, sampler=rounds.sampler, aggregator=rounds.aggregator, execution=once)
    state = here.init(params, people, key=key)
    for _ in range(ROUNDS):
        state, _ = here.step(state, people)
    simulated = jax.tree.leaves(here.params(state))
    gaps = [float(np.abs(a - np.asarray(b)).max()) for a, b in zip(found.values(), simulated, strict=True)]
    moved = max(
        float(np.abs(a - np.asarray(b)).max()) for a, b in zip(found.values(), jax.tree.leaves(params), strict=True)
    )
    print(f"{algorithm}: largest difference {max(gaps):.2e}, the model moved by {moved:.2f}; {records}")
    assert max(gaps) < 1e-6
    assert moved > 0.01


def run_on_flower(python: Path, app: Path, folder: Path, num_clients: int) -> str:
    """Starts a SuperLink and SuperNodes, runs the app, and waits for its last model; what all of them said."""
    mark = f"{os.getpid()}-{folder.name}"
    home, programs = folder / "home", python.parent
    runtime, *nodes = free_ports(1 + num_clients)
    home.mkdir()
    config = f'[superlink]\ndefault = "loop"\n\n[superlink.loop]\naddress = "127.0.0.1:{runtime}"\ninsecure = true\n'
    (home / "config.toml").write_text(config)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_", "PYTHON"))}
    environment = {
        **kept,
        MARK: mark,
        "FLWR_HOME": str(home),
        "HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "JAX_PLATFORMS": "cpu",
        "PATH": f"{programs}{os.pathsep}{kept.get('PATH', '')}",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "jax"),
    }
    for_server = {**environment, "PYTHONPATH": str(Path(fl.__file__).parents[1])}
    logs, started = folder / "logs", list[subprocess.Popen]()
    logs.mkdir()

    def start(name: str, command: list[str], given: dict[str, str], cwd: Path = folder) -> subprocess.Popen:
        with (logs / name).open("w") as log:
            program = [str(programs / command[0]), *command[1:]]
            started.append(subprocess.Popen(program, cwd=cwd, env=given, stdout=log, stderr=subprocess.STDOUT))
        return started[-1]

    with all_ended(mark):
        link = ["flower-superlink", "--insecure", "--disable-runtime-dependency-installation"]
        start("link", [*link, "--host", "127.0.0.1", "--port", str(runtime)], for_server)
        for client, port in enumerate(nodes):
            node = ["flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{runtime}", "--port", str(port)]
            data = f'partition-id={client} data="{folder}/client-{client}.npz"'
            start(f"node-{client}", [*node, "--node-config", data], environment)
        until = time.monotonic() + 60
        while (logs / "link").read_text().count("Activated") < num_clients and time.monotonic() < until:
            time.sleep(0.5)
        start("run", ["flwr", "run", ".", "loop", "--stream"], environment, app).wait(SECONDS)
        records = app / "server" / "results" / "records.jsonl"
        until = time.monotonic() + 10
        while time.monotonic() < until and not (records.is_file() and len(records.read_text().splitlines()) >= ROUNDS):
            time.sleep(0.5)
    for process in started:
        process.wait(30)
    return "\n".join(f"--- {path.name}\n{path.read_text()[-4000:]}" for path in sorted(logs.iterdir()))
