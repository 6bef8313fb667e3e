"""The cost model of docs/scale.md: bytes and steps are those of `fl.plan`, and its sums are right."""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite import algorithms

PAGE = Path(__file__).resolve().parents[2] / "docs" / "scale.md"
N, K, P, EXAMPLES, EPOCHS, BATCH, WIDTH = 12, 3, 5, 7, 2, 4, 5
KEYS = 200
"""The bytes of keys, flags and the number of rounds that every state has, at most."""


@pytest.fixture(scope="module")
def people() -> fl.Population:
    x = np.ones((N * EXAMPLES, WIDTH), np.float32)
    return fl.Population.from_arrays({"x": x}, client_ids=np.repeat(np.arange(N), EXAMPLES))


def planned(people: fl.Population, algorithm: fl.Algorithm, aggregator: fl.Aggregator) -> Any:
    run = fl.rounds(algorithm, sampler=fl.sampling.uniform(K), aggregator=aggregator, execution=fl.Execution(devices=1))
    return fl.plan(run, jnp.zeros(P), people, lanes_options=[1], budget_seconds=0.01)


def loss(params, batch, key):
    return (batch["x"] @ params) ** 2


def test_bytes_and_steps_without_client_states(people) -> None:
    algorithm = algorithms.fed_avg(
        loss,
        client_optimizer=optax.sgd(0.1),
        server_optimizer=optax.sgd(1.0, momentum=0.9),
        batch_size=BATCH,
        epochs=EPOCHS,
    )
    costs = planned(people, algorithm, fl.weighted_mean())
    assert costs.local_steps == K * EPOCHS * -(-EXAMPLES // BATCH)
    assert (costs.bytes_up, costs.bytes_down) == (4 * P + 4, 4 * P)
    assert costs.data_bytes == N * EXAMPLES * 4 * WIDTH + 4 * (N + 1)
    assert 0 < costs.state_bytes - (1 + 1) * 4 * P < KEYS  # the model, and the momentum


def test_bytes_of_client_states(people) -> None:
    algorithm = algorithms.scaffold(loss, num_clients=N, client_lr=0.1, batch_size=BATCH, epochs=EPOCHS)
    costs = planned(people, algorithm, fl.mean())
    state = 4 * P
    assert 0 < costs.state_bytes - (1 + 1) * 4 * P - N * state < KEYS  # the model, and the server's control variate


def rows() -> dict[str, str]:
    """What stands in each row of the table of a hundred million clients."""
    text = PAGE.read_text(encoding="utf-8").partition("## Extrapolated")[2]
    found = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", text, flags=re.MULTILINE)
    return {name.strip(): f"{value} {meaning}" for name, value, meaning in found}


def test_the_sums_of_the_extrapolation() -> None:
    clients, cohort, model, examples, row = 10**8, 10**4, 4 * 10**6, 100, 400
    size, told = 4 * model, rows()
    sums = {
        "data": [(clients * examples * row / 1e12, "4 TB"), (cohort * examples * row / 1e6, "400 MB")],
        "offsets": [(8 * clients / 1e6, "800 MB on the host"), (4 * clients / 1e6, "400 MB")],
        "names of clients": [(8 * clients / 1e9, "0.8 GB"), (4 * 36 * clients / 1e9, "14.4 GB")],
        "local work": [(6 * model * cohort * examples / 1e13, "2.4 10^13 FLOP"), (2.4e13 / 4e14, "0.06 s")],
        "clients' states, SCAFFOLD": [(clients * size / 1e15, "1.6 PB")],
        "a server's traffic": [(cohort * size / 1e9, "160 GB up"), (2 * cohort * size * 8 / 60 / 1e9, "43 Gbit/s")],
        "secure sum, all neighbors": [(cohort**2 / 2 * size / 1e12, "800 TB"), (22 * cohort * size / 1e12, "3.5")],
        "one pass over everybody": [(clients / cohort / 1e4, "10^4 rounds")],
    }
    for name, found in sums.items():
        for value, text in found:
            assert text in told[name], (name, text)
            number = float(re.match(r"[\d.]+", text)[0])
            if not text.startswith("10^"):
                assert number == pytest.approx(value, rel=0.02), (name, text)


def test_the_draw_of_the_page_is_small_whatever_the_population() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert "| `uniform` | 0.6 ms | 0.6 ms | 0.6 ms | 0.1 MB |" in page
    shapes = fl.Population.tree_unflatten(1, ({}, jax.ShapeDtypeStruct((10**8 + 1,), jnp.int32)))
    sample = lambda key: fl.sampling.uniform(1000).sample(key, 0, shapes).ids  # noqa: E731
    assert jax.jit(sample).lower(jax.random.key(0)).compile().memory_analysis().temp_size_in_bytes < 0.1e6
