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
# # Quickstart: a federated run from data to curves
#
# A hundred clients hold handwritten digits, each its own mix of classes. You will see how unlike they are, train one
# model on all of them without moving an image, and then change one thing at a time: what crosses the wire, who takes
# part, how the server steps. It takes about a minute on two CPU cores; the digits come with scikit-learn, so nothing is
# downloaded.

# %%
# # %pip install "fedjaxlite[privacy]"  # in a clone of the repository: %pip install "..[privacy]"

# %%
# %matplotlib inline
import os
import tempfile

import jax
import numpy as np
import optax
from matplotlib.figure import Figure

import fedjaxlite as fl
from fedjaxlite import algorithms

try:
    fl.use_cpu_cores()  # on a CPU every core becomes a device; this comes before anything else in JAX
except RuntimeError:
    print("JAX has started in this kernel already: restart it to train on every core.")
platform = jax.default_backend()
print(f"fedjaxlite {fl.__version__}, jax {jax.__version__}: {jax.devices()}")
print("This runs on the CPU." if platform == "cpu" else f"This runs on an accelerator ({platform.upper()}).")

# %%
SMALL = bool(os.environ.get("FEDJAXLITE_SMALL"))  # the repository's tests run every notebook in seconds
NUM_CLIENTS, COHORT, HIDDEN = (12, 4, 16) if SMALL else (100, 10, 200)
NUM_ROUNDS = 5 if SMALL else 60

# %% [markdown]
# ## Data: who has what
#
# A *population* is arrays and an owner for each row. A partition decides on the owner: here every client draws its mix
# of classes from a Dirichlet distribution, and a small `alpha` makes mixes lopsided.

# %%
train, test = fl.datasets.load("digits", partition=fl.partition.dirichlet(NUM_CLIENTS, alpha=0.3, seed=0))
print(train)
print(fl.heterogeneity(train))

# %%
fl.plots.partition(train)

# %% [markdown]
# ## A run is four arguments
#
# The algorithm says what clients and server compute, the sampler who takes part in a round, the aggregator what crosses
# the wire, and `execution` (left at its default here) on what it runs. `fl.rounds` composes them into pure functions.

# %%
model = fl.models.mlp(features=(HIDDEN, HIDDEN, 10), input_shape=(8, 8, 1))
algorithm = algorithms.fed_avg(fl.losses.cross_entropy(model), client_optimizer=optax.sgd(0.1), batch_size=10, epochs=5)
rounds = fl.rounds(algorithm, sampler=fl.sampling.uniform(COHORT), aggregator=fl.weighted_mean())
params = model.init(jax.random.key(0))
state = rounds.init(params, train, key=jax.random.key(1))

# %% [markdown]
# One call is one round, and what comes out is a new state: nothing is changed in place. `info` says what happened.

# %%
state, info = rounds.step(state, train)
print("round", int(state.round), "| reported", int(info.num_reported), "| examples", int(info.num_examples))
print(f"mean training loss {float(info.metrics['loss']):.3f}")
print("bytes of one client:", rounds.traffic(params, train))

# %% [markdown]
# Many rounds go in one dispatch: the loop, sampling included, is part of the compiled program.

# %%
state, infos = rounds.steps(state, train, 3)
print("losses of three rounds:", np.asarray(infos.metrics["loss"]).round(3))

# %% [markdown]
# `fl.train` is the loop around it: evaluation, records, and files where a folder is given. Note that `num_rounds`
# counts from the beginning of the run, so this goes on where the cell above stopped.

# %%
accuracy = fl.evaluate(model, test)
history = fl.train(rounds, state, train, num_rounds=NUM_ROUNDS, evaluate=accuracy, progress=False)
{name: history.records[-1][name] for name in ("round", "reported", "bytes_up", "test_accuracy")}

# %%
fl.plots.curves({"FedAvg": history.records})

# %% [markdown]
# ## One axis at a time
#
# Updates of eight bits instead of 32 (the clip gives the quantizer its range; what clients download stays as it was); a
# third of the clients never reporting back; another optimizer on the server. Each is one argument, and nothing else in
# the program changes.


# %%
def run_with(algorithm=algorithm, sampler=None, aggregator=None):
    sampler = sampler or fl.sampling.uniform(COHORT)
    rounds = fl.rounds(algorithm, sampler=sampler, aggregator=aggregator or fl.weighted_mean())
    state = rounds.init(params, train, key=jax.random.key(1))
    return fl.train(rounds, state, train, num_rounds=NUM_ROUNDS, evaluate=accuracy, progress=False).records


eight_bits = fl.chain(fl.weighted_mean(weight_cap=500), fl.clip_by_global_norm(10.0), fl.quantize(bits=8))
adam = algorithms.fed_adam(
    fl.losses.cross_entropy(model), client_optimizer=optax.sgd(0.1), server_lr=0.02, batch_size=10, epochs=5
)
runs = {
    "FedAvg": run_with(),
    "8 bits": run_with(aggregator=eight_bits),
    "a third drops out": run_with(sampler=fl.sampling.uniform(COHORT, dropout=1 / 3)),
    "FedAdam": run_with(adam),
}

# %%
figure = Figure(figsize=(13, 4), layout="constrained")
left, right = figure.subplots(1, 2)
fl.plots.curves(runs, axes=left)
fl.plots.accuracy_against_bytes(runs, axes=right)
left.get_legend().remove()  # one for both
figure

# %% [markdown]
# ## Who is served, and who is not
#
# An average hides clients. The same model, tested at every client on that client's own examples:

# %%
report = fl.evaluate_clients(model, train)(history.state.params)
summary = report.summary()
print({name: round(summary[f"accuracy{name}"], 3) for name in ("_mean", "_worst10", "_best10", "_gini")})
fl.plots.clients({"FedAvg": report})

# %% [markdown]
# ## Killed and resumed
#
# With a folder, `fl.train` keeps records and checkpoints. A run that stops halfway and goes on ends with the same bits
# as one that never stopped, since a state holds everything: model, client states, keys, the round.

# %%
start = rounds.init(params, train, key=jax.random.key(1))
with tempfile.TemporaryDirectory() as folder:
    common = {"out_dir": folder, "checkpoint_every": 2, "progress": False}
    fl.train(rounds, start, train, num_rounds=2, **common)
    resumed = fl.train(rounds, start, train, num_rounds=4, resume=True, **common)
straight = fl.train(rounds, start, train, num_rounds=4, progress=False)
same = jax.tree.map(lambda a, b: bool((a == b).all()), resumed.state.params, straight.state.params)
print("the same bits:", all(jax.tree.leaves(same)))

# %% [markdown]
# ## Where to go next
#
# - [Your own data, model and algorithm](02_your_own.ipynb)
# - [Federated averaging, step by step](03_federated_averaging.ipynb)
# - [All algorithms](../docs/algorithms.md), and what their papers' claims come to when run again
# - [Execution: lanes, devices, memory](../docs/execution.md)
# - [Privacy](../docs/privacy.md)
