"""A run goes on with more or fewer devices than it had: the clients' states move to those that own them then."""

import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import needs_devices

import fedjaxlite as fl
from fedjaxlite import algorithms

pytestmark = pytest.mark.usefixtures("no_pictures")

CLIENTS = 10  # four devices keep 12 states, three 12, two 10
OWNER = np.repeat(np.arange(CLIENTS), 3)
X = np.random.default_rng(0).normal(size=(len(OWNER), 3)).astype(np.float32)
PEOPLE = fl.Population.from_arrays({"x": X, "y": X.sum(1)}, client_ids=OWNER)


def loss(params: Any, batch: Any, key: Any) -> Any:
    return (batch["x"] @ params - batch["y"]) ** 2


SCAFFOLD = algorithms.scaffold(loss, num_clients=CLIENTS, client_lr=0.05, batch_size=3, epochs=1)
ALGORITHM = SCAFFOLD._replace(init_client=lambda params: jax.tree.map(lambda leaf: 0 * leaf + 0.5, params))


def trained(devices: int, num_rounds: int, folder: Path) -> fl.RoundState:
    run = fl.rounds(
        ALGORITHM,
        sampler=fl.sampling.uniform(4),
        aggregator=fl.mean(),
        execution=fl.Execution(lanes=1, devices=devices, deterministic=True),
    )
    state = run.init(np.zeros(3, np.float32), PEOPLE, key=jax.random.key(0))
    options: dict[str, Any] = {"num_rounds": num_rounds, "rounds_per_dispatch": 1, "progress": False, "resume": True}
    return fl.train(run, state, PEOPLE, out_dir=folder, **options).state


@needs_devices(4)
def test_client_states_go_on_with_other_devices(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    way = (4, 2, 4)
    whole = trained(4, 6, tmp_path / "whole")
    with caplog.at_level(logging.WARNING, "fedjaxlite"):
        states = [trained(devices, 2 * i, tmp_path / "moved") for i, devices in enumerate(way, start=1)]
    state = states[-1]
    assert f"devices is {way[1]} and was {way[0]}" in caplog.text
    np.testing.assert_allclose(state.server_state.params, whole.server_state.params, rtol=1e-5, atol=1e-6)
    (bank,), (expected,) = jax.tree.leaves(state.clients), jax.tree.leaves(whole.clients)
    assert bank.shape[0] == -(-CLIENTS // way[-1]) * way[-1]
    np.testing.assert_allclose(bank[:CLIENTS], expected[:CLIENTS], rtol=1e-5, atol=1e-6)
    assert np.abs(bank[:CLIENTS]).max() > 0
    np.testing.assert_array_equal(bank[CLIENTS:], np.full_like(expected[CLIENTS:], 0.5))
