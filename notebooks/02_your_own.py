# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own data, model and algorithm
#
# You will read a CSV file into a population, train a flax.nnx module of your own on it, write an algorithm in 25 lines,
# and hold it to the laws that the built-in algorithms are held to; then see what a law says about an algorithm with a
# bug that no accuracy curve would show. It takes about a minute on two CPU cores and needs no data.

# %%
# # %pip install "fedjaxlite[privacy]"  # in a clone of the repository: %pip install "..[privacy]"

# %%
# %matplotlib inline
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from matplotlib.figure import Figure

import fedjaxlite as fl
from fedjaxlite import algorithms, testing

try:
    fl.use_cpu_cores()  # on a CPU every core becomes a device; this comes before anything else in JAX
except RuntimeError:
    print("JAX has started in this kernel already: restart it to train on every core.")
platform = jax.default_backend()
print(f"fedjaxlite {fl.__version__}, jax {jax.__version__}: {jax.devices()}")
print("This runs on the CPU." if platform == "cpu" else f"This runs on an accelerator ({platform.upper()}).")

# %%
SMALL = bool(os.environ.get("FEDJAXLITE_SMALL"))  # the repository's tests run every notebook in seconds
NUM_CLINICS, COHORT, NUM_ROUNDS = (8, 4, 4) if SMALL else (40, 10, 60)
LAWS = ("padding", "steps") if SMALL else tuple(testing.LAWS)

# %% [markdown]
# ## Data: a CSV file
#
# Forty clinics of very different sizes measure patients. The file is made up here, so that there is one; with a file of
# your own, start at the next cell. Clinics differ in two ways: in whom they see (the distribution of `age`) and in a
# shift of their instrument.

# %%
rng = np.random.default_rng(0)
rows = []
for clinic in range(NUM_CLINICS):
    count = int(np.clip(rng.lognormal(3.3, 0.8), 6, 300))
    age, dose = rng.normal(35 + 30 * rng.random(), 10, count), rng.uniform(0, 2, count)
    response = np.tanh(dose) * (80 - age) / 20 + 0.3 * rng.normal() + 0.2 * rng.normal(size=count)
    rows += [f"clinic-{clinic:02d},{a:.1f},{d:.2f},{r:.3f}" for a, d, r in zip(age, dose, response, strict=True)]
folder = tempfile.TemporaryDirectory()
path = Path(folder.name) / "patients.csv"
path.write_text("clinic,age,dose,response\n" + "\n".join(rows) + "\n")
print("\n".join(path.read_text().splitlines()[:4]))

# %% [markdown]
# NumPy reads it, and a population takes it: one array per feature, and one owner per row. Owners may be strings. What
# cannot be right (missing values, arrays of different lengths) is refused here, and the message says in which row.

# %%
table = np.genfromtxt(path, delimiter=",", names=True, dtype=None, encoding="utf-8")
x = np.stack([(table["age"] - 50) / 15, table["dose"] - 1], axis=1)
clinics = fl.Population.from_arrays({"x": x, "y": table["response"]}, client_ids=table["clinic"])
train, test = fl.partition.train_test_split(clinics, test_fraction=0.3, seed=0)
print(clinics)
print("the first clinic:", clinics.names[0], {name: array.shape for name, array in clinics.client(0).items()})

# %%
try:
    fl.Population.from_arrays({"x": np.where(x > 1.9, np.nan, x)}, client_ids=table["clinic"])
except ValueError as error:
    print(error)

# %% [markdown]
# ## Model: a flax.nnx module
#
# Any module will do. `from_nnx` gives it the library's form: `init(key) -> params` and `apply(params, x)`, both pure. A
# loss is a function of parameters, a batch and a key that gives *one loss per example*; padding is masked for you.


# %%
class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(2, 32, rngs=rngs)
        self.out = nnx.Linear(32, 1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.out(nnx.tanh(self.hidden(x)))[:, 0]


model = fl.models.from_nnx(Net, input_shape=(2,))


def loss_fn(params: Any, batch: Any, key: Any) -> Any:
    error = model.apply(params, batch["x"]) - batch["y"]
    return error**2, fl.LossAux(metrics={"absolute_error": jnp.abs(error)})


params = model.init(jax.random.key(0))
print("parameters:", fl.models.num_params(params))

# %% [markdown]
# ## Algorithm: 25 lines
#
# An algorithm is a NamedTuple of pure functions. Suppose that no clinic shall move the model further than any other,
# however much data it has: every client sends only the *direction* in which its model went, as a vector of length one,
# and the server goes a step of its own along the mean direction, with momentum.


# %%
class Server(NamedTuple):
    params: Any
    velocity: Any


def fed_direction(loss_fn, *, client_optimizer, step_size, momentum=0.5, batch_size=10, epochs=1):
    train = fl.local_sgd(loss_fn, client_optimizer=client_optimizer, batch_size=batch_size, epochs=epochs)

    def init(params):
        return Server(params, jax.tree.map(jnp.zeros_like, params))

    def client_update(shared, client_state, data, key):
        result = train(shared, data)
        squares = sum(jnp.vdot(d, d) for d in jax.tree.leaves(result.delta))
        shrink = jax.lax.rsqrt(squares + 1e-12)  # has a derivative at zero too, where a client has no data
        direction = jax.tree.map(lambda d: d * shrink, result.delta)
        return fl.ClientOutput(direction, weight=1.0, info=result.metrics)

    def server_update(server, aggregate, key):
        velocity = jax.tree.map(lambda v, d: momentum * v + d, server.velocity, aggregate.value)
        params = jax.tree.map(lambda p, v: p - step_size * v, server.params, velocity)
        return Server(params, velocity)

    hparams = {"step_size": step_size, "momentum": momentum, "batch_size": batch_size, "epochs": epochs}
    return fl.Algorithm(init, client_update, server_update, name="fed_direction", hparams=hparams)


# %% [markdown]
# It runs like the others, with any sampler, aggregator and execution. Each clinic is tested on its own held-out
# patients; the curve is the mean over patients.

# %%
local = {"client_optimizer": optax.sgd(0.05), "batch_size": 10, "epochs": 2}
methods = {
    "FedAvg": algorithms.fed_avg(loss_fn, **local),
    "directions": fed_direction(loss_fn, step_size=0.1, **local),
}
evaluate = fl.evaluate_clients(loss_fn, test)
records, reports = {}, {}
for name, algorithm in methods.items():
    rounds = fl.rounds(algorithm, sampler=fl.sampling.uniform(COHORT), aggregator=fl.weighted_mean())
    state = rounds.init(params, train, key=jax.random.key(1))
    history = fl.train(rounds, state, train, num_rounds=NUM_ROUNDS, evaluate=evaluate, progress=False)
    records[name], reports[name] = history.records, evaluate(history.state.params)

# %%
figure = Figure(figsize=(13, 4), layout="constrained")
left, right = figure.subplots(1, 2)
fl.plots.curves(records, metric="test_absolute_error", axes=left)
fl.plots.clients(reports, metric="absolute_error", axes=right)
figure

# %% [markdown]
# Federated averaging gets there sooner and goes on jumping; directions take more rounds and are steadier, since no
# clinic can pull further than another.
#
# ## Laws
#
# A simulator may lie: results that change with the number of lanes or devices, padding that leaks into a client's
# update, a run that resumes differently. `testing.check_algorithm` holds an algorithm to laws against all of these, on
# a small ragged population with spare slots, dropouts and stragglers. It raises at the first broken law.

# %%
some = clinics.select(range(6))
mine = fed_direction(loss_fn, step_size=0.1, client_optimizer=optax.sgd(0.05), batch_size=4, epochs=1)
testing.check_algorithm(mine, params, some, laws=LAWS, num_rounds=2)
print("held to:", ", ".join(LAWS))

# %% [markdown]
# Here is a bug of a kind that is easy to write: weights relative to the largest client *that happens to be trained
# beside this one*. It trains, the curve looks fine, and the numbers depend on the machine.


# %%
def with_relative_weights(algorithm):
    def client_update(shared, client_state, data, key):
        output = algorithm.client_update(shared, client_state, data, key)
        beside = data.wave.num_examples  # the sizes of the clients in the lanes beside this one
        return output._replace(weight=data.num_examples / beside.max())

    return algorithm._replace(client_update=client_update)


try:
    testing.check_algorithm(with_relative_weights(mine), params, some, laws=("layout",))
except AssertionError as error:
    print(error)

# %% [markdown]
# ## Where to go next
#
# - [Federated averaging, step by step](03_federated_averaging.ipynb): what `fl.rounds` does with these functions
# - [Algorithms](../docs/algorithms.md): each is one file like the cell above
# - [Large models](../docs/large_models.md): bfloat16, rematerialization, micro-batches, LoRA
