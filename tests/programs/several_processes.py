"""One of several processes that run the same rounds; prints a digest of the final model for each algorithm."""

import hashlib
import sys

import jax
from joining import join

process, num_processes, num_devices, port = map(int, sys.argv[1:5])
join(process, num_processes, num_devices, port)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

import fedjaxlite as fl  # noqa: E402
from fedjaxlite import algorithms  # noqa: E402


def loss_fn(params, batch, key):
    return (batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2


rng = np.random.default_rng(0)
owner = np.repeat(np.arange(12), rng.integers(1, 30, size=12))
x = rng.normal(size=(len(owner), 5)).astype(np.float32)
people = fl.Population.from_arrays({"x": x, "y": x @ np.arange(5, dtype=np.float32)}, client_ids=owner)
plain = algorithms.fed_avg(loss_fn, client_optimizer=optax.sgd(0.02), batch_size=8, epochs=2)


def counting(shared, count, data, key):
    return plain.client_update(shared, (), data, key)._replace(client_state=count + 1)


stateful = plain._replace(init_client=lambda params: jnp.int32(0), client_update=counting)
median = fl.chain(fl.mean(), fl.robust.nnm(f=1), fl.robust.median())
for name, algorithm, aggregator in (
    ("plain", plain, fl.weighted_mean()),
    ("stateful", stateful, fl.weighted_mean()),
    ("ruled", stateful, median),
):
    run = fl.rounds(
        algorithm,
        sampler=fl.sampling.uniform(6),
        aggregator=aggregator,
        execution=fl.Execution(lanes=2, deterministic=True),
    )
    state = run.init({"w": jnp.zeros(5), "b": jnp.float32(0)}, people, key=jax.random.key(1))
    state, _ = run.steps(state, people, 3)
    model = [np.asarray(leaf.addressable_data(0)) for leaf in jax.tree.leaves(run.params(state))]
    print(name, hashlib.sha256(b"".join(leaf.tobytes() for leaf in model)).hexdigest(), flush=True)

run = fl.rounds(
    plain,
    sampler=fl.sampling.uniform(6),
    aggregator=fl.chain(fl.mean(over=6), fl.privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0)),
    execution=fl.Execution(lanes=2, deterministic=True),
)
state = run.init({"w": jnp.zeros(5), "b": jnp.float32(0)}, people, key=jax.random.key(1))
state, _ = run.steps(state, people, 2)
model = [np.asarray(leaf.addressable_data(0)) for leaf in jax.tree.leaves(run.params(state))]
drawn = np.asarray(jax.random.key_data(fl.noise_keys(2).key))
plan = fl.plan(run, {"w": jnp.zeros(5), "b": jnp.float32(0)}, people, lanes_options=[1, 2], budget_seconds=1.0)
told = repr([(probe.lanes, probe.seconds_per_round, probe.compile_seconds) for probe in plan.probes]).encode()
print("noised", hashlib.sha256(b"".join([*(leaf.tobytes() for leaf in (*model, drawn)), told])).hexdigest(), flush=True)
