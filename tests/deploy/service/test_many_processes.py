"""Whole deployed runs: a server and devices as processes of their own, which are killed, come back, leave and join."""

import socket
from pathlib import Path

import many_processes as many
import numpy as np
import pytest

WIRE = {
    "fed_avg": "",
    "scaffold": 'algorithm = "scaffold"\n',
    "quantize": 'aggregator = "mean"\nclip_norm = 2.0\nquantize_bits = 16\n',
    "masked": 'aggregator = "mean"\nclip_norm = 2.0\nquantize_bits = 16\nsecure_sum = true\n',
}
SERVE = """
[serve.data]
clients = 4
capacity = MOST
classes = 10
[serve.data.features]
x = "float32[8, 8, 1]"
y = "int32"
[serve]
"""


def config(wire: str, *, clients: int, cohort: int, rounds: int) -> str:
    return f"""[arguments]
dataset = "digits"
clients = {clients}
partition = "dirichlet:0.5"
model = "logistic"
cohort = {cohort}
rounds = {rounds}
epochs = 1
client_lr = 0.1
{WIRE[wire]}
[serve]
wait = 0.5
deadline = 10.0
stage = 5.0
min_reports = {max(2, cohort // 3)}
min_waiting = {max(2, 8 * cohort // 10)}
presence = 6.0
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def held_to_the_simulation(folder: Path, wire: str, *, clients: int, cohort: int, rounds: int, kills: int) -> None:
    place = many.prepared(folder, config(wire, clients=clients, cohort=cohort, rounds=rounds), free_port())
    told = many.played(place, clients, rounds=rounds, server_kills=kills, seed=1, seconds=60 + 60 * rounds)
    assert [record["round"] for record in told] == list(range(1, rounds + 1))
    assert all(0 < record["reported"] <= cohort for record in told)
    found = many.compared(place)
    print(f"{wire}: {rounds} rounds of {clients} processes, difference {found}")
    assert found <= (0.0 if wire in ("quantize", "masked") else 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("wire", WIRE)
def test_a_run_of_processes_that_are_killed_is_the_simulated_run(wire: str, tmp_path: Path) -> None:
    held_to_the_simulation(tmp_path, wire, clients=6, cohort=3, rounds=5, kills=3)


@pytest.mark.slow
@pytest.mark.parametrize("wire", WIRE)
def test_twenty_processes_thirty_rounds(wire: str, tmp_path: Path) -> None:
    held_to_the_simulation(tmp_path, wire, clients=20, cohort=10, rounds=30, kills=3)


UPGRADED = """
import runpy, sys
import jax
jax.__version__ = "99.0.0"
sys.argv[0] = "fedjaxlite"
runpy.run_module("fedjaxlite", run_name="__main__")
"""


@pytest.mark.slow
def test_a_server_without_data_that_is_upgraded_in_the_middle_is_the_simulated_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = config("quantize", clients=4, cohort=3, rounds=5).replace('0.5"', '1"').replace("[serve]\n", SERVE)
    place = many.prepared(tmp_path, text.replace("MOST", "1"), free_port())
    most = max(len(np.load(tmp_path / f"data-{u}.npz")["y"]) for u in range(4))
    (tmp_path / "config.toml").write_text(text.replace("MOST", f"{most}"))
    start, words = many.serving, iter([(), ("-c", UPGRADED)])
    monkeypatch.setattr(many, "serving", lambda place: start(place, *next(words)))
    told = many.played(place, 4, rounds=5, server_kills=1, seed=1, seconds=240)
    assert [record["round"] for record in told] == list(range(1, 6))
    assert (tmp_path / "serve.log").read_text().count("listening on") == 2
    assert many.compared(place) == 0.0
