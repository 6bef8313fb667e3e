"""LoRA: what adapters are, what is trained and sent, against NumPy."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.algorithms import lora
from fedjaxlite.algorithms.pieces.leaves import by_name

RATE, ALPHA, RANK = 0.01, 4.0, 2
SCALE = ALPHA / RANK
PEOPLE = helpers.regression((4, 9, 6))
BASE = {"kernel": jnp.float32([[0.3, -0.2], [0.1, 0.4], [0.0, 0.5]]), "table": jnp.arange(41, dtype=jnp.float32)}
START = lora.Adapted(BASE, lora.init(BASE, rank=RANK, key=jax.random.key(1)))


def loss(params: Any, batch: Any, key: Any) -> Any:
    """`[B]`: squared error of the sum of a matrix's outputs, and of one entry of a table."""
    del key
    return ((batch["x"] @ params["kernel"]).sum(1) + params["table"][3] - batch["y"]) ** 2


def make(loss: Any) -> fl.Algorithm:
    return algorithms.fed_avg(loss, client_optimizer=optax.sgd(RATE), batch_size=None, epochs=2)


def by_hand(freeze_a: bool) -> tuple[np.ndarray, np.ndarray]:
    """Both matrices after one round of two full-batch steps for each client."""
    first = [np.asarray(part, np.float64) for part in START.adapters["kernel"]]
    ends, sizes = [], []
    for k in range(PEOPLE.num_clients):
        data = PEOPLE.client(k)
        x, y = np.asarray(data["x"], np.float64), np.asarray(data["y"], np.float64)
        a, b = first
        for _ in range(2):
            kernel = np.asarray(BASE["kernel"], np.float64) + SCALE * a @ b
            residual = 2 * ((x @ kernel).sum(1) + 3.0 - y) / len(y)
            change = np.outer(x.T @ residual, np.ones(2))
            a, b = a - (0 if freeze_a else RATE * SCALE) * change @ b.T, b - RATE * SCALE * a.T @ change
        ends.append((a, b))
        sizes.append(len(y))
    return tuple(np.average([end[i] for end in ends], axis=0, weights=sizes) for i in range(2))


@pytest.mark.parametrize("freeze_a", [False, True])
def test_a_round_against_numpy(freeze_a) -> None:
    algorithm = lora.federated(make, loss, alpha=ALPHA, freeze_a=freeze_a)
    execution = fl.Execution(lanes=3, devices=1)
    run, state, _ = helpers.one_run(algorithm, PEOPLE, START, execution=execution)
    a, b = by_hand(freeze_a)
    got = state.params.adapters["kernel"]
    np.testing.assert_allclose(got.a, a, atol=1e-5)
    np.testing.assert_allclose(got.b, b, atol=1e-5)
    assert np.abs(b).max() > 0.01
    assert helpers.max_difference(state.params.base, BASE) == 0
    entries = RANK * 2 if freeze_a else RANK * (3 + 2)
    assert run.traffic(START, PEOPLE) == (4 * entries + 4, 4 * entries)
    if not freeze_a:
        program = run.lower(state, PEOPLE).as_text()
        assert "tensor<41xf32>" in program
        assert "tensor<3x41xf32>" not in program  # three lanes, one base


def test_adapters_change_nothing_at_first_and_their_product_afterwards() -> None:
    assert helpers.max_difference(lora.merge(BASE, START.adapters, alpha=ALPHA), BASE) == 0
    assert START.adapters["table"] is None
    deep = {"conv": jnp.ones((3, 3, 4, 8), jnp.bfloat16), "bias": jnp.zeros(8)}
    adapters = lora.init(deep, rank=3, where=by_name("conv"), key=jax.random.key(0))
    assert (adapters["conv"].a.shape, adapters["conv"].b.shape) == ((36, 3), (3, 8))
    other = {"conv": adapters["conv"]._replace(b=jnp.ones((3, 8), jnp.bfloat16)), "bias": None}
    merged = lora.merge(deep, other, alpha=6.0)["conv"]
    assert (merged.dtype, merged.shape) == (jnp.bfloat16, (3, 3, 4, 8))
    change = 2.0 * np.asarray(adapters["conv"].a, np.float64).sum(1).reshape(3, 3, 4, 1)
    np.testing.assert_allclose(np.asarray(merged, np.float64), 1 + np.broadcast_to(change, merged.shape), atol=0.05)


def test_the_drawn_matrix_has_variance_one_over_its_rows() -> None:
    a = lora.init({"k": jnp.zeros((400, 50))}, rank=50, key=jax.random.key(0))["k"].a
    # 20,000 normals: the standard error of the standard deviation is 0.5%, so four of them are one in 16,000.
    assert float(jnp.std(a)) == pytest.approx(400**-0.5, rel=0.02)


def test_state_of_the_base_is_frozen_too() -> None:
    base = fl.Variables({"k": jnp.ones((2, 1))}, {"mean": jnp.float32(0)})
    model = lora.Adapted(base, lora.init(base, rank=1, key=jax.random.key(0)))
    stateful = lambda p, batch, key: (batch["x"] @ p.params["k"][:, 0] + p.state["mean"], fl.LossAux(state=p.state))  # noqa: E731
    declared = lora.lora_loss(fl.losses.declare(stateful, cross_example=True), alpha=1.0)
    losses, aux = declared(model, {"x": jnp.ones((3, 2))}, None)
    assert losses.tolist() == [2.0, 2.0, 2.0]
    assert aux.state is None
    assert declared.cross_example


def test_arguments() -> None:
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="`where` chooses none of the leaves kernel, table; expected at least one"):
        lora.init(BASE, rank=1, key=key, where=by_name("head"))
    with pytest.raises(
        ValueError, match=r"`where` chooses table, which is float32\[41\]; expected floats with two axes"
    ):
        lora.init(BASE, rank=1, key=key, where=by_name("table"))
    with pytest.raises(ValueError, match="`rank` is 3, and kernel is a matrix of 3 by 2; expected at most 2"):
        lora.init(BASE, rank=3, key=key)
    with pytest.raises(ValueError, match="`rank` is 0; expected an int of at least 1"):
        lora.init(BASE, rank=0, key=key)
    with pytest.raises(ValueError, match="`alpha` is 0; expected a finite number above 0"):
        lora.federated(make, loss, alpha=0)
    with pytest.raises(TypeError, match=r"the params are a dict; expected lora.Adapted\(base, lora.init"):
        lora.federated(make, loss, alpha=1.0).init(BASE)
