"""Memory of training large models, by XLA's own buffer assignment: nothing runs here, programs are only compiled."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.local.mixed_precision import compute_in
from fedjaxlite.local.rematerialization import rematerialize

LAYERS, WIDTH, BATCH = 32, 128, 512
ACTIVATION = BATCH * WIDTH * 4  # bytes of one layer's output; 256 KiB


def deep_mlp(params: Any, batch: Any, key: Any) -> jax.Array:
    x = batch["x"]
    for layer in params:
        x = jnp.tanh(x @ layer)
    return x.astype(jnp.float32).sum(1)


def scanned_mlp(params: Any, batch: Any, key: Any) -> jax.Array:
    x, _ = jax.lax.scan(lambda x, layer: (jnp.tanh(jnp.sin(x @ layer)), None), batch["x"], params)
    return x.astype(jnp.float32).sum(1)


def temporaries(loss_fn: Any, params: Any, rows: int = BATCH, **options: Any) -> int:
    """Bytes of a gradient's temporaries: the gradient and the parameters are results and arguments."""
    batch = {"x": jax.ShapeDtypeStruct((rows, WIDTH), jnp.float32)}
    args = (params, batch, jax.ShapeDtypeStruct((rows,), bool), jax.eval_shape(lambda: jax.random.key(0)))
    memory: Any = jax.jit(fl.value_and_grad(loss_fn, **options)).lower(*args).compile().memory_analysis()
    return memory.temp_size_in_bytes


DEEP = [jax.ShapeDtypeStruct((WIDTH, WIDTH), jnp.float32)] * LAYERS
SCANNED = jax.ShapeDtypeStruct((LAYERS, WIDTH, WIDTH), jnp.float32)


@pytest.fixture(scope="module")
def plain() -> int:
    return temporaries(deep_mlp, DEEP)


def test_a_plain_gradient_keeps_every_layer(plain: int) -> None:
    assert plain > LAYERS * ACTIVATION


def test_remat_keeps_the_inputs_of_scanned_layers_only() -> None:
    plain, less = (temporaries(scanned_mlp, SCANNED, remat=remat) for remat in (False, True))
    assert plain > 2.5 * LAYERS * ACTIVATION  # three or four values a layer, by the version of JAX
    assert less < 1.25 * LAYERS * ACTIVATION


def kept(loss_fn: Any, params: Any, dtype: Any = None, remat: Any = False) -> int:
    """Bytes of activations that pass from the forward to the backward pass, as JAX arranges it.

    On a CPU, XLA drops the barriers between them and may compute what it likes at once; see docs/large_models.md.
    """
    batch = {"x": jax.ShapeDtypeStruct((BATCH, WIDTH), jnp.float32)}
    fn = rematerialize(compute_in(loss_fn, dtype), remat)
    passed = jax.eval_shape(lambda params, batch: jax.vjp(lambda p: fn(p, batch, None), params)[1], params, batch)
    leaves = [leaf for leaf in jax.tree.leaves(passed) if BATCH in leaf.shape]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def test_remat_passes_a_few_layers_on_to_the_backward_pass() -> None:
    assert kept(deep_mlp, DEEP) >= LAYERS * ACTIVATION
    assert kept(deep_mlp, DEEP, remat=True) < 0.5 * LAYERS * ACTIVATION


def test_a_policy_decides_what_passes() -> None:
    assert kept(deep_mlp, DEEP, remat=jax.checkpoint_policies.nothing_saveable) <= ACTIVATION


def test_bfloat16_halves_what_passes() -> None:
    assert kept(deep_mlp, DEEP, dtype=jnp.bfloat16) <= 0.55 * kept(deep_mlp, DEEP)


def test_a_scan_is_not_computed_once_more_as_a_whole() -> None:
    """What a checkpointed scan keeps are its carries; a cut behind it would save nothing and cost a forward pass."""
    carries = LAYERS * ACTIVATION // 2
    assert carries <= kept(scanned_mlp, SCANNED, dtype=jnp.bfloat16, remat=True) <= 1.1 * carries


def test_micro_batches_keep_a_share_of_the_activations(plain: int) -> None:
    assert temporaries(deep_mlp, DEEP, micro_batch_size=BATCH // 8) < 0.25 * plain


class TestFrozenBase:
    """LoRA on two layers: 8 lanes have 8 adapters and one base."""

    SIDE, RANK, LANES = 512, 4, 8
    BASE = 2 * SIDE * SIDE * 4

    def loss(self, params: Any, batch: Any, key: Any) -> jax.Array:
        x = batch["x"]
        for base, (a, b) in zip(params["base"], params["lora"], strict=True):
            x = jnp.tanh(x @ base.astype(x.dtype) + (x @ a) @ b)
        return x.sum(1)

    def memory(self, frozen: bool, lanes: int) -> Any:
        make = lambda loss: algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.1), batch_size=2)  # noqa: E731
        algorithm = make(self.loss)
        if frozen:
            algorithm = fl.partition_params(make, self.loss, frozen=lambda path, leaf: path[0] == "base")
        where = fl.Execution(lanes=lanes, devices=1)
        run = fl.rounds(algorithm, sampler=fl.sampling.full(16), aggregator=fl.weighted_mean(), execution=where)
        adapter = (jnp.zeros((self.SIDE, self.RANK)), jnp.zeros((self.RANK, self.SIDE)))
        params = {"base": [jnp.zeros((self.SIDE, self.SIDE))] * 2, "lora": [adapter] * 2}
        people = fl.Population.from_arrays({"x": np.ones((32, self.SIDE), np.float32)}, client_ids=np.arange(32) // 2)
        key = jax.random.key(0)
        state, data = jax.eval_shape(lambda p: (run.init(params, p, key=key, noise_key=key), p), people)
        return run.lower(state, data).compile().memory_analysis()

    def test_lanes_share_one_base(self) -> None:
        one, eight = (self.memory(True, lanes).temp_size_in_bytes for lanes in (1, self.LANES))
        assert eight < 1.5 * self.BASE
        assert eight - one < 0.5 * self.BASE

    def test_a_trained_base_is_one_for_each_lane(self) -> None:
        assert self.memory(False, self.LANES).temp_size_in_bytes > self.LANES * self.BASE
