"""Runs that are deployed, with devices and servers that are killed, beside the simulated run of the same cohorts."""

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import pytest
from playing import Chaos, in_memory, play
from small_deployments import CHAINS, PARAMS, chosen, method, people

import fedjaxlite as fl
from fedjaxlite.deploy.server.building import Server
from fedjaxlite.deploy.server.settings import ServerSettings

SETTINGS = ServerSettings(wait=1.0, presence=30.0, deadline=20.0, stage=5.0, poll=0.1, min_reports=3)


def compare(name: str, chain: str, *, num: int, cohort: int, num_rounds: int, chaos: Chaos, settings: Any) -> Any:
    """Plays a run, and the simulated one of the cohorts that its records tell; the models and all clients are equal."""
    data = people(num)
    parts: Mapping[str, Any] = {"aggregator": CHAINS[chain](), "execution": fl.Execution(lanes=1, devices=1)}
    keys = {"key": jax.random.key(7), "noise_key": jax.random.key(8)}
    rounds = fl.rounds(method(name, num), sampler=fl.sampling.uniform(cohort), **parts)
    server = Server(rounds, PARAMS, data, num_rounds=num_rounds, settings=settings, **keys)
    journal, _, records = in_memory()
    state, disks, messages, seconds = play(server, journal, {u: data.client(u) for u in range(num)}, chaos=chaos)
    assert [record["round"] for record in records] == list(range(1, num_rounds + 1))
    cohorts = [record["clients"] for record in records]
    again = fl.rounds(method(name, num), sampler=chosen(cohorts, cohort), **parts)
    want = again.init(PARAMS, data, **keys)
    for _ in cohorts:
        want, _ = again.step(want, data)
    exact = chain in ("quantize", "mask")
    close = {"rtol": 0, "atol": 0 if exact else 1e-6}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **close), state.rounds.params, want.params)
    bank = [np.asarray(leaf) for leaf in jax.tree.leaves((want.clients.algorithm, want.clients.codec))]
    for u, disk in disks.items():
        assert disk.get("counted", []) == [r for r, c in enumerate(cohorts) if u in c]
        for leaf, rows in zip(disk.get("state", []), bank, strict="state" in disk):
            np.testing.assert_allclose(leaf, rows[u], rtol=0, atol=1e-6)
    return state, records, messages


# Of a secure sum each client sends some twenty messages, so that each may be killed less often.
ROUGH, ROUGH_SUMS = Chaos(killed=0.04, late=0.01, away=0.01), Chaos(killed=0.005, late=0.0005, away=0.001)


def test_a_run_with_kills_is_the_simulated_run_of_its_cohorts() -> None:
    chaos = ROUGH._replace(server=(9, 30, 31, 60, 85))
    settings = SETTINGS._replace(over_select=5)
    compare("fed_avg", "quantize", num=7, cohort=4, num_rounds=4, chaos=chaos, settings=settings)


def test_a_masked_run_with_kills_is_the_simulated_run_of_its_cohorts() -> None:
    chaos = ROUGH_SUMS._replace(server=(40, 150))
    compare("fed_avg", "mask", num=5, cohort=4, num_rounds=3, chaos=chaos, settings=SETTINGS)


def play_long(name: str, chain: str) -> None:
    rough = ROUGH_SUMS if chain == "mask" else ROUGH
    chaos = rough._replace(server=(101, 317, 318, 500, 777, 1200))
    settings = SETTINGS._replace(over_select=10)
    compare(name, chain, num=20, cohort=8, num_rounds=30, chaos=chaos, settings=settings)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "chain"),
    [*(("fed_avg", chain) for chain in CHAINS), ("scaffold", "mean"), ("scaffold", "median")],
)
def test_thirty_rounds_of_twenty_clients_and_a_server_that_is_killed(name: str, chain: str) -> None:
    """To 1e-6 in floats; bit for bit where messages are integers, masked or not, whoever is killed when."""
    play_long(name, chain)


@pytest.mark.slow
@pytest.mark.parametrize("chain", ["quantize", "mask"])
def test_thirty_rounds_of_scaffold_are_equal_bit_for_bit_in_the_code_that_users_have(chain: str) -> None:
    """The kernels that tests are compiled to differ by a last bit here, which rounding makes a step of.

    In a process of its own, without the tests' flags for XLA.
    """
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, __file__, "scaffold", chain], env=environment, check=True)


if __name__ == "__main__":
    play_long(sys.argv[1], sys.argv[2])
