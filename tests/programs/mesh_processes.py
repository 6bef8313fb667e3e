"""One of several processes of a mesh whose model axis runs across them; prints a digest of model and client states."""

import hashlib
import sys

import jax
from joining import join

process, num_processes, port = map(int, sys.argv[1:4])
join(process, num_processes, 4 // num_processes, port)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

import fedjaxlite as fl  # noqa: E402
from fedjaxlite import algorithms  # noqa: E402


def loss_fn(params, batch, key):
    return (jnp.tanh(batch["x"] @ params["w"]) @ params["v"] - batch["y"]) ** 2


rng = np.random.default_rng(0)
owner = np.repeat(np.arange(12), rng.integers(1, 30, size=12))
x = rng.normal(size=(len(owner), 8)).astype(np.float32)
people = fl.Population.from_arrays({"x": x, "y": x @ np.arange(8, dtype=np.float32)}, client_ids=owner)
# A row of the mesh is one device of each process: clients are trained by both together.
mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(2, 2).T, ("clients", "model"))
execution = fl.Execution(
    lanes=2,
    mesh=mesh,
    deterministic=True,
    param_shardings={"w": jax.P(None, "model"), "v": jax.P("model")},
)
run = fl.rounds(
    algorithms.scaffold(loss_fn, client_lr=0.01, batch_size=8, epochs=2, num_clients=12),
    sampler=fl.sampling.uniform(6),
    aggregator=fl.weighted_mean(),
    execution=execution,
)
params = {"w": rng.normal(size=(8, 16)).astype(np.float32), "v": rng.normal(size=16).astype(np.float32)}
state = run.init(params, people, key=jax.random.key(1))
state, info = run.steps(state, people, 3)
(piece, *_) = state.clients.algorithm["w"].addressable_shards
assert piece.data.shape == (6, 8, 8), piece.data.shape
everywhere = jax.NamedSharding(mesh, jax.P())
whole = jax.jit(lambda tree: tree, out_shardings=everywhere)((run.params(state), state.clients.algorithm))
leaves = [np.asarray(leaf.addressable_data(0)) for leaf in jax.tree.leaves(whole)]
assert all(np.isfinite(leaf).all() for leaf in leaves)
print("digest", hashlib.sha256(b"".join(leaf.tobytes() for leaf in leaves)).hexdigest(), flush=True)
