"""A transformer of 1.3 billion parameters, which no chip of a TPU v5e holds in training, on sixteen of them: 4 x 4.

Four groups of chips train clients, the four chips of a group each client together.
"""

from typing import Any

import collectives
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite.execution.layout import resolve
from fedjaxlite.rehearsal import programs
from fedjaxlite.rehearsal.absent import devices_of
from fedjaxlite.rehearsal.targets import target_named

LAYERS, WIDTH, HEADS, HIDDEN, TOKENS, LENGTH = 24, 2048, 16, 8192, 32768, 512
SPECS = {
    "qkv": jax.P(None, None, None, "model"),
    "o": jax.P(None, "model"),
    "up": jax.P(None, None, "model"),
    "down": jax.P(None, "model"),
    "norms": None,
}


def shapes() -> dict[str, Any]:
    of = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)  # noqa: E731
    head = WIDTH // HEADS
    layers = {
        "qkv": of(LAYERS, 3, WIDTH, HEADS, head),
        "o": of(LAYERS, HEADS, head, WIDTH),
        "up": of(LAYERS, WIDTH, HIDDEN),
        "down": of(LAYERS, HIDDEN, WIDTH),
        "norms": of(LAYERS, 2, WIDTH),
    }
    return {"layers": layers, "tokens": of(TOKENS, WIDTH)}


def loss(params: Any, batch: Any, key: jax.Array) -> jax.Array:
    """Of the next token, `[B]`; the layers in a scan that keeps what goes from one to the next."""
    low = lambda leaf: leaf.astype(jnp.bfloat16)  # noqa: E731
    norm = lambda h, scale: h * jax.lax.rsqrt((h * h).mean(-1, keepdims=True) + 1e-6) * scale[None, None]  # noqa: E731
    causal = jnp.tril(jnp.ones((LENGTH, LENGTH), bool))[None, None]

    @jax.checkpoint
    def layer(h: jax.Array, own: Any) -> tuple[jax.Array, None]:
        q, k, v = jnp.einsum("btd,sdhe->sbhte", low(norm(h, own["norms"][0])), low(own["qkv"]))
        scores = jnp.einsum("bhte,bhse->bhts", q, k).astype(jnp.float32) * (WIDTH // HEADS) ** -0.5
        weights = low(jax.nn.softmax(jnp.where(causal, scores, -1e9), axis=-1))
        h = h + jnp.einsum("bhts,bhse,hed->btd", weights, v, low(own["o"])).astype(jnp.float32)
        inner = jax.nn.gelu(low(norm(h, own["norms"][1])) @ low(own["up"]))
        return h + (inner @ low(own["down"])).astype(jnp.float32), None

    table = params["tokens"]
    h, _ = jax.lax.scan(layer, table[batch["x"]], params["layers"])
    logits = (low(h) @ low(table).T).astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], batch["x"][:, 1:]).mean(-1)


@pytest.mark.accelerators
def test_a_model_larger_than_a_chip(record_property: Any) -> None:
    target = target_named("v5e:4x4")
    mesh = jax.sharding.Mesh(np.asarray(devices_of(target)).reshape(4, 4), ("clients", "model"))
    specs = {"layers": SPECS, "tokens": jax.P("model")}
    execution = fl.Execution(lanes=1, mesh=mesh, param_shardings=specs, donate=True)
    rows = np.zeros((16 * 8, LENGTH), np.int32)
    people = fl.Population.from_arrays({"x": rows}, client_ids=np.repeat(np.arange(16), 8))
    algorithm = fl.algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.1), batch_size=1, epochs=1)
    run = fl.rounds(algorithm, sampler=fl.sampling.uniform(8), aggregator=fl.weighted_mean(), execution=execution)
    state = programs.first_shapes(run, shapes(), people)
    compiled = programs.compiled_for(programs.lowered(run, state, people, resolve(execution, 8)), "tpu")

    memory, size = programs.memory_of(compiled), 4 * sum(leaf.size for leaf in jax.tree.leaves(shapes()))
    found = collectives.exchanges(compiled.as_text(), {"clients": 4, "model": 4})
    over_clients = [each for each in found if each.axes == ("clients",)]
    record_property(
        "kernels",
        f"{size / 4e9:.2f} billion parameters on v5e:4x4 as 4 x 4: {memory.total / 2**30:.1f} GiB a chip "
        f"({memory.arguments / 2**30:.1f} of arguments, {memory.temporaries / 2**30:.1f} of temporaries), "
        f"{len(over_clients)} all-reduces of {sum(each.num_bytes for each in over_clients) / 1e9:.2f} GB over clients, "
        f"{sum(each.axes == ('model',) and each.in_loop for each in found)} collectives in loops within a group",
    )
    assert memory.total < target.chip.usable
    assert 4 * size > target.chip.usable  # the model, a lane's copy, its gradient and the sum of updates
    assert all(each.axes in (("clients",), ("model",)) for each in found)
    assert not any(each.in_loop for each in over_clients)
    assert {each.kind for each in over_clients} == {"all-reduce"}
    large = sum(each.num_bytes for each in over_clients)
    assert size / 4 <= large < 1.1 * size / 4  # each chip sums its own quarter of the model, once
